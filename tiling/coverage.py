"""The ground that tiles cover, as few rectangles as possible, and its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mercantile
import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

MERGE_EVERY = 100_000  # tiles kept one by one before siblings are merged

Codes = npt.NDArray[np.int64]  # quadkeys as numbers of base 4


class Coverage:
    """The union of tiles of one zoom, collected piece by piece.

    Four siblings are kept as their parent, so that a city costs as much as its outline.
    """

    def __init__(self) -> None:
        self._by_zoom: dict[int, Codes] = {}
        self._new: list[int] = []
        self._zoom = 0

    def add(self, quadkeys: Iterable[str]) -> None:
        """Add tiles; all of them have the same zoom, and one that is there already changes nothing."""
        for quadkey in quadkeys:
            self._zoom = len(quadkey)
            self._new.append(int(quadkey, 4))
        if len(self._new) >= MERGE_EVERY:
            self._merge()

    def geometry(self) -> BaseGeometry:
        """The covered ground in WGS84; empty without tiles."""
        self._merge()
        boxes = [box(*mercantile.bounds(mercantile.quadkey_to_tile(key))) for key in self._quadkeys()]
        return shapely.union_all(boxes).simplify(0) if boxes else shapely.Polygon()

    def _quadkeys(self) -> Iterator[str]:
        for zoom, codes in self._by_zoom.items():
            yield from (np.base_repr(code, 4).zfill(zoom) for code in codes.tolist())

    def _merge(self) -> None:
        added = np.array(self._new, np.int64)
        self._new.clear()
        for zoom in range(self._zoom, 0, -1):
            known = self._by_zoom.get(zoom)
            codes = np.unique(added if known is None else np.concatenate([known, added]))
            parents, sizes = np.unique(codes >> 2, return_counts=True)
            added = parents[sizes == 4]  # becomes part of the zoom above
            self._by_zoom[zoom] = codes[~np.isin(codes >> 2, added)]


def area_km2(area: BaseGeometry) -> float:
    """Area on the WGS84 ellipsoid."""
    return abs(float(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(area)[0])) / 1e6
