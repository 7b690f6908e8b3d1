"""Checks of positions, lines and outlines that callers send: what cannot mean a place is refused by name.

The engine would answer it with silence. Knows nothing of priors or engines.
"""

from __future__ import annotations

import math

import numpy as np
import shapely
from shapely.geometry import LineString, MultiPolygon, Polygon
from shapely.validation import explain_validity

from spatial_index.errors import BadPrior
from spatial_index.geodesy import Floats, parts_of, split_at_antimeridian
from tiling.antimeridian import EnclosesPole, unwrapped

MAX_VERTICES = 10_000
_ORDER = "the order is (lng, lat) in WGS84 degrees; were they swapped?"


def check_lng(field: str, lng: float) -> None:
    """Refuse what is no longitude.

    Raises:
        BadPrior: not finite or outside ±180.
    """
    if not (math.isfinite(lng) and -180.0 <= lng <= 180.0):
        raise BadPrior(f"{field}.lng", lng, "-180 to 180", _ORDER)


def check_lat(field: str, lat: float) -> None:
    """Refuse what is no latitude.

    Raises:
        BadPrior: not finite or outside ±90.
    """
    if not (math.isfinite(lat) and -90.0 <= lat <= 90.0):
        raise BadPrior(f"{field}.lat", lat, "-90 to 90", _ORDER)


def check_coordinates(field: str, coordinates: Floats) -> None:
    """Refuse the first of (V, 2) positions that is not on Earth.

    Raises:
        BadPrior: names `field[index]`.
    """
    bad = ~(np.isfinite(coordinates) & (np.abs(coordinates) <= [180.0, 90.0])).all(axis=1)
    if bad.any():
        index = int(np.argmax(bad))
        check_lng(f"{field}[{index}]", float(coordinates[index, 0]))
        check_lat(f"{field}[{index}]", float(coordinates[index, 1]))


def check_vertex_count(field: str, count: int, limit: int = MAX_VERTICES) -> None:
    """Refuse shapes that would slow every search down.

    Raises:
        BadPrior: more than `limit` vertices.
    """
    if count > limit:
        raise BadPrior(field, count, f"at most {limit}", "simplify the outline or line")


def checked_polygon(polygon: Polygon | MultiPolygon) -> MultiPolygon:
    """The area with every part inside ±180° (RFC 7946, section 3.1.9).

    Raises:
        BadPrior: NaN, a vertex that is not on Earth, self-intersection, no area, too many vertices, or a ring
            around a pole.
    """
    if not isinstance(polygon, (Polygon, MultiPolygon)) or polygon.is_empty:
        kind = getattr(polygon, "geom_type", type(polygon).__name__)
        raise BadPrior("polygon", kind, "a non-empty Polygon or MultiPolygon", "give an outline with an area")
    coordinates = shapely.get_coordinates(polygon)  # (V, 2)
    check_vertex_count("polygon.vertices", len(coordinates))
    check_coordinates("polygon.vertices", coordinates)
    try:
        whole = MultiPolygon([unwrapped(part) for part in parts_of(polygon)])
        _check_valid(whole)
        return split_at_antimeridian(polygon)
    except EnclosesPole:
        raise BadPrior(
            "polygon", "a ring around a pole", "a ring that does not wind around the Earth",
            "cut it along the antimeridian and close it over the pole at latitude ±90",
        ) from None  # fmt: skip


def checked_line(line: LineString) -> LineString:
    """The line without heights.

    Raises:
        BadPrior: NaN, a position that is not on Earth, too many of them, or no two that differ.
    """
    if not isinstance(line, LineString) or line.is_empty:
        kind = getattr(line, "geom_type", type(line).__name__)
        raise BadPrior("corridor.line", kind, "a non-empty LineString", "give two positions or more")
    coordinates = shapely.get_coordinates(line)  # (V, 2)
    check_vertex_count("corridor.positions", len(coordinates))
    check_coordinates("corridor.positions", coordinates)
    if (coordinates == coordinates[0]).all():
        raise BadPrior(
            "corridor.positions", "one place", "two places or more", "use a circle around a single position"
        )
    return LineString(coordinates)


def _check_valid(polygon: MultiPolygon) -> None:
    if not polygon.is_valid:
        raise BadPrior(
            "polygon",
            explain_validity(polygon),
            "simple rings that do not cross",
            "redraw it or repair the outline",
        )
    if not polygon.area > 0.0:
        raise BadPrior("polygon.area", polygon.area, "greater than 0", "give an outline with an area")
