"""Fuses search scores with priors into a posterior, and reads places, radii and a status off it.

Pure: plain values in, plain values out. Knows nothing of images, stores or services.

The model. Every retrieved patch is a candidate for "the patch that holds the camera". Its likelihood is
Σ_headings exp(similarity / temperature), its prior weight comes from the SOFT position prior, and the
posterior is their normalised product. Patches overlap, so one place lights up several neighbours: each patch
belongs to the peak that steepest ascent over neighbouring patches leads to, and the position is the
posterior-weighted mean around the peak, which falls between patch centres. (On synthetic scores at a stride
of 25 m the mean is within 2 m of the truth and a least-squares fit of the Gaussian that training asks for is
exact; with noise of 1.5 in the log posterior both are off by 7 m, beyond that the fit is the worse one.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from clnet_model.calibration import ViewCalibration, error_quantiles
from clnet_model.turning import heading_difference_deg, refined_heading
from spatial_index.geodesy import distances_m
from spatial_index.priors import Prior, PriorMode, hard_part
from spatial_index.records import PatchHit
from spatial_index.weights import Places, contains, log_weights, places_of
from tiling.grid import WORLD_M, LngLat, lnglat_at, mercators_at

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

# Patches this close on the ground speak of one place: the eight neighbours at a stride of 13 m. On coarser
# grids it is the eight neighbours (1, √2 strides) whatever their distance.
NEIGHBOUR_M = 20.0
NEIGHBOUR_STRIDES = 1.6

# A SOFT prior is right with probability 0.98 or so; when it is wrong the camera is anywhere in the city. With
# a 100 m circle in 4 km² a place outside weighs 0.02 · 2π (100 m / 2.45)² / 4 km² = e^-9.9 of the centre.
PRIOR_FLOOR = -10.0

SUPPORTING_PATCHES = 9  # a peak and its eight neighbours

# Places that hold less than this together are left out, unless they are asked for: radii hold 68 and 95 %.
NEGLIGIBLE = 1e-5

# Below this probability of the best place the answer is AMBIGUOUS.
MIN_PROBABILITY = 0.8

# 24 headings retrieve up to 1,536 patches; those behind the 256 best hold no probability to speak of.
MAX_EVIDENCE = 256

# The error around a place as 64 equally likely points: radii at the quantiles of the errors that calibration
# met, angles by the golden ratio. Headings that are off lie to both sides in turn.
_SPREAD = 64
_QUANTILES = (np.arange(_SPREAD) + 0.5) / _SPREAD
_ANGLES = np.arange(_SPREAD) * np.pi * (3.0 - np.sqrt(5.0))
_ALONG: Floats = np.cos(_ANGLES)  # (64,)
_ACROSS: Floats = np.sin(_ANGLES)  # (64,)
_SIDES: Floats = np.where(np.arange(_SPREAD) % 2, -1.0, 1.0)  # (64,)


class Status(Enum):
    """How far the hypotheses may be trusted."""

    LOCALIZED = "localized"
    AMBIGUOUS = "ambiguous"
    NO_CONFIDENT_MATCH = "no confident match"
    OUT_OF_COVERAGE = "out of coverage"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedPatch:
    """A retrieved patch with its share of the posterior."""

    hit: PatchHit
    similarity: float
    """Cosine similarity at the best heading tried."""
    probability: float
    heading_deg: float
    """The heading at which the similarity is highest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One place where the camera may have stood."""

    position: LngLat
    probability: float
    r68_m: float
    """Holds the camera with 68 % probability, all hypotheses considered."""
    r95_m: float
    heading_deg: float
    heading_r68_deg: float
    """Holds the heading, to either side, with 68 % probability, all places and headings considered."""
    patches: tuple[RankedPatch, ...]
    """The supporting patches, best first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """What the evidence says."""

    status: Status
    hypotheses: tuple[Hypothesis, ...]
    patches: tuple[RankedPatch, ...]
    """All retrieved patches by descending probability."""
    prior_conflict: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """Similarities of K retrieved patches at the R headings tried."""

    hits: tuple[PatchHit, ...]
    similarities: Floats
    """(K, R), -inf where the patch was not retrieved at that heading."""
    headings_deg: Floats
    """(R,)"""

    def rows(self, chosen: Ints) -> Evidence:
        """The same about some of the patches, in the order given."""
        return replace(
            self, hits=tuple(self.hits[row] for row in chosen), similarities=self.similarities[chosen]
        )


