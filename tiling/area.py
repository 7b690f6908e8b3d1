"""The ground to cover, from a GeoJSON file (RFC 7946)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely
from shapely.errors import ShapelyError
from shapely.geometry import Polygon, shape
from shapely.geometry.base import BaseGeometry

from tiling.antimeridian import EnclosesPole, split_antimeridian, unwrapped
from tiling.errors import BadArea
from tiling.grid import check_area


def read_area(path: Path) -> BaseGeometry:
    """All polygons of a file as one WGS84 area, split at ±180° of longitude.

    An edge that jumps by more than 180° is read as the short way across the antimeridian.

    Raises:
        BadArea: not GeoJSON, no polygon in it, or one that means no ground.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        polygons = [part for each in _geometries(values) for part in _polygons(path, shape(each))]
        area = shapely.union_all([split_antimeridian(polygon) for polygon in polygons])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ShapelyError) as exc:
        raise BadArea(
            f"{path}: no GeoJSON ({exc}); give a Polygon, MultiPolygon or features of them"
        ) from exc
    if area.is_empty:
        raise BadArea(f"{path}: holds no polygon; draw the region's outline")
    check_area(area)
    return area


def _geometries(values: Any) -> Iterator[Any]:
    match values["type"]:
        case "FeatureCollection":
            for feature in values["features"]:
                yield from _geometries(feature)
        case "Feature":
            yield values["geometry"]
        case _:
            yield values


def _polygons(path: Path, geometry: BaseGeometry) -> Iterator[Polygon]:
    """The parts of a (Multi)Polygon, with continuous longitudes."""
    if geometry.geom_type not in {"Polygon", "MultiPolygon"}:
        raise BadArea(f"{path}: holds a {geometry.geom_type}; give a Polygon or MultiPolygon in WGS84")
    for part in shapely.get_parts(geometry):
        if part.is_empty:
            continue
        try:
            polygon = unwrapped(part)
        except EnclosesPole:
            raise BadArea(
                f"{path}: a ring winds around a pole; cut it at the antimeridian and close it over the pole"
            ) from None
        if not polygon.is_valid:
            reason = shapely.is_valid_reason(polygon)
            raise BadArea(f"{path}: a polygon is invalid ({reason}); repair it, e.g. with ST_MakeValid")
        yield polygon
