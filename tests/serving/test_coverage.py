"""Coverage of areas, against numbers that can be checked by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import shapely
from google.type.latlng_pb2 import LatLng
from hypothesis import given
from hypothesis import strategies as st

from clnet_model.calibration import Calibration
from serving.coverage import area_of, holes_in, survey
from serving.errors import InvalidRequest
from serving.pb import geometry_pb2, localization_service_pb2, prior_pb2
from serving.region_messages import area_from, coverage_response
from spatial_index.errors import UnknownRegion
from spatial_index.priors import CirclePrior
from spatial_index.records import RegionInfo
from tiling.coverage import area_km2
from tiling.grid import LngLat


def region(name, coverage, digest="m"):
    return RegionInfo(
        name=name, generation="g", model_digest=digest, dim=2, zoom=20, side_m=70.0, patches=1,
        coverage=coverage, created_at=datetime(2026, 1, 1, tzinfo=UTC), imagery_from=None, imagery_to=None,
    )  # fmt: skip


WEST, EAST = region("west", shapely.box(7, 46, 8, 47)), region("east", shapely.box(8, 46, 9, 47))


def test_two_regions_cover_what_lies_over_both():
    found = survey([WEST, EAST], area=shapely.box(7.5, 46.2, 8.5, 46.4), model_digest="m")
    assert [part.info.name for part in found.regions] == ["east", "west"]
    assert found.covered_fraction == pytest.approx(1.0)
    assert found.gaps.is_empty


def test_what_no_region_covers_is_a_gap():
    area = shapely.box(6, 46, 8, 47)
    found = survey([WEST], area=area, model_digest="m")
    assert found.covered_fraction == pytest.approx(0.5, rel=1e-3)  # sides along a parallel count as geodesics
    assert found.gaps.equals(shapely.box(6, 46, 7, 47))


def test_a_region_of_another_model_covers_nothing():
    found = survey([region("old", WEST.coverage, digest="other")], area=WEST.coverage, model_digest="m")
    (part,) = found.regions
    assert not part.searchable
    assert part.area_km2 == pytest.approx(area_km2(WEST.coverage))
    assert found.covered_fraction == 0.0
    assert found.gaps.equals(WEST.coverage)


def test_without_an_area_the_holes_are_the_gaps():
    ring = shapely.box(7, 46, 8, 47).difference(shapely.box(7.4, 46.4, 7.6, 46.6))
    found = survey([region("ring", ring)], area=None, model_digest="m")
    assert found.covered_fraction is None
    assert found.gaps.equals(shapely.box(7.4, 46.4, 7.6, 46.6))


def test_a_hole_filled_by_another_region_is_none():
    hole = shapely.box(7.4, 46.4, 7.6, 46.6)
    ring = region("ring", shapely.box(7, 46, 8, 47).difference(hole))
    assert survey([ring, region("plug", hole)], area=None, model_digest="m").gaps.is_empty


def test_regions_that_only_touch_the_area_are_left_out():
    found = survey([WEST, EAST], area=shapely.box(7, 46, 8, 47), model_digest="m")
    assert [part.info.name for part in found.regions] == ["west"]


def test_an_unknown_region_is_refused():
    with pytest.raises(UnknownRegion):
        survey([WEST], area=None, names=("atlantis",), model_digest="m")


@given(lng=st.floats(-179, 179), lat=st.floats(-80, 80), radius_m=st.floats(1.0, 100_000.0))
def test_a_circle_has_its_area(lng, lat, radius_m):
    disc = area_of(CirclePrior(centre=LngLat(lng=lng, lat=lat), radius_m=radius_m))
    assert area_km2(disc) == pytest.approx(3.14159e-6 * radius_m**2, rel=0.002)


def test_a_circle_over_the_antimeridian_has_two_parts():
    disc = area_of(CirclePrior(centre=LngLat(lng=180.0, lat=10.0), radius_m=10_000.0))
    assert len(disc.geoms) == 2


def test_holes_of_nothing_are_none():
    assert holes_in(shapely.Polygon()).is_empty


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"circle": prior_pb2.CirclePrior(radius_m=1.0)}, "circle.centre"),
        ({"circle": prior_pb2.CirclePrior(centre=LatLng(), radius_m=2e6)}, "circle.radius_m"),
        ({"circle": prior_pb2.CirclePrior(centre=LatLng(latitude=89.99), radius_m=1e5)}, "polygon"),
        ({"polygon": prior_pb2.PolygonPrior()}, "polygon.polygons"),
        ({"bounding_box": geometry_pb2.BoundingBox()}, "bounding_box.south_west"),
    ],
)
def test_a_bad_area_is_named(fields, field):
    with pytest.raises(InvalidRequest) as caught:
        area_from(localization_service_pb2.GetCoverageRequest(**fields))
    assert caught.value.field == field


def test_an_uncalibrated_model_promises_nothing():
    found = survey([WEST], area=None, model_digest="m")
    answer = coverage_response(found, calibration=Calibration(), model_digest="m")
    assert not any(accuracy.HasField("r68_m") for accuracy in answer.expected_accuracies)
    fitted = coverage_response(found, calibration=Calibration(fitted=True), model_digest="m")
    assert fitted.expected_accuracies[0].r68_m == 18.0