def fuse(
    evidence: Evidence,
    *,
    prior: Prior | None,
    calibration: ViewCalibration,
    max_hypotheses: int,
    heading_accuracy_deg: float = 180.0,
) -> Fusion:
    """Posterior over the patches, places by descending probability, radii and status.

    `heading_accuracy_deg`: half-width of the headings that were possible beforehand.
    """
    evidence = allowed(evidence, prior)
    if not evidence.hits:
        return Fusion(status=Status.OUT_OF_COVERAGE, hypotheses=(), patches=(), prior_conflict=False)
    log_odds = log_odds_of(evidence, prior, calibration.temperature)  # (K,)
    best = np.argsort(-log_odds, kind="stable")[:MAX_EVIDENCE]
    evidence, posterior = evidence.rows(best), normalised(log_odds[best])
    patches = rank(evidence, posterior)
    places = find_places(evidence, posterior, at_least=max_hypotheses)
    headings = heading_weights(evidence, posterior, calibration.temperature)  # (R,)
    hypotheses = [
        Hypothesis(
            position=place.position,
            probability=place.probability,
            r68_m=radii_m[0],
            r95_m=radii_m[1],
            heading_deg=place.heading_deg,
            heading_r68_deg=heading_radius(
                place.heading_deg,
                evidence.headings_deg,
                headings,
                heading_spread_deg(calibration, len(headings), heading_accuracy_deg, place.probability),
            ),
            patches=tuple(patches[row] for row in place.members[:SUPPORTING_PATCHES]),
        )
        for place in places[:max_hypotheses]
        for radii_m in (radii_around(place, places, calibration),)
    ]
    return Fusion(
        status=judge(places, float(evidence.similarities.max()), calibration),
        hypotheses=tuple(hypotheses),
        patches=tuple(patches),
        prior_conflict=contradicts(prior, places[0].position, evidence.hits[places[0].members[0]]),
    )


def gather(hit_lists: Sequence[Sequence[Sequence[PatchHit]]], headings_deg: Floats) -> Evidence:
    """Join the hits of several searches, each with one list per heading, by patch."""
    numbers: dict[object, int] = {}
    hits: list[PatchHit] = []
    rows: list[int] = []
    columns: list[int] = []
    scores: list[float] = []
    for search in hit_lists:
        for column, found in enumerate(search):
            for hit in found:
                row = numbers.setdefault(hit.id, len(hits))
                if row == len(hits):
                    hits.append(hit)
                rows.append(row)
            columns += [column] * len(found)
            scores += [hit.score for hit in found]
    similarities = np.full((len(hits), len(headings_deg)), -np.inf)  # (K, R)
    similarities[rows, columns] = scores
    return Evidence(hits=tuple(hits), similarities=similarities, headings_deg=headings_deg)


def allowed(evidence: Evidence, prior: Prior | None) -> Evidence:
    """The evidence that the HARD parts beside SOFT ones allow; the search kept to them, to 0.1 mm."""
    hard = hard_part(prior) if prior is not None and prior.mode is PriorMode.SOFT else None
    if hard is None:
        return evidence
    return evidence.rows(np.flatnonzero(contains(hard, places_of(evidence.hits))))


def log_odds_of(evidence: Evidence, prior: Prior | None, temperature: float) -> Floats:
    """Unnormalised log posterior of each patch, (K,)."""
    log_odds = np.logaddexp.reduce(evidence.similarities / temperature, axis=1)  # (K,)
    if prior is not None and prior.mode is PriorMode.SOFT:
        log_odds = log_odds + np.maximum(log_weights(prior, places_of(evidence.hits)), PRIOR_FLOOR)
    return np.asarray(log_odds)


def normalised(log_odds: Floats) -> Floats:
    """Probabilities, (K,); none underflows to zero."""
    odds = np.exp(np.maximum(log_odds - log_odds.max(), -600.0))
    return np.asarray(odds / odds.sum())


