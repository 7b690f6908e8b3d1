"""Areas from GeoJSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import Point, box, mapping

from tiling.area import read_area
from tiling.errors import BadArea
from tiling.grid import GridSpec, patches_over

SQUARE = box(7.98, 46.31, 7.99, 46.32)


def write(folder: Path, values: Any) -> Path:
    path = folder / "area.geojson"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def feature(geometry: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": mapping(geometry)}


def test_a_polygon_a_feature_or_many(tmp_path: Path) -> None:
    for values in (
        mapping(SQUARE),
        feature(SQUARE),
        {"type": "FeatureCollection", "features": [feature(SQUARE), feature(SQUARE.buffer(-0.001))]},
    ):
        assert read_area(write(tmp_path, values)).equals(SQUARE)


def test_beyond_the_antimeridian_it_is_split(tmp_path: Path) -> None:
    area = read_area(write(tmp_path, mapping(box(179.999, -17.0, 180.001, -16.999))))
    assert area.geom_type == "MultiPolygon"
    patches = list(patches_over(area, GridSpec()))
    east, west = ([patch for patch in patches if (patch.centre.lng > 0) is side] for side in (True, False))
    assert len(east) == pytest.approx(len(west), abs=3)
    assert len({patch.quadkey for patch in patches}) == len(patches)


@pytest.mark.parametrize(
    "values, problem",
    [
        ("no json", "no GeoJSON"),
        ("[]", "no GeoJSON"),
        ("{}", "no GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "Feature", "geometry": None}, "no GeoJSON"),
        (mapping(Point(7, 46)), "holds a Point; give a Polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}, "invalid .*repair"),
        (mapping(box(2_600_000, 1_100_000, 2_601_000, 1_101_000)), "WGS84|holds no polygon"),
    ],
)
def test_what_is_no_area_is_refused(tmp_path: Path, values: Any, problem: str) -> None:
    with pytest.raises(BadArea, match=problem):
        read_area(write(tmp_path, values))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadArea, match=r"nowhere\.geojson"):
        read_area(tmp_path / "nowhere.geojson")
