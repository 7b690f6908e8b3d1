"""Street networks: six patterns, each a set of centre lines over a square city.

Coordinates are metres, x east, y north, the city spans [0, size_m] in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from shapely import get_parts, line_merge, unary_union
from shapely.geometry import LineString, MultiPoint, Polygon, box
from shapely.ops import voronoi_diagram

from simulation.styles import CityStyle, Pattern

Rng = np.random.Generator
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """One street between two junctions: centre line, widths, and whether trees line it."""

    line: LineString
    width_m: float
    sidewalk_m: float
    has_trees: bool
    is_main: bool


def lay_out(style: CityStyle, size_m: float, rng: Rng) -> list[Street]:
    """The streets of a city of that style, cut at every junction."""
    mains, sides = _centre_lines(style, size_m, rng)
    city = box(0, 0, size_m, size_m)
    main_zone = unary_union(mains).buffer(0.5) if mains else Polygon()
    network = unary_union([line.intersection(city) for line in [*mains, *sides]])
    streets = []
    for line in get_parts(network):
        if not isinstance(line, LineString) or line.length < 4.0:
            continue
        is_main = bool(main_zone.contains(line))
        if not is_main and rng.random() < _DROP_SHARE[style.pattern] and line.length > 30.0:
            continue
        width = rng.choice([11.0, 13.5, 16.0]) if is_main else rng.choice([5.5, 6.5, 7.5, 9.0])
        streets.append(
            Street(
                line=line,
                width_m=float(width),
                sidewalk_m=float(rng.uniform(2.2, 4.0) if is_main else rng.uniform(1.2, 3.0)),
                has_trees=bool(rng.random() < style.street_trees),
                is_main=is_main,
            )
        )
    return streets


_DROP_SHARE = {
    Pattern.GRID: 0.10,
    Pattern.WARPED: 0.12,
    Pattern.ORGANIC: 0.08,
    Pattern.SUPERBLOCK: 0.05,
    Pattern.CRESCENT: 0.06,
    Pattern.RADIAL: 0.10,
}


def _centre_lines(style: CityStyle, size_m: float, rng: Rng) -> tuple[list[LineString], list[LineString]]:
    """(main streets, side streets) before they are cut at junctions."""
    match style.pattern:
        case Pattern.GRID:
            return _grid(style.block_m, size_m, rng, wobble_m=0.0, jitter=0.22)
        case Pattern.WARPED:
            return _grid(style.block_m, size_m, rng, wobble_m=26.0, jitter=0.3)
        case Pattern.SUPERBLOCK:
            return _superblock(style.block_m, size_m, rng)
        case Pattern.ORGANIC:
            return _organic(style.block_m, size_m, rng)
        case Pattern.CRESCENT:
            return _crescent(style.block_m, size_m, rng)
        case Pattern.RADIAL:
            return _radial(style.block_m, size_m, rng)
        case _:
            raise AssertionError(style.pattern)


def _spaced(start: float, stop: float, step: float, jitter: float, rng: Rng) -> list[float]:
    values, at = [], start
    while at < stop:
        values.append(at)
        at += step * float(rng.uniform(1 - jitter, 1 + jitter))
    return values


def _smooth_field(size_m: float, amplitude_m: float, rng: Rng) -> tuple[Points, Points, Points]:
    """A few plane waves: (wave vectors (K, 2), phases (K,), amplitudes (K, 2))."""
    waves = rng.normal(size=(6, 2)) * (2 * np.pi / rng.uniform(250, 700, size=(6, 1)))
    return waves, rng.uniform(0, 2 * np.pi, 6), rng.normal(size=(6, 2)) * amplitude_m / 2.4


def _bend(points: Points, field: tuple[Points, Points, Points]) -> Points:
    waves, phases, amplitudes = field
    return np.asarray(points + np.sin(points @ waves.T + phases) @ amplitudes)


def _simplified(points: Points) -> LineString:
    return LineString(LineString(points).simplify(0.3).coords)


def _rotate(points: Points, angle: float, centre: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray((points - centre) @ np.array([[c, s], [-s, c]]) + centre)


def _grid(
    block_m: float, size_m: float, rng: Rng, *, wobble_m: float, jitter: float
) -> tuple[list[LineString], list[LineString]]:
    reach, centre = size_m * 0.75, size_m / 2
    angle = float(rng.uniform(0, np.pi / 2))
    field = _smooth_field(size_m, wobble_m, rng)
    along = np.arange(-reach, reach + 1, 12.0)
    mains: list[LineString] = []
    sides: list[LineString] = []
    for axis in (0, 1):
        stretch = 1.0 if axis == 0 else float(rng.uniform(1.0, 1.9))
        for k, at in enumerate(_spaced(-reach, reach, block_m * stretch, jitter, rng)):
            points = np.empty((along.size, 2))
            points[:, axis], points[:, 1 - axis] = at, along
            bent = _bend(_rotate(points + centre, angle, centre), field)
            line = _simplified(bent)
            (mains if k % 5 == 2 else sides).append(line)
    return mains, sides


def _superblock(block_m: float, size_m: float, rng: Rng) -> tuple[list[LineString], list[LineString]]:
    """Wide streets far apart; inside, access lanes that end in the block."""
    mains, lines = _grid(block_m * 1.25, size_m, rng, wobble_m=6.0, jitter=0.25)
    stubs = []
    for line in [*mains, *lines]:
        for at in _spaced(30.0, line.length, 85.0, 0.5, rng):
            start, ahead = line.interpolate(at), line.interpolate(at + 1.0)
            dx, dy = ahead.x - start.x, ahead.y - start.y
            side, length = float(rng.choice([-1, 1])), float(rng.uniform(40, 75))
            stubs.append(
                LineString([(start.x, start.y), (start.x - side * dy * length, start.y + side * dx * length)])
            )
    return mains, [*lines, *stubs]


def _organic(block_m: float, size_m: float, rng: Rng) -> tuple[list[LineString], list[LineString]]:
    """Edges of a relaxed Voronoi diagram, rounded off."""
    count = int((size_m * 1.3 / block_m) ** 2)
    points = rng.uniform(-0.15 * size_m, 1.15 * size_m, size=(count, 2))
    cells = _voronoi_cells(points)
    centres = np.array([[c.centroid.x, c.centroid.y] for c in cells])
    edges = line_merge(unary_union([c.exterior for c in _voronoi_cells(centres)]))
    field = _smooth_field(size_m, 10.0, rng)
    sides = [LineString(_bend(np.asarray(e.segmentize(10.0).coords), field)) for e in get_parts(edges)]
    mains, _ = _grid(size_m * 0.13, size_m, rng, wobble_m=45.0, jitter=0.2)
    return mains, sides


def _voronoi_cells(points: Points) -> list[Polygon]:
    cells = voronoi_diagram(MultiPoint(points))
    reach = 4 * np.abs(points).max()
    return [c for c in cells.geoms if isinstance(c, Polygon) and c.length < reach]


def _crescent(block_m: float, size_m: float, rng: Rng) -> tuple[list[LineString], list[LineString]]:
    """Strongly curved parallel streets joined by short cross streets."""
    mains, _ = _grid(size_m * 0.09, size_m, rng, wobble_m=12.0, jitter=0.2)
    field = _smooth_field(size_m, 40.0, rng)
    angle, centre, reach = float(rng.uniform(0, np.pi)), size_m / 2, size_m * 0.8
    along = np.arange(-reach, reach, 8.0)
    rows = _spaced(-reach, reach, block_m * 0.72, 0.15, rng)
    sides = []
    for low, high in pairwise(rows):
        points = np.stack([along, np.full(along.size, low)], axis=1)
        sides.append(_simplified(_bend(_rotate(points + centre, angle, centre), field)))
        for at in _spaced(-reach, reach, block_m * 2.0, 0.4, rng):
            link = np.stack([np.full(9, at), np.linspace(low, high, 9)], axis=1)
            sides.append(LineString(_bend(_rotate(link + centre, angle, centre), field)))
    return mains, sides


def _radial(block_m: float, size_m: float, rng: Rng) -> tuple[list[LineString], list[LineString]]:
    """Rings around a square off the centre, with spokes that multiply outwards."""
    cx, cy = size_m * rng.uniform(0.4, 0.6, 2)
    squash, turn = rng.uniform(0.75, 1.0), rng.uniform(0, np.pi)
    field = _smooth_field(size_m, 14.0, rng)

    def place(radius: Iterable[float] | Points, angle: Points) -> Points:
        r = np.asarray(radius, dtype=float)
        local = np.stack([r * np.cos(angle), squash * r * np.sin(angle)], axis=-1)
        c, s = np.cos(turn), np.sin(turn)
        return _bend(local @ np.array([[c, s], [-s, c]]) + np.array([cx, cy]), field)

    radii = _spaced(block_m * 0.6, size_m * 1.1, block_m * 0.85, 0.18, rng)
    around = np.linspace(0, 2 * np.pi, 161)
    mains: list[LineString] = []
    sides: list[LineString] = []
    for k, radius in enumerate(radii):
        (mains if k % 4 == 1 else sides).append(LineString(place(np.full(around.size, radius), around)))
    offset = float(rng.uniform(0, 2 * np.pi))
    for k in range(6):
        reach = np.linspace(0, radii[-1], 60)
        mains.append(LineString(place(reach, np.full(60, offset + k * np.pi / 3 + rng.normal(0, 0.08)))))
    for inner, outer in pairwise(radii):
        count = max(6, int(2 * np.pi * inner / (block_m * 1.35)))
        start = float(rng.uniform(0, 2 * np.pi))
        for k in range(count):
            angle = start + (k + rng.uniform(-0.2, 0.2)) * 2 * np.pi / count
            sides.append(LineString(place(np.linspace(inner, outer, 6), np.full(6, angle))))
    return mains, sides
