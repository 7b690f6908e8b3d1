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


def coverage_of(quadkeys: Iterable[str]) -> BaseGeometry:
    """Union of tiles of one zoom in WGS84; four siblings count as their parent, which keeps a city cheap."""
    keys = list(quadkeys)
    if not keys:
        return shapely.Polygon()
    codes = np.unique(np.array([int(key, 4) for key in keys], np.int64))
    boxes = [box(*mercantile.bounds(mercantile.quadkey_to_tile(key))) for key in _merged(codes, len(keys[0]))]
    return shapely.union_all(boxes).simplify(0)


def area_km2(area: BaseGeometry) -> float:
    """Area on the WGS84 ellipsoid."""
    return abs(float(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(area)[0])) / 1e6


def _merged(codes: npt.NDArray[np.int64], zoom: int) -> Iterator[str]:
    """Quadkeys of the largest tiles that exactly fill the given ones (sorted, without duplicates)."""
    for level in range(zoom, 0, -1):
        parents, sizes = np.unique(codes >> 2, return_counts=True)
        full = parents[sizes == 4]
        rest = codes[~np.isin(codes >> 2, full)]
        yield from (np.base_repr(code, 4).zfill(level) for code in rest.tolist())
        codes = full
