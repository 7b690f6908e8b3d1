"""Raw against smoothed positions on simulated drives: what following gains, and whether its radii hold.

    python benchmarks/drives.py --out benchmarks/results/drives.json

A car drives through a city that no model has seen and sends a frame a second. Each frame is located by itself
(raw) and by the track (smoothed), with no odometry, with wheels, and with wheels and compass. The city is
simulated, its orthophoto ingested into a store of its own; both are deleted afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from reporting import write_results
from shapely.geometry import LineString, Point

from clnet_model.encoder import Encoder, load_encoder
from serving.fuse import Status
from serving.locate import MAX_HYPOTHESES, HeadingPrior, Index, Query, locate
from serving.track import Odometry, Sighting, Track, TrackPoint
from serving.track_messages import sighting_of
from simulation.aerial import orthophoto
from simulation.appearance import Appearance, Difficulty, draw_appearance
from simulation.cameras import Kind, Shot, expose, stands_free
from simulation.city import City, build_city
from simulation.rasters import write_sheets
from simulation.street import Pose
from simulation.styles import HELD_OUT_STYLES, style_named
from spatial_index.geodesy import distances_m
from spatial_index.store import open_store
from tiling.grid import LngLat
from tiling.ortho import open_ortho
from workers.cluster import ray_cluster
from workers.ingest import ingest
from workers.jobs import Jobs

FRAME_S = 1.0
SPEED_M_PER_S = (6.0, 13.0)  # 20 to 50 km/h
WHEELS_SIGMA = 0.02  # share of the distance
COMPASS_SIGMA_DEG = 5.0
PHOTO_HFOV_DEG = 90.0
TOUCHING_M = 1.0  # streets whose ends are as near meet there

KINDS = ("panorama, north known", "panorama, heading unknown", "90° photo, heading ±15°")
ODOMETRY = ("none", "wheels", "wheels and compass")


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Where the car was, what the frame says by itself, and how the car got there from the frame before."""

    time_s: float
    truth: LngLat
    sighting: Sighting
    r68_m: float
    r95_m: float
    distance_m: float
    course_deg: float

    def odometry(self, kind: str) -> Odometry | None:
        """What the car's own sensors say, as noisy as this frame's draw made them."""
        match kind:
            case "none":
                return None
            case "wheels":
                return Odometry(distance_m=self.distance_m)
            case "wheels and compass":
                return Odometry(distance_m=self.distance_m, course_deg=self.course_deg)
            case _:
                raise ValueError(f"unknown odometry {kind!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A moment of a drive, in the city's projected metres."""

    easting: float
    northing: float
    azimuth_deg: float
    distance_m: float
    """From the step before."""


def drive(city: City, frames: int, rng: np.random.Generator) -> list[Step]:
    """A way along the streets, a frame a second, turning by chance at junctions and never back.

    Raises:
        RuntimeError: no way of that length was found.
    """
    streets = _through_streets(city)
    for _ in range(1000):
        line = _way(streets, frames * SPEED_M_PER_S[1], rng)
        if line is None:
            continue
        steps = list(_steps(city, line, frames, rng))
        if len(steps) == frames and all(_is_free(city, step) for step in steps):
            return steps
    raise RuntimeError(f"no drive of {frames} frames in city {city.seed}; make the city larger")


def _through_streets(city: City) -> list[LineString]:
    """Streets that lead on at both ends, to others that do."""
    streets = [street.line for street in city.plan.streets]
    ends = shapely.points([line.coords[end] for line in streets for end in (0, -1)])  # (2 S,)
    one, other = shapely.STRtree(ends).query(ends, predicate="dwithin", distance=TOUCHING_M)
    meets = one // 2 != other // 2
    one, other = one[meets], other[meets]
    kept = np.ones(len(streets), dtype=bool)
    while True:
        led_on = np.zeros(len(ends), dtype=bool)
        led_on[one[kept[other // 2]]] = True
        fewer = kept & led_on.reshape(-1, 2).all(axis=1)
        if (fewer == kept).all():
            return [line for line, keep in zip(streets, kept, strict=True) if keep]
        kept = fewer


def _way(streets: Sequence[LineString], length_m: float, rng: np.random.Generator) -> LineString | None:
    first = streets[int(rng.integers(len(streets)))]
    points, used = list(first.coords), [first]
    while LineString(points).length < length_m:
        end = Point(points[-1])
        onward = [line for line in streets if line not in used[-6:] and _touches(line, end)]
        if not onward:
            return None
        chosen = onward[int(rng.integers(len(onward)))]
        ahead = list(chosen.coords)
        points += (ahead if Point(ahead[0]).distance(end) < TOUCHING_M else ahead[::-1])[1:]
        used.append(chosen)
    return LineString(points)


def _touches(line: LineString, at: Point) -> bool:
    return min(Point(line.coords[0]).distance(at), Point(line.coords[-1]).distance(at)) < TOUCHING_M


def _steps(city: City, line: LineString, frames: int, rng: np.random.Generator) -> Iterator[Step]:
    """Right of the middle, at a speed that changes slowly."""
    at_m, speed = 0.0, float(rng.uniform(*SPEED_M_PER_S))
    before: tuple[float, float] | None = None
    for _ in range(frames):
        here, ahead = line.interpolate(at_m), line.interpolate(at_m + 2.0)
        azimuth = float(np.degrees(np.arctan2(ahead.x - here.x, ahead.y - here.y)))
        x = here.x + 1.5 * np.cos(np.radians(azimuth))
        y = here.y - 1.5 * np.sin(np.radians(azimuth))
        moved_m = 0.0 if before is None else float(np.hypot(x - before[0], y - before[1]))
        yield Step(
            easting=city.world.west + x,
            northing=city.world.north - city.plan.size_m + y,
            azimuth_deg=azimuth % 360.0,
            distance_m=moved_m,
        )
        before = (x, y)
        speed = float(np.clip(speed + rng.normal(0, 1.0), *SPEED_M_PER_S))
        at_m += speed * FRAME_S


def _is_free(city: City, step: Step) -> bool:
    return stands_free(city.world, pose_of(step))


def pose_of(step: Step) -> Pose:
    return Pose(easting=step.easting, northing=step.northing, height_m=2.2, azimuth_deg=step.azimuth_deg)


def see(
    city: City, steps: Sequence[Step], kind: str, *, encoder: Encoder, index: Index, seed: int
) -> list[Frame]:
    """Photograph a drive on one day and locate every frame by itself."""
    rng = np.random.default_rng([seed, 5])
    look = draw_appearance(style_named(city.style).season, Difficulty.HARD, rng, from_above=False)
    camera = Camera(city=city, kind=kind, look=look, rng=rng, encoder=encoder, index=index)
    before = [steps[0], *steps[:-1]]
    return [
        camera.frame(number, last, step)
        for number, (last, step) in enumerate(zip(before, steps, strict=True))
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """Photographs a city on one day and asks where that was."""

    city: City
    kind: str
    look: Appearance
    rng: np.random.Generator
    encoder: Encoder
    index: Index

    def frame(self, number: int, before: Step, step: Step) -> Frame:
        """One exposure, located by itself."""
        is_photo = self.kind.startswith("90°")
        shot = Shot(
            kind=Kind.PHOTO if is_photo else Kind.PANORAMA,
            pose=pose_of(step),
            hfov_deg=PHOTO_HFOV_DEG if is_photo else 360.0,
            pitch_deg=0.0,
        )
        world, rng = self.city.world, self.rng
        turn_deg = world.convergence_deg(step.easting, step.northing)
        (lng,), (lat,) = world.to_lnglat(np.array([step.easting]), np.array([step.northing]))
        query = _query(self.kind, (step.azimuth_deg + turn_deg) % 360.0, rng)
        image = expose(world, shot, self.look, rng)
        answer = locate(image, query, encoder=self.encoder, index=self.index)
        best = answer.hypotheses[0] if answer.hypotheses else None
        return Frame(
            time_s=number * FRAME_S,
            truth=LngLat(lng=float(lng), lat=float(lat)),
            sighting=sighting_of(answer, query, self.encoder.calibration),
            r68_m=best.r68_m if best else np.inf,
            r95_m=best.r95_m if best else np.inf,
            distance_m=max(0.0, step.distance_m * (1.0 + float(rng.normal(0, WHEELS_SIGMA)))),
            course_deg=course_deg_of(before, step) + turn_deg + float(rng.normal(0, COMPASS_SIGMA_DEG)),
        )


def _query(kind: str, heading_deg: float, rng: np.random.Generator) -> Query:
    match kind:
        case "panorama, north known":
            heading = HeadingPrior(heading_deg=heading_deg)
        case "panorama, heading unknown":
            return Query(max_hypotheses=MAX_HYPOTHESES)
        case "90° photo, heading ±15°":
            off_deg = float(rng.uniform(-15.0, 15.0))
            heading = HeadingPrior(heading_deg=heading_deg + off_deg, accuracy_deg=15.0)
        case _:
            raise ValueError(f"unknown kind {kind!r}")
    hfov_deg = PHOTO_HFOV_DEG if kind.startswith("90°") else None
    return Query(hfov_deg=hfov_deg, heading=heading, max_hypotheses=MAX_HYPOTHESES)


def course_deg_of(before: Step, after: Step) -> float:
    east, north = after.easting - before.easting, after.northing - before.northing
    return float(np.degrees(np.arctan2(east, north))) if east or north else after.azimuth_deg


def smooth(frames: Sequence[Frame], odometry: str) -> list[TrackPoint | None]:
    """The track's estimate after every frame."""
    track = Track()
    return [track.advance(frame.time_s, frame.sighting, frame.odometry(odometry)) for frame in frames]


def row_of(kind: str, odometry: str, drives: Sequence[Sequence[Frame]]) -> dict[str, object]:
    """One measured cell: errors of both, radii that held, and how often LOCALIZED was wrong."""
    frames = [frame for each in drives for frame in each]
    points = [point for each in drives for point in smooth(each, odometry)]
    raw_m = np.array([_error_m(frame.truth, _first(frame)) for frame in frames])
    smooth_m = np.array(
        [
            _error_m(frame.truth, point.position if point else None)
            for frame, point in zip(frames, points, strict=True)
        ]
    )
    raw = np.array([frame.sighting.status is Status.LOCALIZED for frame in frames])
    firm = np.array([point is not None and point.status is Status.LOCALIZED for point in points])
    r68_m = np.array([point.r68_m if point else np.inf for point in points])
    r95_m = np.array([point.r95_m if point else np.inf for point in points])
    there = np.isfinite(smooth_m)
    return {
        "kind": kind,
        "odometry": odometry,
        "drives": len(drives),
        "frames": len(frames),
        "raw_median_m": _rounded(np.quantile(raw_m, 0.5)),
        "raw_p95_m": _rounded(np.quantile(raw_m, 0.95)),
        "smoothed_median_m": _rounded(np.quantile(smooth_m, 0.5)),
        "smoothed_p95_m": _rounded(np.quantile(smooth_m, 0.95)),
        "raw_within_25_m": _rounded((raw_m <= 25.0).mean()),
        "smoothed_within_25_m": _rounded((smooth_m <= 25.0).mean()),
        "raw_localized": _rounded(raw.mean()),
        "raw_localized_right": _right(raw_m, raw),
        "smoothed_localized": _rounded(firm.mean()),
        "smoothed_localized_right": _right(smooth_m, firm),
        "smoothed_inside_r68": _rounded((smooth_m[there] <= r68_m[there]).mean()),
        "smoothed_inside_r95": _rounded((smooth_m[there] <= r95_m[there]).mean()),
        "raw_inside_r68": _rounded(np.mean([m <= f.r68_m for m, f in zip(raw_m, frames, strict=True)])),
        "raw_inside_r95": _rounded(np.mean([m <= f.r95_m for m, f in zip(raw_m, frames, strict=True)])),
    }


def _right(errors_m: NDArray[np.float64], claimed: NDArray[np.bool_]) -> float | None:
    """Share within 25 m of those that claim to be LOCALIZED; None when none does."""
    return _rounded((errors_m[claimed] <= 25.0).mean()) if claimed.any() else None


def _first(frame: Frame) -> LngLat | None:
    return frame.sighting.positions[0] if frame.sighting.positions else None


def _error_m(truth: LngLat, found: LngLat | None) -> float:
    return np.inf if found is None else float(distances_m(truth, found.lng, found.lat)[0])


def _rounded(value: float) -> float:
    return round(float(value), 3)


def build_store(city: City, folder: Path) -> None:
    """The city's orthophoto, ingested."""
    rng = np.random.default_rng([city.seed, 2])
    season = style_named(city.style).season
    look = draw_appearance(season, Difficulty.HARD, rng, from_above=True)
    write_sheets(folder / "ortho", city.world, orthophoto(city.world, look, rng), 512.0)
    with ray_cluster(), open_store(directory=folder / "store", create=True) as store:
        ingest("city", open_ortho([folder / "ortho"]), store=store, jobs=Jobs(folder / "jobs"))


def collect(
    *, seed: int, size_m: float, drives: int, frames: int, kinds: Sequence[str] = KINDS
) -> dict[str, list[list[Frame]]]:
    """The frames of all drives through one city, for every kind of image."""
    city = build_city(seed, HELD_OUT_STYLES[0], size_m)
    rng = np.random.default_rng([seed, 6])
    ways = [drive(city, frames, rng) for _ in range(drives)]
    with tempfile.TemporaryDirectory() as folder:
        build_store(city, Path(folder))
        encoder = load_encoder(None)
        with open_store(directory=Path(folder) / "store") as index:
            return {
                kind: [
                    see(city, way, kind, encoder=encoder, index=index, seed=seed + number)
                    for number, way in enumerate(ways)
                ]
                for kind in kinds
            }


def main() -> None:
    """Drive, and write a row for every kind of image and of odometry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/drives.json"))
    parser.add_argument("--seed", type=int, default=7201)
    parser.add_argument("--size-m", type=float, default=700.0)
    parser.add_argument("--drives", type=int, default=6)
    parser.add_argument("--frames", type=int, default=30)
    args = parser.parse_args()
    seen = collect(seed=args.seed, size_m=args.size_m, drives=args.drives, frames=args.frames)
    rows = [row_of(kind, odometry, drives) for kind, drives in seen.items() for odometry in ODOMETRY]
    write_results(args.out, rows, model_digest=load_encoder(None).digest)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
