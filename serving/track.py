"""Follows a moving camera through its frames: a particle filter over the places that each frame names.

Pure: plain values in, plain values out, memory that does not grow. Knows nothing of images or services.

The model. A particle is a position, a course and a speed. Between frames it moves: by the odometry where
there is some, otherwise as vehicles do. A frame says "at one of these places, each a round Gaussian, unless I
am mistaken" (`Sighting`), and being mistaken it says nothing about where the camera is. Consecutive frames
see the same façades and are mistaken together, so a frame counts for less than it would alone (`EVIDENCE`). A
small share of new particles is born where a frame says the camera is; they weigh what a jump of the camera
weighs, and take over only when the frames after agree with them: so a track that has gone wrong, or a
passenger who changed trains, is found again. (Thrun, Burgard, Fox: Probabilistic Robotics, chapter 8.3,
augmented Monte Carlo localization.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import InvalidRequest
from serving.fuse import MIN_PROBABILITY, Status
from serving.plane import lnglat_at, xy_of
from tiling.grid import LngLat

Floats = NDArray[np.float64]

PARTICLES = 3000
BORN_SHARE = 0.05
# Particles are drawn anew in proportion to this power of their weight and keep the rest of it. In proportion
# to the weight itself, none of those just born would live to see the next frame: a wrong track stayed wrong.
DRAWN = 0.25

# A frame's places hold the camera unless it is mistaken; then the camera is anywhere in CITY_M2.
MISTAKEN = {Status.LOCALIZED: 0.05, Status.AMBIGUOUS: 0.3}
CITY_M2 = 4.0e6
JUMP = 1.0e-4  # probability that the camera has jumped between two frames
EVIDENCE = {Status.LOCALIZED: 0.5, Status.AMBIGUOUS: 0.25}  # exponent of a frame's likelihood
SHARED_ERROR = (
    0.6  # part of a frame's position error that its neighbours share, so that averaging does not remove it
)

NEAR_M = 25.0  # what counts as one place
# LOCALIZED takes this much of what the last frames, each by itself, believe: an exponential mean over them,
# which fades with every frame that recognises nothing.
MIN_SUPPORT = 0.35
SUPPORT_GAIN = 0.3
BLIND_LOSS = 0.1
FORGET_S = 60.0
LOST_S, LOST_M = 15.0, 500.0
REANCHOR_M = 5_000.0

FASTEST_M_PER_S = 45.0
SPEED_CHANGE_M_PER_S2 = 1.5
DRIFT_DEG = 8.0  # of the course, over one second of driving
TURN_SHARE, TURN_DEG = 0.15, 60.0  # now and then a vehicle turns
WOBBLE_M = 0.3  # of the position, over one second


@dataclass(frozen=True, kw_only=True, slots=True)
class Odometry:
    """How the camera moved since the frame before.

    Raises:
        InvalidRequest: not finite, or outside its limits.
    """

    distance_m: float
    distance_sigma_m: float | None = None
    """Standard deviation; None: 5 % of the distance, at least 0.3 m."""
    course_deg: float | None = None
    """Mean direction from true north; None: unknown."""
    course_sigma_deg: float = 5.0

    def __post_init__(self) -> None:
        _check("distance_m", self.distance_m, 0.0 <= self.distance_m <= 100_000.0, "0 to 100,000 metres")
        if self.distance_sigma_m is not None:
            fits = 0.0 < self.distance_sigma_m <= 100_000.0
            _check("distance_sigma_m", self.distance_sigma_m, fits, "metres above 0")
        if self.course_deg is not None:
            _check("course_deg", self.course_deg, math.isfinite(self.course_deg), "degrees from true north")
        fits = 0.0 < self.course_sigma_deg <= 180.0
        _check("course_sigma_deg", self.course_sigma_deg, fits, "degrees above 0, at most 180")

    @property
    def sigma_m(self) -> float:
        """Standard deviation of the distance."""
        return self.distance_sigma_m or max(0.3, 0.05 * self.distance_m)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What one frame says by itself."""

    status: Status
    positions: Sequence[LngLat]
    probabilities: Sequence[float]
    sigma_m: float
    """Standard deviation per axis of a position, when the place is right."""

    @property
    def is_usable(self) -> bool:
        """Whether it says anything about the place."""
        return self.status in MISTAKEN and bool(self.positions)


