"""Shapes over the antimeridian: continuous longitudes, which may leave ±180°, and parts inside it.

Polygons follow RFC 7946: edges are straight lines in longitude and latitude.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely
from shapely.affinity import translate
from shapely.geometry import LinearRing, Polygon, box
from shapely.geometry.base import BaseGeometry

Floats = npt.NDArray[np.float64]


class EnclosesPole(ValueError):
    """A ring that winds once around the Earth: its inside is not defined in longitude and latitude."""


def unwrapped(polygon: Polygon) -> Polygon:
    """The polygon with continuous longitudes, which may then leave ±180°.

    An edge that jumps by more than 180° of longitude is read as the short way across the antimeridian.

    Raises:
        EnclosesPole: a ring winds around a pole.
    """
    shell = _unwrapped_ring(np.asarray(polygon.exterior.coords)[:, :2])
    holes = [_beside(shell, _unwrapped_ring(np.asarray(hole.coords)[:, :2])) for hole in polygon.interiors]
    return Polygon(shell, holes)


def unwrapped_line(points: Floats) -> Floats:
    """(V, 2) with every step shorter than 180° of longitude; exactly 360° is the literal long way."""
    step = np.diff(points[:, 0])
    jumps = (np.abs(step) > 180.0) & (np.abs(step) < 360.0)
    turns = np.concatenate([[0.0], np.cumsum(np.where(jumps, -360.0 * np.sign(step), 0.0))])
    return np.column_stack([points[:, 0] + turns, points[:, 1]])


def split_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """Move the parts beyond ±180° of longitude to the other side."""
    west, _, east, _ = geometry.bounds
    if west >= -180 and east <= 180:
        return geometry
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        moved = translate(geometry, xoff=turn)
        parts.append(shapely.intersection(moved, box(-180, -90, 180, 90)))
    polygons = [part for part in shapely.get_parts(parts) if part.area > 0]
    return shapely.union_all(polygons)


def continuous_bounds(area: BaseGeometry) -> tuple[float, float, float, float]:
    """West, south, east, north of the narrowest span of longitudes that holds every part; may pass 180°."""
    bounds = shapely.bounds(shapely.get_parts(area))  # (N, 4)
    bounds = bounds[np.argsort(bounds[:, 0])]
    west, east = bounds[:, 0], np.maximum.accumulate(bounds[:, 2])
    gaps = np.append(west[1:], west[0] + 360.0) - east  # behind each part
    last = int(gaps.argmax())
    first = (last + 1) % len(west)
    turn = 360.0 if first else 0.0
    return float(west[first]), float(bounds[:, 1].min()), float(east[last]) + turn, float(bounds[:, 3].max())


def _unwrapped_ring(ring: Floats) -> Floats:
    """(V, 2) ring with continuous longitudes."""
    points = unwrapped_line(ring)
    if points[-1, 0] != ring[-1, 0]:
        raise EnclosesPole
    return points


def _beside(shell: Floats, hole: Floats) -> Floats:
    """The hole shifted by whole turns into the longitudes of its shell."""
    outline = Polygon(shell)
    for turn in (0.0, -360.0, 360.0):
        moved = hole + np.array([turn, 0.0])
        if outline.covers(LinearRing(moved)):
            return np.asarray(moved, dtype=np.float64)
    return hole
