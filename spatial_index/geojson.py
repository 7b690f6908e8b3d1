"""Priors from GeoJSON (RFC 7946): areas from polygons and boxes, corridors from lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from shapely.geometry import LineString, MultiPolygon, Polygon, box

from spatial_index.errors import BadPrior
from spatial_index.geodesy import Floats
from spatial_index.outlines import MAX_VERTICES, check_coordinates, check_lat, check_lng, check_vertex_count
from spatial_index.priors import CorridorPrior, PolygonPrior, PriorMode


def from_geojson(
    value: str | Mapping[str, Any],
    *,
    mode: PriorMode = PriorMode.HARD,
    max_vertices: int = MAX_VERTICES,
) -> PolygonPrior:
    """A polygon prior from a GeoJSON Polygon, MultiPolygon, or Feature of one.

    Raises:
        BadPrior: not such an object, an unclosed ring, or anything that PolygonPrior refuses.
    """
    geometry = _geometry_of(value)
    rings_of_parts = _rings_of_parts(geometry)
    count = sum(_length(ring) for part in rings_of_parts for ring in part)
    check_vertex_count("polygon.vertices", count, max_vertices)
    parts = [[_checked_ring(ring) for ring in part] for part in rings_of_parts]
    polygons = [Polygon(rings[0], rings[1:]) for rings in parts]
    return PolygonPrior(polygon=polygons[0] if len(polygons) == 1 else MultiPolygon(polygons), mode=mode)


def from_bbox(
    west: float, south: float, east: float, north: float, *, mode: PriorMode = PriorMode.HARD
) -> PolygonPrior:
    """A polygon prior from a box between two meridians and two parallels; west > east crosses 180°.

    Raises:
        BadPrior: NaN, out of range, or a box without an area.
    """
    for corner, lng, lat in (("south_west", west, south), ("north_east", east, north)):
        check_lng(f"bounding_box.{corner}", lng)
        check_lat(f"bounding_box.{corner}", lat)
    if not south < north:
        raise BadPrior(
            "bounding_box.north_east.lat", north, f"north of {south}", "the southern edge is first"
        )
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    boxes = [box(start, south, end, north) for start, end in spans if start < end]
    if not boxes:
        raise BadPrior("bounding_box.north_east.lng", east, f"east of {west}", "give a box with an area")
    whole = MultiPolygon(boxes).segmentize(90.0)  # an edge of more than 180° would mean the other way round
    return PolygonPrior(polygon=whole, mode=mode)


def corridor_from_geojson(
    value: str | Mapping[str, Any], *, half_width_m: float, mode: PriorMode = PriorMode.HARD
) -> CorridorPrior:
    """A corridor prior from a GeoJSON LineString, or Feature of one.

    Raises:
        BadPrior: not such an object, or anything that CorridorPrior refuses.
    """
    geometry = _geometry_of(value)
    if geometry.get("type") != "LineString":
        raise BadPrior("geojson.type", geometry.get("type"), "LineString", "send the line of a route")
    coordinates = geometry.get("coordinates")
    check_vertex_count("corridor.positions", _length(coordinates))
    points = _positions(coordinates)
    if len(points) < 2:
        raise BadPrior("corridor.positions", len(points), "2 or more", "use a circle around one position")
    return CorridorPrior(line=LineString(points), half_width_m=half_width_m, mode=mode)


def _geometry_of(value: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as exc:
            raise BadPrior("geojson", str(exc), "a JSON object", "send one GeoJSON geometry") from exc
    if isinstance(value, Mapping) and value.get("type") == "Feature":
        value = value.get("geometry") or {}
    if not isinstance(value, Mapping):
        raise BadPrior("geojson", type(value).__name__, "a JSON object", "send one GeoJSON geometry")
    return value


def _rings_of_parts(geometry: Mapping[str, Any]) -> list[Sequence[Any]]:
    coordinates: Any = geometry.get("coordinates")
    match geometry.get("type"):
        case "Polygon":
            parts = [coordinates]
        case "MultiPolygon" if isinstance(coordinates, Sequence):
            parts = list(coordinates)
        case other:
            raise BadPrior("geojson.type", other, "Polygon or MultiPolygon", "send the outline of an area")
    for part in parts:
        if isinstance(part, str) or not isinstance(part, Sequence) or not part:
            raise BadPrior("geojson.coordinates", part, "a list of rings", "see RFC 7946, section 3.1.6")
    if not parts:
        raise BadPrior("geojson.coordinates", parts, "at least one polygon", "give an outline with an area")
    return parts


def _length(positions: object) -> int:
    if isinstance(positions, str) or not isinstance(positions, Sequence):
        raise BadPrior("geojson.coordinates", positions, "a list of positions", "see RFC 7946, section 3.1")
    return len(positions)


def _positions(values: Any) -> Floats:
    try:
        return np.array([[float(lng), float(lat)] for lng, lat, *_ in values], dtype=np.float64)  # (V, 2)
    except (TypeError, ValueError) as exc:
        raise BadPrior(
            "geojson.coordinates", values, "a list of [lng, lat]", "see RFC 7946, section 3.1.1"
        ) from exc


def _checked_ring(ring: Sequence[Any]) -> Floats:
    points = _positions(ring)
    if len(points) < 4:
        raise BadPrior(
            "polygon.ring", f"{len(points)} positions", "4 or more", "repeat the first position at the end"
        )
    check_coordinates("polygon.vertices", points)
    if not np.array_equal(points[0], points[-1]):
        raise BadPrior("polygon.ring", "not closed", "closed", "repeat the first position at the end")
    return points
