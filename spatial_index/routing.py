"""Which regions a condition can hold patches in, so that a search leaves all others alone.

A region is known by its footprint, its name and the time of its imagery; its points are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from shapely import STRtree
from shapely.geometry import Polygon

from spatial_index.geodesy import areas_in
from spatial_index.records import RegionInfo
from spatial_index.selection import Captured, Disc, InRegions, Leaf, Selection, Shape, leaves

MARGIN_DEG = 1e-3  # a footprint holds its patches' centres; a patch's width more costs nothing


class Router:
    """Keeps the footprints of the live regions between searches, and makes them anew when these change."""

    def __init__(self) -> None:
        self._footprints = Footprints(())

    def footprints(self, regions: Sequence[RegionInfo]) -> Footprints:
        """The footprints of these regions; safe to call from several threads."""
        footprints = self._footprints
        if not footprints.are_of(regions):
            footprints = self._footprints = Footprints(regions)
        return footprints


class Footprints:
    """An R-tree over the coverage of regions."""

    def __init__(self, regions: Sequence[RegionInfo]) -> None:
        self._key = [(info.name, info.coverage) for info in regions]
        parts = [(name, part) for name, area in self._key for part in areas_in(area)]
        self._names = np.array([name for name, _ in parts], dtype=object)
        self._tree = STRtree([part for _, part in parts])

    def are_of(self, regions: Sequence[RegionInfo]) -> bool:
        """Whether these are the very regions; the same coverage object is the same coverage."""
        return len(regions) == len(self._key) and all(
            info.coverage is coverage and info.name == name
            for info, (name, coverage) in zip(regions, self._key, strict=True)
        )

    def touched_by(self, shape: Shape) -> frozenset[str]:
        """Names of the regions in which a patch centre may lie inside the shape."""
        boxes = list(shape.boxes) if isinstance(shape, Disc) else [shape]
        near = self._tree.query(boxes, predicate="dwithin", distance=MARGIN_DEG)[1]
        return frozenset(self._names[near])


def route(selection: Selection, footprints: Footprints) -> Callable[[RegionInfo], Selection]:
    """What a selection comes to in each region: leaves that hold everywhere or nowhere in it are gone."""
    found = [leaf for side in (selection.outer, selection.inner) for leaf in leaves(side)]
    touched = {id(leaf): footprints.touched_by(leaf) for leaf in found if isinstance(leaf, (Disc, Polygon))}

    def in_region(info: RegionInfo) -> Selection:
        def known(leaf: Leaf) -> bool | None:
            match leaf:
                case InRegions():
                    return info.name in leaf.names
                case Captured():
                    return None if _may_hold(info, leaf) else False
                case _:
                    return None if info.name in touched[id(leaf)] else False

        return selection.where(known)

    return in_region


def _may_hold(info: RegionInfo, captured: Captured) -> bool:
    if info.imagery_from is None or info.imagery_to is None:  # no patch has a capture time
        return False
    before_end = captured.end is None or info.imagery_from < captured.end
    return before_end and (captured.start is None or captured.start <= info.imagery_to)
