"""A plane that touches the Earth: metres east and north of an anchor. Exact to 0.1 % within 5 km."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spatial_index.geodesy import radii_m
from tiling.grid import LngLat

Floats = NDArray[np.float64]


def xy_of(positions: Sequence[LngLat], anchor: LngLat) -> Floats:
    """East and north of the anchor, metres, (P, 2); the short way around the Earth."""
    per_lng, per_lat = _metres_per_degree(anchor)
    lngs = (np.array([at.lng for at in positions]) - anchor.lng + 180.0) % 360.0 - 180.0
    lats = np.array([at.lat for at in positions]) - anchor.lat
    return np.column_stack([lngs * per_lng, lats * per_lat])


def lnglat_at(xy_m: Floats, anchor: LngLat) -> LngLat:
    """The position (2,) metres east and north of the anchor."""
    per_lng, per_lat = _metres_per_degree(anchor)
    lng = (anchor.lng + float(xy_m[0]) / per_lng + 180.0) % 360.0 - 180.0
    return LngLat(lng=lng, lat=min(90.0, max(-90.0, anchor.lat + float(xy_m[1]) / per_lat)))


def _metres_per_degree(at: LngLat) -> tuple[float, float]:
    along_meridian_m, across_m = radii_m(at.lat)
    east = max(across_m * math.cos(math.radians(at.lat)), 1.0)
    return float(math.radians(east)), float(math.radians(along_meridian_m))
