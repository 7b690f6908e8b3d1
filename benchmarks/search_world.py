"""What `benchmarks/search.py` searches: patches of four cities, and queries with their true answers.

Places are tiles of the patch grid around the 90,618 satellite patches of VIGOR's four cities, where its
position lists are at hand, else squares of tiles in the same cities. Vectors lie in clusters, as those of
real patches do; in one version a cluster's patches are anywhere, in the other most of them are neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyproj
import shapely
from mercantile import LngLat, Tile, quadkey
from numpy.typing import NDArray
from shapely.geometry import LineString, Point, Polygon

from spatial_index.geodesy import distances_m
from spatial_index.priors import AllOf, CirclePrior, CorridorPrior, PolygonPrior, Prior, TimePrior

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

DIM = 256
ZOOMS = {100_000: 19, 1_000_000: 21}
CITIES = ((-122.42, 37.76), (-87.63, 41.88), (-73.97, 40.75), (-122.33, 47.61))
VERSIONS = ("independent", "correlated")
CLUSTERS = 2_000
NEIGHBOURHOOD_ZOOM = 16
NEIGHBOURS_SHARE = 0.8
"""Of a cluster's patches in the correlated version; the others are anywhere."""
SHARES = (0.0001, 0.001, 0.01, 0.1)
SHAPES = ("circle", "polygon", "corridor", "circle + time")
HITS = 10
SHAPED_BY = 100_000
"""So many places are enough to find out how large a shape must be."""
FIRST_DAY = datetime(2018, 1, 1, tzinfo=UTC)
FLIGHTS = 10
"""Days on which imagery was taken, a year apart; half of them pass the time range."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class World:
    """N patches."""

    lng: Floats
    lat: Floats
    """(N,) centres."""
    quadkeys: tuple[str, ...]
    flight: NDArray[np.int64]
    """(N,) number of the day on which a patch was photographed."""
    vectors: Vectors
    """(N, DIM), L2-normalised."""

    def __len__(self) -> int:
        return len(self.lng)

    def captured_at(self, row: int) -> datetime:
        """When a patch was photographed."""
        return day_of(int(self.flight[row]))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ask:
    """One query and its true answer."""

    shape: str
    share: float
    vector: Vectors
    """(DIM,)"""
    prior: Prior | None
    passes: NDArray[np.uint8]
    """(N / 8,) packed bits: what the prior passes."""
    tenth_score: float
    """Score of the last of the true nearest."""
    hits: int
    """How many there are: HITS, or fewer if fewer pass."""


def day_of(flight: int) -> datetime:
    return FIRST_DAY + timedelta(days=365 * flight)


def build_world(points: int, version: str, seed: int = 0) -> World:
    """Places and vectors of a seed."""
    rng = np.random.default_rng([seed, points])
    zoom = ZOOMS[points]
    x, y = tiles(points, zoom)
    order = rng.permutation(len(x))[:points]
    x, y = x[order], y[order]
    lng = (x + 0.5) / 2**zoom * 360.0 - 180.0
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1.0 - 2.0 * (y + 0.5) / 2**zoom))))
    return World(
        lng=lng,
        lat=lat,
        quadkeys=tuple(quadkey(Tile(int(a), int(b), zoom)) for a, b in zip(x, y, strict=True)),
        flight=rng.integers(FLIGHTS, size=points),
        vectors=vectors_of(x >> (zoom - NEIGHBOURHOOD_ZOOM), y >> (zoom - NEIGHBOURHOOD_ZOOM), version, rng),
    )


def tiles(points: int, zoom: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At least so many different tiles, in four cities."""
    folder = Path(os.environ.get("CLNET_DATA", "../shared/data")) / "vigor_splits"
    lists = sorted(folder.glob("**/satellite_list.txt"))
    if not lists:
        return square_cities(points, zoom)
    names = [name for path in lists for name in path.read_text().split()]
    lat, lng = np.array([name.removesuffix(".png").split("_")[1:3] for name in names], dtype=float).T
    width = 2**zoom
    x = ((lng + 180.0) / 360.0 * width).astype(np.int64)
    y = ((1.0 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2.0 * width).astype(np.int64)
    seen = np.unique(x * width + y)
    while len(seen) < points:  # a ring of tiles more around all of them
        steps = np.array([dx * width + dy for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
        seen = np.unique((seen[:, None] + steps).ravel())
    return seen // width, seen % width


def square_cities(points: int, zoom: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    side = int(np.ceil(np.sqrt(points / len(CITIES))))
    xs, ys = [], []
    for lng, lat in CITIES:
        width = 2**zoom
        x0 = int((lng + 180.0) / 360.0 * width)
        y0 = int((1.0 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2.0 * width)
        across, down = np.meshgrid(np.arange(side) + x0, np.arange(side) + y0)
        xs.append(across.ravel())
        ys.append(down.ravel())
    return np.concatenate(xs), np.concatenate(ys)


def spectrum() -> Floats:
    """Learned vectors use few of their dimensions well: standard deviations that fall with the index."""
    return 1.0 / np.sqrt(np.arange(1, DIM + 1))


def vectors_of(x: NDArray[np.int64], y: NDArray[np.int64], version: str, rng: np.random.Generator) -> Vectors:
    """Unit vectors around cluster centres; `x` and `y` are the patches' neighbourhoods."""
    cluster = rng.integers(CLUSTERS, size=len(x))
    if version == "correlated":
        of_place = (x * 7919 + y * 104_729) % CLUSTERS
        cluster = np.where(rng.random(len(x)) < NEIGHBOURS_SHARE, of_place, cluster)
    centres = rng.normal(size=(CLUSTERS, DIM)) * spectrum()
    rows = np.empty((len(x), DIM), dtype=np.float32)
    for first in range(0, len(x), 100_000):
        part = slice(first, first + 100_000)
        own = rng.normal(size=(len(cluster[part]), DIM)) * spectrum()
        mixed = centres[cluster[part]] + own
        rows[part] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return rows


def build_asks(world: World, count: int, seed: int = 1) -> Iterator[Ask]:
    """So many queries for each share and shape, and for the whole."""
    rng = np.random.default_rng(seed)
    gap = unit(rng.normal(size=DIM) * spectrum())  # street images have something in common
    for share, shape in [(1.0, "none"), *((share, shape) for share in SHARES for shape in SHAPES)]:
        for _ in range(count):
            row = int(rng.integers(len(world)))
            at = LngLat(float(world.lng[row]), float(world.lat[row]))
            prior = None if share == 1.0 else prior_around(world, at, shape, share, rng)
            vector = street_vector(world.vectors[row], gap, rng)
            passes = passing(world, prior)
            best = np.sort(world.vectors[passes] @ vector)[::-1][:HITS]
            yield Ask(
                shape=shape, share=share, vector=vector, prior=prior, passes=np.packbits(passes),
                tenth_score=float(best[-1]) if len(best) else 1.0, hits=len(best),
            )  # fmt: skip


def unpacked(world: World, bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.unpackbits(bits, count=len(world)).astype(bool)


def street_vector(patch: Vectors, gap: Floats, rng: np.random.Generator) -> Vectors:
    """A query for a patch: cosine 0.2 to 0.7 to it, shifted to one side as all street images are."""
    cosine = rng.uniform(0.2, 0.7)
    noise = unit(rng.normal(size=DIM) * spectrum()) + 0.5 * gap
    noise -= (noise @ patch) * patch
    return unit(cosine * patch + np.sqrt(1 - cosine**2) * unit(noise)).astype(np.float32)


def unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


def prior_around(world: World, at: LngLat, shape: str, share: float, rng: np.random.Generator) -> Prior:
    """A shape around a place that about a share of all patches lie in."""
    if shape == "circle + time":
        circle = prior_around(world, at, "circle", 2 * share, rng)
        return AllOf(priors=(circle, TimePrior(start=day_of(FLIGHTS // 2))))
    metres = flat_metres(world, at)[:: max(1, len(world) // SHAPED_BY)]  # (M, 2)
    if shape == "circle":
        return CirclePrior(centre=at, radius_m=reach(np.hypot(*metres.T), share), confidence_level=0.95)
    if shape == "polygon":
        bearings = np.linspace(0.0, 2 * np.pi, 12, endpoint=False)
        spokes = rng.uniform(0.6, 1.4, 12)
        angles = np.arctan2(metres[:, 1], metres[:, 0]) % (2 * np.pi)
        far = np.interp(angles, [*bearings, 2 * np.pi], [*spokes, spokes[0]])
        scale = reach(np.hypot(*metres.T) / far, share)
        corners = scale * spokes[:, None] * np.column_stack([np.cos(bearings), np.sin(bearings)])
        return PolygonPrior(polygon=Polygon(degrees_of(at, corners)))
    side_m = 2.0 * reach(np.abs(metres).max(axis=1), share)
    turns = np.cumsum(rng.normal(0, 0.4, 12)) + rng.uniform(0, 2 * np.pi)
    line = np.cumsum(0.25 * side_m * np.column_stack([np.cos(turns), np.sin(turns)]), axis=0)
    street = LineString(line - line[6])
    half_m = reach(shapely.distance(street, shapely.points(metres)), share)
    return CorridorPrior(line=LineString(degrees_of(at, np.array(street.coords))), half_width_m=half_m)


def reach(measure: Floats, share: float) -> float:
    """The value that a share of all stay below."""
    return max(1.0, float(np.quantile(measure, min(1.0, share))))


def flat_metres(world: World, at: LngLat) -> Floats:
    """(N, 2) metres east and north of a place, good enough to shape a prior."""
    east = (world.lng - at.lng) * 111_320.0 * np.cos(np.radians(at.lat))
    return np.column_stack([east, (world.lat - at.lat) * 111_320.0])


def degrees_of(at: LngLat, metres: Floats) -> Floats:
    east = metres[:, 0] / (111_320.0 * np.cos(np.radians(at.lat)))
    return np.column_stack([at.lng + east, at.lat + metres[:, 1] / 111_320.0])


def passing(world: World, prior: Prior | None) -> NDArray[np.bool_]:
    """(N,) what a prior passes, worked out without the index: geodesics and shapely."""
    match prior:
        case None:
            return np.ones(len(world), dtype=bool)
        case CirclePrior():
            near = np.hypot(*flat_metres(world, prior.centre).T) < 1.05 * prior.radius_m + 10.0
            near[near] = distances_m(prior.centre, world.lng[near], world.lat[near]) <= prior.radius_m
            return near
        case PolygonPrior():
            return shapely.contains_xy(prior.polygon, world.lng, world.lat)
        case CorridorPrior():
            return along(world, prior)
        case TimePrior(start=start):
            assert start is not None
            days = np.array([day_of(flight) >= start for flight in range(FLIGHTS)])
            return days[world.flight]
        case AllOf(priors=parts):
            return np.logical_and.reduce([passing(world, part) for part in parts])
    raise TypeError(type(prior))


def along(world: World, prior: CorridorPrior) -> NDArray[np.bool_]:
    """Distances to the line in an azimuthal equidistant projection around its middle."""
    west, south, east, north = prior.line.bounds
    middle = Point((west + east) / 2, (south + north) / 2)
    pad = prior.half_width_m / 70_000.0  # degrees, up to 50 north
    near = np.flatnonzero(
        (np.abs(world.lng - middle.x) < (east - west) / 2 + pad)
        & (np.abs(world.lat - middle.y) < (north - south) / 2 + pad)
    )
    flat = pyproj.Transformer.from_crs(
        "OGC:CRS84", f"+proj=aeqd +lat_0={middle.y} +lon_0={middle.x} +datum=WGS84", always_xy=True
    )
    line = LineString(np.column_stack(flat.transform(*np.array(prior.line.coords).T)))
    points = shapely.points(np.column_stack(flat.transform(world.lng[near], world.lat[near])))
    found = np.zeros(len(world), dtype=bool)
    found[near] = shapely.distance(line, points) <= prior.half_width_m
    return found
