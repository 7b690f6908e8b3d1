"""Cells: patches grouped by the tile that they stand in, so that a filter need not measure each of them.

The engine checks a shape point by point, at about 1 µs a point; whether a point is in one of many cells it
looks up in 0.2 µs. So the cells that surely lie within the search area are taken whole, those that surely lie
outside of it are left out, and only what stands in the rim between is checked by the shape itself. Knows no
Qdrant package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import mercantile
import numpy as np
import shapely
from mercantile import LngLat
from numpy.typing import NDArray
from shapely.geometry import Polygon

from spatial_index.geodesy import haversine_m
from spatial_index.selection import (
    ENGINE_SPHERE_M,
    EVERYTHING,
    NOTHING,
    OUTLINE_DEG,
    Captured,
    Condition,
    Disc,
    Every,
    InCells,
    Selection,
    Some,
)

LEVELS_UP = 3  # 64 patches to a cell: fewer cells take longer at the rim, more take longer to look up
MERCATOR_LAT = 85.0  # tiles beyond reach to the pole here
WIDE_DEG = 5.0  # of a box that is wider, the farthest point from its centre need not be a corner
FAR_M = 9_000_000.0  # up to here the farthest point of a small box is one of its corners

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cells:
    """The cells of a generation; C of them."""

    names: NDArray[np.object_]
    """(C,)"""
    counts: NDArray[np.int64]
    """(C,) patches in each."""
    boxes: Floats
    """(C, 4) west, south, east, north; degrees."""

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Cells:
        """From the number of patches by name."""
        return cls(
            names=np.array(list(counts), dtype=np.object_),
            counts=np.fromiter(counts.values(), np.int64, len(counts)),
            boxes=np.array([_box_of(name) for name in counts], np.float64).reshape(-1, 4),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """A selection, said in cells."""

    outer: Condition
    """The same patches as the selection's own."""
    rim: Selection
    """The same again, of the patches in the rim alone; a second look is due between the two."""
    whole: int | None
    """Patches in cells that lie within; None where a time range decides too."""


def cell_of(location: LngLat, zoom: int) -> str:
    """The cell of a patch of a grid of that zoom."""
    tile = mercantile.tile(location.lng, location.lat, max(0, zoom - LEVELS_UP), truncate=True)
    return str(mercantile.quadkey(tile))


def divide(selection: Selection, cells: Cells) -> Division | None:
    """The selection said in cells; None where it asks for no place. Regions are decided before."""
    times, outer = _split(selection.outer)
    _, inner = _split(selection.inner)
    if outer == EVERYTHING:
        return None
    near = np.flatnonzero(may_hold(outer, cells.boxes))
    within = surely_holds(inner, cells.boxes[near])
    whole, rim = near[within], near[~within]
    unsure = _all_of(_in_cells(cells, rim), selection.outer) if len(rim) else NOTHING
    taken: Condition = NOTHING
    if len(whole):
        taken = (
            _all_of(*times) if len(whole) == len(cells.names) else _all_of(*times, _in_cells(cells, whole))
        )
    return Division(
        outer=_any_of(*(part for part in (taken, unsure) if part != NOTHING)),
        rim=replace(selection, outer=unsure),
        whole=None if times else int(cells.counts[whole].sum()),
    )


def surely_holds(condition: Condition, boxes: Floats) -> Flags:
    """Whether all of a box (N, 4) passes, (N,); sometimes False where it does."""
    match condition:
        case Every():
            return _every([surely_holds(part, boxes) for part in condition.parts], len(boxes))
        case Some():
            return _some([surely_holds(part, boxes) for part in condition.parts], len(boxes))
        case Disc():
            if condition.radius_m > FAR_M:
                return np.zeros(len(boxes), np.bool_)
            away_m = np.max([_away_m(condition, *corner) for corner in _corners(boxes)], axis=0, initial=0.0)
            return np.asarray((away_m <= condition.radius_m) & ~_wide(boxes))
        case Polygon():
            shapely.prepare(condition)
            return np.asarray(shapely.contains(condition, shapely.box(*boxes.T)))
        case Captured():
            return np.zeros(len(boxes), np.bool_)
        case _:
            raise TypeError(f"no condition on places: {type(condition).__name__}")