NOTHING_SEEN = Sighting(status=Status.NO_CONFIDENT_MATCH, positions=(), probabilities=(), sigma_m=1.0)
"""A frame that cannot be used: time and odometry count all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackPoint:
    """Where the camera is, all frames so far considered."""

    status: Status
    position: LngLat
    probability: float
    """Of being within NEAR_M of the position."""
    r68_m: float
    r95_m: float
    course_deg: float | None
    used_frames: int


class Track:
    """One camera; frames come in the order in which they were taken."""

    def __init__(self, *, seed: int = 0, particles: int = PARTICLES) -> None:
        self._dice = np.random.default_rng(seed)
        self._count = particles
        self._cloud: _Cloud | None = None
        self._time_s: float | None = None
        self._used_s = -math.inf
        self._support = 0.0
        self._contradicted = False
        self._used_frames = 0
        self._last: Sighting | None = None

    def advance(
        self, time_s: float, sighting: Sighting, odometry: Odometry | None = None
    ) -> TrackPoint | None:
        """The estimate after one more frame; None while nothing was recognised, or not for long.

        Raises:
            InvalidRequest: the time is not later than that of the frame before.
        """
        self.check_time(time_s)
        elapsed_s = time_s - self._time_s if self._time_s is not None else 0.0
        self._time_s = time_s
        if self._cloud is not None:
            self._cloud.move(elapsed_s, odometry, self._dice)
            if time_s - self._used_s > LOST_S and self._is_lost(time_s, self._cloud.r95_m()):
                self._forget()
        if sighting.is_usable:
            self._see(time_s, sighting)
        return self._estimate(time_s, sighting)

    def check_time(self, time_s: float) -> None:
        """Refuse a frame that does not come after the one before.

        Raises:
            InvalidRequest: its time is not later.
        """
        if self._time_s is not None and not time_s > self._time_s:
            raise InvalidRequest(
                "capture_time", "is not later than that of the frame before", "send frames in order"
            )

    def _see(self, time_s: float, sighting: Sighting) -> None:
        self._used_s, self._last = time_s, sighting
        self._used_frames += 1
        if self._cloud is None:
            self._cloud, self._support = _Cloud.born_at(sighting, self._count, self._dice), 1.0
        else:
            self._cloud.weigh(sighting, self._dice)

    def _estimate(self, time_s: float, sighting: Sighting) -> TrackPoint | None:
        if self._cloud is None or self._last is None:
            return None
        position = self._cloud.position()
        self._weigh_support(sighting, position)
        point = self._cloud.summary(position, self._last, 1.0 - self._support, self._dice)
        if self._is_lost(time_s, point.r95_m):
            self._forget()
            return None
        return TrackPoint(
            status=self._judge(sighting, point.probability),
            position=position,
            probability=point.probability,
            r68_m=point.r68_m,
            r95_m=point.r95_m,
            course_deg=point.course_deg,
            used_frames=self._used_frames,
        )

    def _is_lost(self, time_s: float, r95_m: float) -> bool:
        """Whether too little is known, or known for too long, to go on from."""
        blind_s = time_s - self._used_s
        return blind_s > FORGET_S or (blind_s > LOST_S and r95_m > LOST_M)

    def _forget(self) -> None:
        self._cloud, self._last, self._used_frames = None, None, 0

    def _weigh_support(self, sighting: Sighting, position: LngLat) -> None:
        """How far the last frames, each by itself, believe in the estimate."""
        if not sighting.is_usable:
            self._support *= 1.0 - BLIND_LOSS
            return
        mass = _mass_near(sighting, position)
        self._support += SUPPORT_GAIN * (mass - self._support)
        if sighting.status is Status.LOCALIZED or mass >= 0.5:
            self._contradicted = mass < 0.5

    def _judge(self, sighting: Sighting, probability: float) -> Status:
        """No more than both the particles and the last frames by themselves allow to claim."""
        if probability >= MIN_PROBABILITY and self._support >= MIN_SUPPORT and not self._contradicted:
            return Status.LOCALIZED
        return Status.AMBIGUOUS if sighting.is_usable or self._support >= MIN_SUPPORT else sighting.status


@dataclass(frozen=True, kw_only=True, slots=True)
class _Summary:
    probability: float
    r68_m: float
    r95_m: float
    course_deg: float | None


class _Cloud:
    """N weighted particles on a plane that touches the Earth near them."""

    def __init__(self, *, anchor: LngLat, xy_m: Floats, dice: np.random.Generator) -> None:
        count = len(xy_m)
        self._anchor = anchor
        self._xy_m = xy_m  # (N, 2) east and north of the anchor
        self._weights = np.full(count, 1.0 / count)  # (N,)
        self._course_rad = dice.uniform(0.0, 2.0 * np.pi, count)  # (N,)
        self._speed_m_per_s = dice.exponential(6.0, count)  # (N,)

    @classmethod
    def born_at(cls, sighting: Sighting, count: int, dice: np.random.Generator) -> _Cloud:
        """Particles spread as the frame says."""
        anchor = sighting.positions[0]
        centres, shares = _places(sighting, anchor)
        return cls(anchor=anchor, xy_m=_drawn(centres, shares, sighting.sigma_m, count, dice), dice=dice)

    def move(self, elapsed_s: float, odometry: Odometry | None, dice: np.random.Generator) -> None:
        """Every particle drives on, each in its own way."""
        count = len(self._xy_m)
        calm = math.sqrt(elapsed_s)
        turning = dice.random(count) < TURN_SHARE
        spread_rad = math.radians(DRIFT_DEG) * calm + math.radians(TURN_DEG) * turning
        self._course_rad = self._course_rad + dice.normal(size=count) * spread_rad
        if odometry is None:
            change = dice.normal(size=count) * SPEED_CHANGE_M_PER_S2 * elapsed_s
            self._speed_m_per_s = np.clip(np.abs(self._speed_m_per_s + change), 0.0, FASTEST_M_PER_S)
            distance_m = self._speed_m_per_s * elapsed_s
        else:
            distance_m = odometry.distance_m + dice.normal(size=count) * odometry.sigma_m
            self._speed_m_per_s = np.clip(distance_m / max(elapsed_s, 1e-3), 0.0, FASTEST_M_PER_S)
            if odometry.course_deg is not None:
                off_rad = dice.normal(size=count) * math.radians(odometry.course_sigma_deg)
                self._course_rad = math.radians(odometry.course_deg) + off_rad
        step = np.column_stack([np.sin(self._course_rad), np.cos(self._course_rad)]) * distance_m[:, None]
        self._xy_m = self._xy_m + step + dice.normal(size=(count, 2)) * WOBBLE_M * calm
        self._reanchor()

    def weigh(self, sighting: Sighting, dice: np.random.Generator) -> None:
        """Let some be born where the frame says, weigh all by how well the frame fits, draw anew."""
        centres, shares = _places(sighting, self._anchor)
        born = round(BORN_SHARE * len(self._xy_m))
        kept = len(self._xy_m) - born
        rows = _resampled(self._weights**DRAWN, kept, dice)
        carried = self._weights[rows] ** (1.0 - DRAWN)
        self._take(rows, _drawn(centres, shares, sighting.sigma_m, born, dice), dice)
        mistaken = MISTAKEN[sighting.status]
        density = _density(self._xy_m, centres, shares, sighting.sigma_m)  # (N,)
        # Relative to knowing nothing:
        fit = ((1.0 - mistaken) * density * CITY_M2 + mistaken) ** EVIDENCE[sighting.status]
        # Importance weights: what moved is drawn from the motion; what was born is drawn from the frame
        # itself, while a jump ends anywhere in the city.
        drawn_from = np.maximum(density[kept:] * CITY_M2, 1e-12)
        prior = np.concatenate([(1.0 - JUMP) * carried / carried.sum(), JUMP / born / drawn_from])
        weights = prior * fit
        self._weights = weights / weights.sum()

    def position(self) -> LngLat:
        """The place that holds most of the weight."""
        return lnglat_at(self._densest(), self._anchor)

    def r95_m(self) -> float:
        """Radius around the position that holds 95 % of the particles."""
        away_m = np.linalg.norm(self._xy_m - self._densest(), axis=1)
        return _quantiles(away_m, self._weights, (0.95,))[0]

    def summary(self, position: LngLat, last: Sighting, doubt: float, dice: np.random.Generator) -> _Summary:
        """Radii around the position that hold all particles and, as far as the track is in doubt, all places
        of the last frame that was recognised.

        The particles alone would grow sure of a wrong place that few frames speak for, when the others speak
        for many places at once.
        """
        xy_m = self._xy_m - xy_of([position], self._anchor)
        near = np.linalg.norm(xy_m, axis=1) <= NEAR_M
        shaken_m = xy_m + dice.normal(size=xy_m.shape) * SHARED_ERROR * last.sigma_m
        elsewhere_m, shares = _places(last, position)
        away_m = np.linalg.norm(np.concatenate([shaken_m, elsewhere_m]), axis=1)
        weights = np.concatenate([(1.0 - doubt) * self._weights, doubt * shares])
        r68_m, r95_m = _quantiles(away_m, weights, (0.68, 0.95))
        here = float(self._weights[near].sum())
        return _Summary(
            probability=(1.0 - doubt) * here + doubt * _mass_near(last, position),
            r68_m=r68_m,
            r95_m=r95_m,
            course_deg=_mean_course_deg(self._course_rad[near], self._weights[near]),
        )

    def _take(self, rows: NDArray[np.intp], born_xy_m: Floats, dice: np.random.Generator) -> None:
        count = len(born_xy_m)
        self._xy_m = np.concatenate([self._xy_m[rows], born_xy_m])
        courses = dice.uniform(0.0, 2.0 * np.pi, count)
        speeds = dice.permutation(self._speed_m_per_s)[:count]
        self._course_rad = np.concatenate([self._course_rad[rows], courses])
        self._speed_m_per_s = np.concatenate([self._speed_m_per_s[rows], speeds])

    def _densest(self) -> Floats:
        """Mean of the particles around the heaviest cell of NEAR_M, (2,); three steps of mean shift."""
        cells = np.floor(self._xy_m / NEAR_M).astype(np.int64) @ [1 << 32, 1]  # one number for each cell
        _, owner = np.unique(cells, return_inverse=True)
        mass = np.bincount(owner, weights=self._weights)
        inside = owner == int(mass.argmax())
        centre = np.average(self._xy_m[inside], axis=0, weights=self._weights[inside])
        for _ in range(3):
            near = np.linalg.norm(self._xy_m - centre, axis=1) <= NEAR_M
            centre = np.average(self._xy_m[near], axis=0, weights=self._weights[near])
        return np.asarray(centre)

    def _reanchor(self) -> None:
        """Keep the plane near the particles; it is exact to 0.1 % within REANCHOR_M."""
        centre = np.average(self._xy_m, axis=0, weights=self._weights)
        if np.linalg.norm(centre) <= REANCHOR_M:
            return
        moved = lnglat_at(centre, self._anchor)
        self._anchor, self._xy_m = moved, self._xy_m - centre


def _places(sighting: Sighting, anchor: LngLat) -> tuple[Floats, Floats]:
    """The frame's places on the plane (P, 2) and their shares (P,), which add up to one."""
    shares = np.asarray(sighting.probabilities, dtype=np.float64)
    return xy_of(sighting.positions, anchor), shares / shares.sum()


