"""Where and when the patches of a generation were taken, in memory.

The engine checks a shape point by point, at about 1 µs a point, once to count and once to search; whether a
point is in one of many cells it looks up in 0.2 µs. With a roster, which patches a prior holds is seen here,
exactly, and the engine is told the cells that hold them and nothing else, as in a quadtree: the largest cells
where all that stands in them is held, single patches at the rim. Knows no Qdrant package.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from spatial_index.cells import LEVELS_UP, CellTable, Flags, Floats, Rows, boxes_of, may_hold, surely_holds
from spatial_index.geodesy import haversine_m
from spatial_index.priors import Prior
from spatial_index.selection import (
    ENGINE_SPHERE_M,
    EVERYTHING,
    NOTHING,
    Captured,
    Condition,
    Disc,
    Every,
    InCells,
    Selection,
    Some,
    Spot,
)
from spatial_index.weights import Places, searched

MOST_NAMED = 10_000  # cells; more take longer to name than to check

Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpotTable:
    """Where and when N patches were taken."""

    lngs: Floats
    """(N,)"""
    lats: Floats
    """(N,)"""
    taken_s: Floats
    """(N,) seconds since 1970; NaN: unknown."""

    def take(self, rows: Rows) -> SpotTable:
        """Some of them."""
        return SpotTable(lngs=self.lngs[rows], lats=self.lats[rows], taken_s=self.taken_s[rows])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Roster:
    """The patches of a generation, in the order of their quadkeys; N patches in C of the largest cells."""

    region: str
    zoom: int
    codes: Codes
    """(N,) the patches' own cells: quadkeys read as numbers to the base of 4."""
    spots: SpotTable
    firsts: Rows
    """(C + 1,) first row of each of the largest cells, and N."""
    cells: CellTable

    @classmethod
    def of(cls, region: str, pages: Iterable[Sequence[Spot]]) -> Roster | None:
        """From all patches of a generation, in any order; None where an earlier version wrote some, or where
        they do not stand in the tiles that their quadkeys name."""
        read = [_columns(page) for page in pages if page]  # page by page: a Spot takes ten times as much
        names, lngs, lats, taken_s = (np.concatenate(column) for column in zip(*read, strict=True))
        zoom = len(str(names[0]))
        if not zoom or (np.char.str_len(names) != zoom).any():
            return None
        order = np.argsort(names, kind="stable")
        names, spots = names[order], SpotTable(lngs=lngs, lats=lats, taken_s=taken_s).take(order)
        largest = [name[: max(1, zoom - LEVELS_UP)] for name in names.tolist()]
        cells, firsts = np.unique(largest, return_index=True)
        table = CellTable(
            boxes=boxes_of(cells.tolist()),
            earliest_s=np.minimum.reduceat(spots.taken_s, firsts),
            latest_s=np.maximum.reduceat(spots.taken_s, firsts),
        )
        firsts = np.append(firsts, len(names))
        if not table.hold(np.repeat(np.arange(len(cells)), np.diff(firsts)), spots.lngs, spots.lats):
            return None
        codes = np.array([int(name, 4) for name in names.tolist()], np.int64)
        return cls(region=region, zoom=zoom, codes=codes, spots=spots, firsts=firsts, cells=table)

    def __len__(self) -> int:
        return len(self.codes)

    def resolve(self, selection: Selection, prior: Prior) -> tuple[Condition | None, int]:
        """The search area in cells, and how many patches it holds; None where it takes too many cells.

        Args:
            selection: of the prior, in this region.
        """
        condition, count = self._resolve(selection, prior)
        if condition is None:
            times, places = _split(selection)
            if times and places.outer != EVERYTHING:  # times without order in space are left to the engine
                condition, _ = self._resolve(places, prior)
                condition = condition and Every(parts=(*times, condition))
        return condition, count

    def _resolve(self, selection: Selection, prior: Prior) -> tuple[Condition | None, int]:
        near = np.flatnonzero(may_hold(selection.outer, self.cells))
        within = surely_holds(selection.inner, self.cells.take(near))
        whole, rim = near[within], near[~within]
        sizes = np.diff(self.firsts)
        rows = _ranges(self.firsts[rim], sizes[rim])
        passes = self._passes(rows, selection, prior)
        count = int(sizes[whole].sum()) + int(passes.sum())
        if not count:
            return NOTHING, 0
        if count == len(self):
            return EVERYTHING, count
        names = self._names(self.firsts[whole], rows, passes)
        return (None if names is None else InCells(names=names)), count

    def _passes(self, rows: Rows, selection: Selection, prior: Prior) -> Flags:
        """Which of the rows lie in the search area."""
        spots = self.spots.take(rows)
        passes = holds(selection.outer, spots)
        unsure = np.flatnonzero(passes & ~holds(selection.inner, spots))
        if len(unsure) and not selection.is_exact:
            passes[unsure] = searched(prior, self._places(spots.take(unsure)))
        return passes

    def _places(self, spots: SpotTable) -> Places:
        return Places(
            lngs=spots.lngs,
            lats=spots.lats,
            regions=[self.region] * len(spots.lngs),
            captured_at=[moment_at(taken_s) for taken_s in spots.taken_s.tolist()],
        )

    def _names(self, whole: Rows, rows: Rows, passes: Flags) -> tuple[str, ...] | None:
        """The largest cells of which all patches pass; None for too many, or for two patches in one cell of
        which one passes.

        Args:
            whole: a row of each of the largest cells that pass.
            rows: all rows of other cells, and whether each of them `passes`.
        """
        top = min(LEVELS_UP, self.zoom - 1)
        names = _quadkeys(self.codes[whole] >> 2 * top, self.zoom - top)
        codes, left = self.codes[rows], passes.copy()
        for level in range(top, -1, -1):
            cells = codes >> 2 * level
            firsts = np.flatnonzero(np.diff(cells, prepend=-1))
            if not len(firsts):
                break
            full = np.logical_and.reduceat(left, firsts)
            if len(names) + int(full.sum()) > MOST_NAMED:
                return None
            names += _quadkeys(cells[firsts[full]], self.zoom - level)
            left &= ~np.repeat(full, np.diff(firsts, append=len(cells)))
        return None if left.any() else tuple(names)


