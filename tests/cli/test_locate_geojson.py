"""Answers as GeoJSON."""

from __future__ import annotations

import json

import pytest
import shapely
from google.type.latlng_pb2 import LatLng

from cli.locate_geojson import feature_collection
from serving.pb import answer_pb2, localization_service_pb2
from tiling.coverage import area_km2


def answer(*places: tuple[float, float]) -> localization_service_pb2.LocalizeResponse:
    return localization_service_pb2.LocalizeResponse(
        status=answer_pb2.LOCALIZATION_STATUS_AMBIGUOUS,
        hypotheses=[
            answer_pb2.Hypothesis(
                position=LatLng(longitude=lng, latitude=lat), probability=0.5, r68_m=100.0, r95_m=200.0
            )
            for lng, lat in places
        ],
    )


def test_each_place_is_a_point_and_two_circles():
    found = json.loads(feature_collection(answer((7.98, 46.31), (7.99, 46.32))))
    kinds = [(feature["properties"]["rank"], feature["properties"]["kind"]) for feature in found["features"]]
    assert kinds == [(rank, kind) for rank in (1, 2) for kind in ("position", "r68", "r95")]
    assert found["features"][0]["geometry"] == {"type": "Point", "coordinates": [7.98, 46.31]}
    assert found["features"][0]["properties"]["status"] == "AMBIGUOUS"


@pytest.mark.parametrize("place", [(7.98, 46.31), (179.9999, 0.0), (-180.0, 70.0)])
def test_circles_have_their_size_and_go_around_counter_clockwise(place):
    for feature in json.loads(feature_collection(answer(place)))["features"][1:]:
        circle = shapely.geometry.shape(feature["geometry"])
        radius_m = feature["properties"][f"{feature['properties']['kind']}_m"]
        assert area_km2(circle) == pytest.approx(3.14159e-6 * radius_m**2, rel=0.01)
        assert circle.exterior.is_ccw
        assert circle.is_valid


def test_no_place_is_no_feature():
    assert json.loads(feature_collection(answer()))["features"] == []
