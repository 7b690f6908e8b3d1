"""The ground to cover, from a GeoJSON file (RFC 7946)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from tiling.errors import BadArea
from tiling.grid import check_area, split_antimeridian


def read_area(path: Path) -> BaseGeometry:
    """All polygons of a file as one WGS84 area; rings that pass ±180° of longitude are split there.

    Raises:
        BadArea: not GeoJSON, no polygon in it, or one that means no ground.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        parts = [split_antimeridian(_checked(path, shape(each))) for each in _geometries(values)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ShapelyError) as exc:
        raise BadArea(
            f"{path}: no GeoJSON ({exc}); give a Polygon, MultiPolygon or features of them"
        ) from exc
    area = shapely.union_all(parts)
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


def _checked(path: Path, geometry: BaseGeometry) -> BaseGeometry:
    if geometry.geom_type not in {"Polygon", "MultiPolygon"}:
        raise BadArea(f"{path}: holds a {geometry.geom_type}; give a Polygon or MultiPolygon in WGS84")
    if not geometry.is_valid:
        reason = shapely.is_valid_reason(geometry)
        raise BadArea(f"{path}: a polygon is invalid ({reason}); repair it, e.g. with ST_MakeValid")
    return geometry
