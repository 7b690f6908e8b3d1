"""Corridors: how far positions are from a line, and areas that surely hold or surely lie within a width.

Lines are straight in longitude and latitude, distances are geodesics on WGS84. Knows nothing of priors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import ArrayLike
from shapely.geometry import LineString, Polygon, box

from spatial_index.geodesy import WGS84, Floats, areas_in, radii_m, wrapped
from tiling.antimeridian import unwrapped_line

# On a piece this short the distance to a place has one minimum, or its least value at an end; and metres per
# degree of longitude change by less than 1 % along it up to 60° of latitude, 5 % at 85°.
PIECE_LNG_DEG = 1.0
PIECE_LAT_DEG = 0.25

_RUN_LNG_DEG = 90.0
_FLAT = 0.99  # pieces share one local plane while metres per degree of longitude agree to 1 %
_POLAR = 0.5  # no plane is local where they change twofold across the width
# Few vertices make a cheap filter: the line is flattened by up to 1 % of the distance, GEOS flattens shallow
# concavities as much, and round ends are polygons (0.9 % at 6 segments a quarter). What is left between is
# checked position by position.
_BUFFER_SLACK = 0.035
_FLATTENING = 0.01
_QUARTER_SEGMENTS = 6
_SLACK_M = 1e-3

_STEPS = 46  # of a golden-section search: 3e-10 of a piece, 0.03 mm
_GOLDEN = (3.0 - math.sqrt(5.0)) / 2.0
_PAIRS_AT_ONCE = 1_000_000  # bounds the memory of place × piece


def distances_to_line_m(line: LineString, lngs: ArrayLike, lats: ArrayLike) -> Floats:
    """Geodesic distances to the nearest place on a line, in metres, (N,).

    The nearest place is the one with the shortest straight chord through the Earth. On a sphere that is the
    same place; on the ellipsoid the two differ, but the distance by less than 1 mm within 400 km.
    """
    places = np.column_stack([np.ravel(lngs), np.ravel(lats)]).astype(np.float64)  # (N, 2)
    path = _cut(line)
    pieces = np.stack([path[:-1], path[1:]], axis=1)  # (P, 2, 2)
    rows = max(1, _PAIRS_AT_ONCE // len(pieces))
    found = [_distances_m(pieces, places[start : start + rows]) for start in range(0, len(places), rows)]
    return np.concatenate(found) if found else np.zeros(0)


def areas_around(line: LineString, half_width_m: float) -> tuple[list[Polygon], list[Polygon]]:
    """Areas that hold everything within `half_width_m` of a line, and areas that hold nothing beyond it.

    All inside ±180°. Stretch by stretch the line is widened in a plane in metres; over the latitudes that a
    path of that width can reach, a true length is between `low` and `high` times the plane's (see _Plane).
    """
    reach_rad = 1.01 * half_width_m / 6_335_000.0
    outer: list[Polygon] = []
    inner: list[Polygon] = []
    for run in _runs(_cut(line), reach_rad):
        plane = _Plane(run, reach_rad)
        if plane.low < _POLAR**0.5:
            outer.append(plane.band)
            continue
        outer += plane.widened(half_width_m / plane.low * (1.0 + _BUFFER_SLACK) + _SLACK_M)
        inner += plane.widened(half_width_m / plane.high * (1.0 - _BUFFER_SLACK) - _SLACK_M)
    return areas_in(shapely.union_all(outer)), areas_in(shapely.union_all(inner))


class _Plane:
    """A local plane in metres around a stretch of a line, (V, 2) of continuous longitudes.

    A path's length is the integral of (M dφ)² + (N cos φ dλ)², M growing and N cos φ falling towards the
    poles; so over a band of latitudes the ratio to its length in the plane is bounded at the band's edges.
    """

    def __init__(self, run: Floats, reach_rad: float) -> None:
        turn = 360.0 * math.floor((float(run[0, 0]) + 180.0) / 360.0)
        self._run = run - [turn, 0.0]
        reach_deg = math.degrees(reach_rad)
        south = max(float(run[:, 1].min()) - reach_deg, -90.0)
        north = min(float(run[:, 1].max()) + reach_deg, 90.0)
        self.band = box(-180.0, south, 180.0, north)
        near, far = _extremes(south, north)
        wide_m, narrow_m = _metres_per_rad_lng(near), max(_metres_per_rad_lng(far), 1e-3)
        short_m, long_m = radii_m(near)[0], radii_m(far)[0]
        self._scale_m = np.radians([math.sqrt(wide_m * narrow_m), math.sqrt(short_m * long_m)])
        self.low = min(math.sqrt(narrow_m / wide_m), math.sqrt(short_m / long_m)) * (1.0 - 1e-9)
        self.high = max(math.sqrt(wide_m / narrow_m), math.sqrt(long_m / short_m)) * (1.0 + 1e-9)

    def widened(self, metres: float) -> list[Polygon]:
        """The stretch widened by metres of this plane, inside ±180°; nothing if that is not above 0."""
        if metres <= 0.0:
            return []
        line = LineString(self._run * self._scale_m).simplify(_FLATTENING * metres)
        shape = line.buffer(metres, quad_segs=_QUARTER_SEGMENTS)
        degrees = shapely.transform(shape, lambda points: points / self._scale_m)
        return [piece for part in areas_in(degrees) for piece in wrapped(part)]


def _cut(line: LineString) -> Floats:
    """The line's vertices and places between them, close enough for pieces; (V, 2), longitudes continuous."""
    points = unwrapped_line(shapely.get_coordinates(line))
    edges = np.diff(points, axis=0)  # (V - 1, 2)
    longest = (np.abs(edges) / [PIECE_LNG_DEG, PIECE_LAT_DEG]).max(axis=1)
    counts = np.maximum(np.ceil(longest), 1.0).astype(np.intp)  # pieces of each edge
    edge = np.repeat(np.arange(len(edges)), counts)
    share = (np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)) / counts[edge]
    return np.concatenate([points[edge] + share[:, None] * edges[edge], points[-1:]])