def rank(evidence: Evidence, posterior: Floats) -> list[RankedPatch]:
    """Each patch with its probability and best heading."""
    best = evidence.similarities.argmax(axis=1)  # (K,)
    similarities = evidence.similarities.max(axis=1)  # (K,)
    headings_deg = evidence.headings_deg[best] % 360.0  # (K,)
    columns = zip(
        evidence.hits, similarities.tolist(), posterior.tolist(), headings_deg.tolist(), strict=True
    )
    return [
        RankedPatch(hit=hit, similarity=similarity, probability=probability, heading_deg=heading_deg)
        for hit, similarity, probability, heading_deg in columns
    ]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Place:
    """Patches that light up together."""

    position: LngLat
    probability: float
    members: Ints
    """Rows of the evidence, best first; the first one is the peak."""
    heading_deg: float


def find_places(evidence: Evidence, posterior: Floats, *, at_least: int) -> list[Place]:
    """Merge overlapping patches around the peaks of the posterior; places by descending probability.

    The evidence is sorted by the posterior, best first.

    Args:
        at_least: so many places are wanted even where they are negligible.
    """
    located = np.array([hit.location for hit in evidence.hits])  # (K, 2) lng, lat
    centres = mercators_at(located)  # (K, 2)
    strides = np.array([WORLD_M / 2 ** len(hit.quadkey) for hit in evidence.hits])  # (K,), Mercator metres
    stretch = 1.0 / np.cos(np.radians(located[:, 1]))  # (K,), of Mercator
    near = neighbours(centres, np.maximum(NEIGHBOUR_STRIDES * strides, NEIGHBOUR_M * stretch))
    owner = climb(near)  # (K,)
    shares = np.bincount(owner, weights=posterior)  # of each peak; 0 where there is none
    peaks = np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)]
    telling = int(np.searchsorted(np.cumsum(shares[peaks]), 1.0 - NEGLIGIBLE)) + 1
    peaks = peaks[: max(telling, at_least)]
    positions = mean_positions(centres, near[peaks] * posterior, centres[peaks])
    return [
        Place(
            position=position,
            probability=float(shares[peak]),
            members=np.flatnonzero(owner == peak),
            heading_deg=refined_heading(evidence.similarities[peak], evidence.headings_deg),
        )
        for peak, position in zip(peaks, positions, strict=True)
    ]


def neighbours(centres: Floats, reach: Floats) -> NDArray[np.bool_]:
    """Which of (K, 2) Mercator centres lie within both patches' (K,) reach, (K, K); the short way around."""
    east, north = (np.abs(axis[:, None] - axis[None]) for axis in centres.T)  # each (K, K)
    east = np.minimum(east, WORLD_M - east)
    return np.asarray(east**2 + north**2 <= np.minimum(reach[:, None], reach[None]) ** 2)


def climb(near: NDArray[np.bool_]) -> Ints:
    """The peak that steepest ascent over neighbours reaches from each patch, (K,); best patches first."""
    target = near.argmax(axis=1)  # (K,) the best neighbour, or the patch itself
    while not np.array_equal(target, target[target]):
        target = target[target]
    return np.asarray(target)


def radii_around(place: Place, places: Sequence[Place], calibration: ViewCalibration) -> tuple[float, float]:
    """Radii around a place that hold 68 and 95 % of the posterior, metres; each place is a round spread of
    the errors that calibration met."""
    errors_m = error_quantiles(calibration.position_r68_m, calibration.position_r95_m, _QUANTILES)  # (64,)
    lngs = [other.position.lng for other in places]
    lats = [other.position.lat for other in places]
    away_m = distances_m(place.position, lngs, lats)  # (P,)
    off_m = np.hypot(away_m[:, None] + errors_m * _ALONG, errors_m * _ACROSS)  # (P, 64)
    weight = np.repeat([other.probability for other in places], _SPREAD)
    r68_m, r95_m = weighted_quantiles(off_m.ravel(), weight, (0.68, 0.95))
    return r68_m, r95_m


def heading_weights(evidence: Evidence, posterior: Floats, temperature: float) -> Floats:
    """Share of the posterior at each heading tried, (R,)."""
    odds = evidence.similarities / temperature  # (K, R)
    shares = np.exp(odds - odds.max(axis=1, keepdims=True))
    return np.asarray(posterior @ (shares / shares.sum(axis=1, keepdims=True)))


