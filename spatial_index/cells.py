"""Cells: the tiles that patches stand in, from the grid's own to LEVELS_UP levels above, and what a condition
means for all that stands in a cell.

Knows no Qdrant package.
"""

from __future__ import annotations

from dataclasses import dataclass

import mercantile
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from spatial_index.geodesy import haversine_m
from spatial_index.selection import ENGINE_SPHERE_M, OUTLINE_DEG, Captured, Condition, Disc, Every, Some

LEVELS_UP = 4  # 256 patches to the largest cell
MERCATOR_LAT = 85.0  # tiles beyond reach to the pole here
WIDE_DEG = 5.0  # of a box that is wider, the farthest point from its centre need not be a corner
FAR_M = 9_000_000.0  # up to here the farthest point of a small box is one of its corners

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CellTable:
    """Where C cells lie, and when what stands in them was taken."""

    boxes: Floats
    """(C, 4) west, south, east, north; degrees."""
    earliest_s: Floats
    """(C,) seconds since 1970; NaN: of something in the cell it is unknown."""
    latest_s: Floats
    """(C,)"""

    def __len__(self) -> int:
        return len(self.boxes)

    def hold(self, cell: Rows, lngs: Floats, lats: Floats) -> bool:
        """Whether all positions (N,) lie in their cells (N,)."""
        west, south, east, north = self.boxes[cell].T
        return bool(((west <= lngs) & (lngs <= east) & (south <= lats) & (lats <= north)).all())

    def take(self, rows: Rows) -> CellTable:
        """Some of them."""
        return CellTable(
            boxes=self.boxes[rows], earliest_s=self.earliest_s[rows], latest_s=self.latest_s[rows]
        )


def cells_of(quadkey: str) -> list[str]:
    """The cells of a patch, the largest first."""
    return [quadkey[:length] for length in range(max(1, len(quadkey) - LEVELS_UP), len(quadkey) + 1)]


def surely_holds(condition: Condition, cells: CellTable) -> Flags:
    """Whether all that stands in a cell passes, (C,); sometimes False where it does."""
    match condition:
        case Every():
            return _every([surely_holds(part, cells) for part in condition.parts], len(cells))
        case Some():
            return _some([surely_holds(part, cells) for part in condition.parts], len(cells))
        case Disc():
            return _covers(condition, cells.boxes)
        case Polygon():
            shapely.prepare(condition)
            return np.asarray(shapely.contains(condition, shapely.box(*cells.boxes.T)))
        case Captured():
            since_s, before_s = condition.seconds
            return np.asarray((cells.earliest_s >= since_s) & (cells.latest_s < before_s))
        case _:
            raise TypeError(f"no condition on places: {type(condition).__name__}")


def may_hold(condition: Condition, cells: CellTable) -> Flags:
    """Whether something in a cell may pass, (C,); sometimes True where nothing does."""
    match condition:
        case Every():
            return _every([may_hold(part, cells) for part in condition.parts], len(cells))
        case Some():
            return _some([may_hold(part, cells) for part in condition.parts], len(cells))
        case Disc():
            return _reaches(condition, cells.boxes)
        case Polygon():
            near = _overlaps(condition, cells.boxes)
            shapely.prepare(condition)
            near[near] = shapely.intersects(condition, shapely.box(*cells.boxes[near].T))
            return near
        case Captured():
            since_s, before_s = condition.seconds
            return ~((cells.latest_s < since_s) | (cells.earliest_s >= before_s))
        case _:
            raise TypeError(f"no condition on places: {type(condition).__name__}")


def boxes_of(cells: list[str]) -> Floats:
    """Boxes of cells, (C, 4): west, south, east, north; degrees."""
    return np.array([_box_of(cell) for cell in cells], np.float64).reshape(-1, 4)


def _covers(disc: Disc, boxes: Floats) -> Flags:
    """Whether a disc surely covers a box, by the distances of its corners."""
    if disc.radius_m > FAR_M:
        return np.zeros(len(boxes), np.bool_)
    away_m = np.max([_away_m(disc, *corner) for corner in _corners(boxes)], axis=0)
    return np.asarray((away_m <= disc.radius_m) & ~_wide(boxes))


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


def _every(parts: list[Flags], count: int) -> Flags:
    return np.logical_and.reduce(parts) if parts else np.ones(count, np.bool_)


def _some(parts: list[Flags], count: int) -> Flags:
    return np.logical_or.reduce(parts) if parts else np.zeros(count, np.bool_)