def _runs(path: Floats, reach_rad: float) -> Iterator[Floats]:
    """Stretches of the path that one plane serves, each of two vertices or more."""
    reach_deg = math.degrees(reach_rad)
    first = 0
    low, high = path[0].copy(), path[0].copy()
    for last in range(1, len(path)):
        low, high = np.minimum(low, path[last]), np.maximum(high, path[last])
        near, far = _extremes(max(low[1] - reach_deg, -90.0), min(high[1] + reach_deg, 90.0))
        flat = _metres_per_rad_lng(far) >= _FLAT * _metres_per_rad_lng(near)
        if last - first > 1 and not (flat and high[0] - low[0] <= _RUN_LNG_DEG):
            yield path[first:last]
            first = last - 1
            low, high = np.minimum(path[first], path[last]), np.maximum(path[first], path[last])
    yield path[first:]


def _extremes(south: float, north: float) -> tuple[float, float]:
    """Latitudes of a band nearest to the equator and nearest to a pole, without sign."""
    near = 0.0 if south <= 0.0 <= north else min(abs(south), abs(north))
    return near, max(abs(south), abs(north))


def _metres_per_rad_lng(lat_deg: float) -> float:
    return radii_m(lat_deg)[1] * math.cos(math.radians(lat_deg))


def _distances_m(pieces: Floats, places: Floats) -> Floats:
    """Distances of (N, 2) places to the nearest of (P, 2, 2) pieces, (N,)."""
    at = _ecef(places)  # (N, 3)
    away_m, off_m = _chord_distances_m(pieces, at), _arc_heights_m(pieces)  # (N, P), (P,)
    row, piece = np.nonzero(away_m - off_m <= (away_m + off_m).min(axis=1, keepdims=True))
    nearest, chord_m = _nearest(pieces[piece], at[row])  # (pairs, 2), (pairs,)
    order = np.lexsort((chord_m, row))
    best = order[np.unique(row[order], return_index=True)[1]]  # (N,)
    _, _, metres = WGS84.inv(places[:, 0], places[:, 1], nearest[best, 0], nearest[best, 1])
    return np.asarray(metres, dtype=np.float64)


def _nearest(pieces: Floats, at: Floats) -> tuple[Floats, Floats]:
    """The place on each of (K, 2, 2) pieces with the shortest chord to (K, 3), and that chord in metres."""
    start, step = pieces[:, 0], pieces[:, 1] - pieces[:, 0]

    def chord_m(share: Floats) -> Floats:
        there = _ecef(start + share[:, None] * step)
        return np.asarray(np.linalg.norm(there - at, axis=1))

    low, high = np.zeros(len(at)), np.ones(len(at))
    one, other = low + _GOLDEN, high - _GOLDEN
    one_m, other_m = chord_m(one), chord_m(other)
    for _ in range(_STEPS):
        left = one_m < other_m
        low, high = np.where(left, low, one), np.where(left, other, high)
        margin = (high - low) * _GOLDEN
        new = np.where(left, low + margin, high - margin)
        new_m = chord_m(new)
        one, other = np.where(left, new, other), np.where(left, one, new)
        one_m, other_m = np.where(left, new_m, other_m), np.where(left, one_m, new_m)
    shares = np.stack([(low + high) / 2.0, np.zeros(len(at)), np.ones(len(at))])  # (3, K)
    chords_m = np.stack([chord_m(share) for share in shares])
    best = chords_m.argmin(axis=0)
    rows = np.arange(len(at))
    return start + shares[best, rows, None] * step, chords_m[best, rows]


def _chord_distances_m(pieces: Floats, at: Floats) -> Floats:
    """From (N, 3) places to the straight chords of (P, 2, 2) pieces through the Earth, (N, P)."""
    start, end = _ecef(pieces[:, 0]), _ecef(pieces[:, 1])  # (P, 3)
    along = end - start
    beside = at[:, None] - start  # (N, P, 3)
    square = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip((beside * along).sum(axis=2) / square, 0.0, 1.0)  # (N, P)
    return np.asarray(np.linalg.norm(beside - share[..., None] * along, axis=2))


def _arc_heights_m(pieces: Floats) -> Floats:
    """No place on a piece is farther than this from its chord, (P,): an eighth of the second derivative."""
    lng_rad, lat_rad = np.radians(np.abs(pieces[:, 1] - pieces[:, 0])).T
    return np.asarray(6_500_000.0 * (lng_rad + lat_rad) ** 2 / 8.0 + _SLACK_M)


def _ecef(places: Floats) -> Floats:
    """(…, 2) degrees to (…, 3) Earth-centred metres on the ellipsoid."""
    lng, lat = np.radians(places[..., 0]), np.radians(places[..., 1])
    up = np.sin(lat)
    normal_m = WGS84.a / np.sqrt(1.0 - WGS84.es * up**2)
    across_m = normal_m * np.cos(lat)
    return np.stack(
        [across_m * np.cos(lng), across_m * np.sin(lng), normal_m * (1.0 - WGS84.es) * up], axis=-1
    )