def holds(condition: Condition, spots: SpotTable) -> Flags:
    """Which patches pass a condition, (N,); as the engine decides it."""
    match condition:
        case Every():
            return _all([holds(part, spots) for part in condition.parts], len(spots.lngs))
        case Some():
            return ~_all([~holds(part, spots) for part in condition.parts], len(spots.lngs))
        case Disc():
            return _within(condition, spots)
        case Polygon():
            return np.asarray(shapely.contains_xy(condition, spots.lngs, spots.lats))
        case Captured():
            since_s, before_s = condition.seconds
            return np.asarray((spots.taken_s >= since_s) & (spots.taken_s < before_s))
        case _:
            raise TypeError(f"no condition on spots: {type(condition).__name__}")


def _within(disc: Disc, spots: SpotTable) -> Flags:
    """Distances take a while: they are measured only where the latitude alone does not say no."""
    reach_deg = math.degrees(disc.radius_m / ENGINE_SPHERE_M) + 1e-9
    passes = np.asarray(np.abs(spots.lats - disc.centre.lat) <= reach_deg)
    near = np.flatnonzero(passes)
    away_m = haversine_m(disc.centre, spots.lngs[near], spots.lats[near], ENGINE_SPHERE_M)
    passes[near] = away_m <= disc.radius_m
    return passes


def _split(selection: Selection) -> tuple[tuple[Captured, ...], Selection]:
    """The time ranges that must hold in any case, and the rest."""

    def apart(condition: Condition) -> tuple[tuple[Captured, ...], Condition]:
        parts = condition.parts if isinstance(condition, Every) else (condition,)
        times = tuple(part for part in parts if isinstance(part, Captured))
        return times, Every(parts=tuple(part for part in parts if not isinstance(part, Captured)))

    times, outer = apart(selection.outer)
    return times, Selection(outer=outer, inner=apart(selection.inner)[1])


def _columns(page: Sequence[Spot]) -> tuple[NDArray[Any], ...]:
    """The patch's own cell, longitude, latitude and time, each (n,)."""
    taken = [spot.captured_at for spot in page]
    return (
        np.array([spot.cells[-1] if spot.cells else "" for spot in page]),
        np.array([spot.location.lng for spot in page], np.float64),
        np.array([spot.location.lat for spot in page], np.float64),
        np.array([moment.timestamp() if moment else np.nan for moment in taken], np.float64),
    )


def _quadkeys(codes: Codes, zoom: int) -> list[str]:
    """The quadkeys that are these numbers to the base of 4."""
    digits = (codes[:, None] >> 2 * np.arange(zoom - 1, -1, -1)) & 3  # (n, zoom)
    found: list[str] = (digits + ord("0")).astype(np.uint8).view(f"S{zoom}").ravel().astype(np.str_).tolist()
    return found


def moment_at(taken_s: float) -> datetime | None:
    """A time of a `SpotTable`."""
    return None if math.isnan(taken_s) else datetime.fromtimestamp(taken_s, UTC)


def _all(parts: Sequence[Flags], count: int) -> Flags:
    passes = np.ones(count, dtype=np.bool_)
    for part in parts:
        passes &= part
    return passes


def _ranges(firsts: Rows, sizes: Rows) -> Rows:
    """The rows of ranges, one after the other."""
    before = np.cumsum(sizes) - sizes
    return np.asarray(np.arange(int(sizes.sum())) + np.repeat(firsts - before, sizes))