def heading_spread_deg(
    calibration: ViewCalibration, tried: int, accuracy_deg: float, probability: float
) -> tuple[float, float]:
    """Errors of the heading at a place that 68 and 95 % do not exceed.

    A heading that was given is as good as it was given. One that was searched for is as good as calibration
    met it where the place is right. Where it is not, it is any heading that was possible; around the full
    circle the weights of the other headings say so already.
    """
    unknown = 0.68 * accuracy_deg, 0.95 * accuracy_deg
    if tried == 1:
        return unknown
    right = 1.0 if accuracy_deg >= 180.0 else probability
    searched = calibration.heading_r68_deg, calibration.heading_r95_deg
    r68, r95 = (
        min(right * found + (1.0 - right) * given, given)
        for found, given in zip(searched, unknown, strict=True)
    )
    return r68, r95


def heading_radius(
    heading_deg: float, headings_deg: Floats, weights: Floats, spread_deg: tuple[float, float]
) -> float:
    """Half-width around a heading that holds 68 % of the posterior over all headings, degrees.

    Headings tried next to it are the same one, seen from beside.
    """
    away_deg = heading_difference_deg(headings_deg, heading_deg)  # (R,)
    step_deg = float(headings_deg[1] - headings_deg[0]) if len(headings_deg) > 1 else 0.0
    centres = np.where(away_deg <= 1.01 * step_deg, 0.0, away_deg)
    errors_deg = _SIDES * error_quantiles(*spread_deg, _QUANTILES)  # (64,)
    off_deg = np.abs(centres[:, None] + errors_deg).ravel()
    return min(180.0, weighted_quantiles(off_deg, np.repeat(weights, _SPREAD), (0.68,))[0])


def weighted_quantiles(values: Floats, weights: Floats, shares: Sequence[float]) -> list[float]:
    """Values that `shares` (0 to 1) of the weight do not exceed."""
    order = np.argsort(values)
    weight = weights[order]
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    return [float(value) for value in np.interp(shares, middle, values[order])]


def judge(places: Sequence[Place], best_similarity: float, calibration: ViewCalibration) -> Status:
    """What the best similarity and the best probability allow to claim."""
    if best_similarity < calibration.min_similarity:
        return Status.NO_CONFIDENT_MATCH
    if places[0].probability < MIN_PROBABILITY:
        return Status.AMBIGUOUS
    return Status.LOCALIZED


def contradicts(prior: Prior | None, position: LngLat, peak: PatchHit) -> bool:
    """True when the evidence has overruled a SOFT prior: the position has no more than the floor's weight.

    The position is a mean of patch centres, which may fall just outside of what HARD parts allow; so the
    centre of its best patch, which never does, speaks for it too.
    """
    if prior is None or prior.mode is not PriorMode.SOFT:
        return False
    places = Places(
        lngs=np.array([position.lng, peak.location.lng]),
        lats=np.array([position.lat, peak.location.lat]),
        regions=[peak.region] * 2,
        captured_at=[peak.captured_at] * 2,
    )
    outside = ~contains(prior, places) & (log_weights(prior, places) <= PRIOR_FLOOR)
    return bool(outside.all())


def mean_positions(centres: Floats, weights: Floats, peaks: Floats) -> list[LngLat]:
    """Means of the patch centres (K, 2) around each of the peaks (P, 2), all in EPSG:3857 metres, by the
    weights (P, K), as WGS84."""
    east, north = (centres[None, :, axis] - peaks[:, None, axis] for axis in (0, 1))  # each (P, K)
    total = weights.sum(axis=1)
    x_m = peaks[:, 0] + (weights * _wrapped(east)).sum(axis=1) / total
    y_m = peaks[:, 1] + (weights * north).sum(axis=1) / total
    return [lnglat_at(x, y) for x, y in zip(_wrapped(x_m).tolist(), y_m.tolist(), strict=True)]


def _wrapped(east_m: Floats) -> Floats:
    """Mercator metres eastwards, the short way around the Earth."""
    return np.asarray((east_m + WORLD_M / 2) % WORLD_M - WORLD_M / 2)