def may_hold(condition: Condition, boxes: Floats) -> Flags:
    """Whether a place in a box (N, 4) may pass, (N,); sometimes True where none does."""
    match condition:
        case Every():
            return _every([may_hold(part, boxes) for part in condition.parts], len(boxes))
        case Some():
            return _some([may_hold(part, boxes) for part in condition.parts], len(boxes))
        case Disc():
            return _reaches(condition, boxes)
        case Polygon():
            near = _overlaps(condition, boxes)
            shapely.prepare(condition)
            near[near] = shapely.intersects(condition, shapely.box(*boxes[near].T))
            return near
        case Captured():
            return np.ones(len(boxes), np.bool_)
        case _:
            raise TypeError(f"no condition on places: {type(condition).__name__}")


def _reaches(disc: Disc, boxes: Floats) -> Flags:
    """Whether a disc may reach a box, by the distance of its centre."""
    west, south, east, north = boxes.T
    lngs, lats = (west + east) / 2.0, (south + north) / 2.0
    half_m = np.hypot((north - south) / 2.0, (east - west) / 2.0) * np.radians(ENGINE_SPHERE_M)
    return np.asarray((_away_m(disc, lngs, lats) <= disc.radius_m + half_m) | _wide(boxes))


def _overlaps(polygon: Polygon, boxes: Floats) -> Flags:
    """Whether a box overlaps the polygon's own, which costs nothing to see."""
    west, south, east, north = boxes.T
    least_lng, least_lat, most_lng, most_lat = polygon.bounds
    return np.asarray((east >= least_lng) & (west <= most_lng) & (north >= least_lat) & (south <= most_lat))


def _away_m(disc: Disc, lngs: Floats, lats: Floats) -> Floats:
    return haversine_m(disc.centre, lngs, lats, ENGINE_SPHERE_M)


def _corners(boxes: Floats) -> tuple[tuple[Floats, Floats], ...]:
    west, south, east, north = boxes.T
    return (west, south), (west, north), (east, south), (east, north)


def _wide(boxes: Floats) -> Flags:
    west, south, east, north = boxes.T
    return np.asarray(np.maximum(east - west, north - south) > WIDE_DEG)


def _box_of(name: str) -> tuple[float, float, float, float]:
    """A cell's box; a hair more, since tiles are floored and boxes computed."""
    west, south, east, north = mercantile.bounds(mercantile.quadkey_to_tile(name))
    return (
        max(-180.0, west - OUTLINE_DEG),
        -90.0 if south < -MERCATOR_LAT else south - OUTLINE_DEG,
        min(180.0, east + OUTLINE_DEG),
        90.0 if north > MERCATOR_LAT else north + OUTLINE_DEG,
    )


def _split(condition: Condition) -> tuple[tuple[Captured, ...], Condition]:
    """The time ranges that must hold in any case, and the rest."""
    parts = condition.parts if isinstance(condition, Every) else (condition,)
    times = tuple(part for part in parts if isinstance(part, Captured))
    return times, _all_of(*(part for part in parts if not isinstance(part, Captured)))


def _all_of(*parts: Condition) -> Condition:
    return parts[0] if len(parts) == 1 else Every(parts=parts) if parts else EVERYTHING


def _any_of(*parts: Condition) -> Condition:
    return parts[0] if len(parts) == 1 else Some(parts=parts)


def _in_cells(cells: Cells, rows: NDArray[np.intp]) -> InCells:
    return InCells(names=tuple(cells.names[rows].tolist()))


def _every(parts: list[Flags], count: int) -> Flags:
    return np.logical_and.reduce(parts) if parts else np.ones(count, np.bool_)


def _some(parts: list[Flags], count: int) -> Flags:
    return np.logical_or.reduce(parts) if parts else np.zeros(count, np.bool_)
