"""Areas from GeoJSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import MultiPolygon, Point, Polygon, box, mapping

from tiling.antimeridian import continuous_bounds
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


def test_a_ring_over_the_antimeridian_goes_the_short_way(tmp_path: Path) -> None:
    literal = {
        "type": "Polygon",
        "coordinates": [
            [[179.9, -17], [-179.9, -17], [-179.9, -16], [179.9, -16], [179.9, -17]],
            [[179.95, -16.6], [179.95, -16.4], [-179.95, -16.4], [-179.95, -16.6], [179.95, -16.6]],
        ],
    }
    area = read_area(write(tmp_path, literal))
    assert area.geom_type == "MultiPolygon"
    assert area.area == pytest.approx(0.2 - 0.1 * 0.2)
    assert area.contains(Point(-179.97, -16.9))
    assert not area.intersects(Point(0, -16.9))


def test_all_the_way_around_is_meant_literally(tmp_path: Path) -> None:
    assert read_area(write(tmp_path, mapping(box(-180, -10, 180, 10)))).area == 7200


@pytest.mark.parametrize(
    "parts, expected",
    [
        ([box(7, 46, 8, 47), box(9, 45, 10, 46)], (7, 45, 10, 47)),
        ([box(179, -17, 180, -16), box(-180, -17, -179.5, -15)], (179, -17, 180.5, -15)),
        ([box(170, 0, 171, 1), box(-175, 0, -170, 1), box(-174, 0, -173, 1)], (170, 0, 190, 1)),
        ([box(-180, -10, 180, 10)], (-180, -10, 180, 10)),
    ],
)
def test_bounds_are_those_of_continuous_longitudes(parts: list[Polygon], expected: Any) -> None:
    assert continuous_bounds(MultiPolygon(parts)) == expected


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
        (
            {"type": "Polygon", "coordinates": [[[0, 80], [120, 80], [-120, 80], [0, 80]]]},
            "winds around a pole",
        ),
        (mapping(box(2_600_000, 1_100_000, 2_601_000, 1_101_000)), "WGS84|holds no polygon"),
    ],
)
def test_what_is_no_area_is_refused(tmp_path: Path, values: Any, problem: str) -> None:
    with pytest.raises(BadArea, match=problem):
        read_area(write(tmp_path, values))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadArea, match=r"nowhere\.geojson"):
        read_area(tmp_path / "nowhere.geojson")