def _drawn(centres: Floats, shares: Floats, sigma_m: float, count: int, dice: np.random.Generator) -> Floats:
    chosen = dice.choice(len(centres), size=count, p=shares)
    return np.asarray(centres[chosen] + dice.normal(size=(count, 2)) * sigma_m)


def _density(xy_m: Floats, centres: Floats, shares: Floats, sigma_m: float) -> Floats:
    """Of the frame's places at each of (N, 2) positions, per square metre."""
    away = np.linalg.norm(xy_m[:, None] - centres[None], axis=2)  # (N, P)
    return np.asarray(np.exp(-0.5 * (away / sigma_m) ** 2) @ shares / (2.0 * np.pi * sigma_m**2))


def _resampled(weights: Floats, count: int, dice: np.random.Generator) -> NDArray[np.intp]:
    """Systematic resampling: rows in proportion to their weights."""
    steps = (dice.random() + np.arange(count)) / count
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative / cumulative[-1], steps).clip(0, len(weights) - 1)


def _quantiles(values: Floats, weights: Floats, shares: Sequence[float]) -> tuple[float, ...]:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return tuple(float(value) for value in np.interp(shares, cumulative, values[order]))


def _mean_course_deg(course_rad: Floats, weights: Floats) -> float | None:
    """Circular mean; None when the particles do not agree."""
    if not weights.sum() > 0.0:
        return None
    mean = np.average(np.exp(1j * course_rad), weights=weights)
    return float(np.degrees(np.angle(mean)) % 360.0) if abs(mean) > 0.8 else None


def _mass_near(sighting: Sighting, position: LngLat) -> float:
    """What a frame by itself gives the places near the estimate."""
    away_m = np.linalg.norm(xy_of(sighting.positions, position), axis=1)
    return float(np.asarray(sighting.probabilities)[away_m <= NEAR_M].sum())


def _check(field: str, value: float, fits: bool, remedy: str) -> None:
    if not fits:
        raise InvalidRequest(f"odometry.{field}", f"is {value}", f"give {remedy}")
