"""Wire to values and back: what is accepted, what is refused, and which field is named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import shapely
from google.type.latlng_pb2 import LatLng
from hypothesis import given
from hypothesis import strategies as st

from serving.edge import query_from, request_from, response_from, timeout_from
from serving.errors import InvalidRequest
from serving.locate import HeadingPrior, Query, locate
from serving.pb import (
    answer_pb2,
    geometry_pb2,
    image_pb2,
    localization_service_pb2,
    prior_pb2,
    region_service_pb2,
)
from serving.region_messages import page_of, region_message
from spatial_index.errors import BadPrior
from spatial_index.priors import CirclePrior, PolygonPrior, PriorMode
from spatial_index.records import RegionInfo
from tiling.grid import LngLat

DATA = b"bytes of an image"

circles = st.builds(
    CirclePrior,
    centre=st.builds(LngLat, st.floats(-180, 180), st.floats(-90, 90)),
    radius_m=st.floats(0.1, 1e6),
    confidence_level=st.floats(0.01, 0.99),
    mode=st.sampled_from(PriorMode),
)
queries = st.builds(
    Query,
    hfov_deg=st.none() | st.floats(5, 170),
    heading=st.none()
    | st.builds(HeadingPrior, heading_deg=st.floats(-720, 720), accuracy_deg=st.floats(0, 180)),
    prior=st.none() | circles,
    regions=st.lists(st.sampled_from(["a", "b"]), max_size=3).map(tuple),
    max_hypotheses=st.integers(1, 50),
    max_patches=st.integers(0, 200),
)


@given(queries)
def test_a_query_survives_the_wire(query):
    sent = request_from(DATA, query).SerializeToString()
    assert query_from(localization_service_pb2.LocalizeRequest.FromString(sent)) == query


def test_a_polygon_with_a_hole_survives_the_wire():
    area = shapely.box(7, 46, 8, 47).difference(shapely.box(7.4, 46.4, 7.6, 46.6))
    query = Query(prior=PolygonPrior(polygon=area, mode=PriorMode.SOFT))
    found = query_from(request_from(DATA, query)).prior
    assert found.mode is PriorMode.SOFT
    assert found.polygon.equals(area)


def request(**fields):
    image = image_pb2.StreetImage(data=DATA, panorama=image_pb2.PanoramaCamera())
    return localization_service_pb2.LocalizeRequest(**{"image": image, **fields})


def circle(**fields):
    return prior_pb2.PositionPrior(circle=prior_pb2.CirclePrior(**fields))


def test_unset_fields_take_the_defaults():
    assert query_from(request()) == Query()


HERE = LatLng(latitude=46.3, longitude=7.9)
LINE = geometry_pb2.Polygon(rings=[geometry_pb2.LinearRing(positions=[HERE, HERE, HERE])])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"image": image_pb2.StreetImage(panorama=image_pb2.PanoramaCamera())}, "image.data"),
        ({"image": image_pb2.StreetImage(data=DATA)}, "image.camera"),
        (
            {"image": image_pb2.StreetImage(data=DATA, perspective=image_pb2.PerspectiveCamera())},
            "image.perspective.hfov_deg",
        ),
        (
            {
                "image": image_pb2.StreetImage(
                    data=DATA, perspective=image_pb2.PerspectiveCamera(hfov_deg=float("nan"))
                )
            },
            "image.perspective.hfov_deg",
        ),
        ({"heading_prior": prior_pb2.HeadingPrior(accuracy_deg=5)}, "heading_prior.heading_deg"),
        ({"heading_prior": prior_pb2.HeadingPrior(heading_deg=float("inf"))}, "heading_prior.heading_deg"),
        (
            {"heading_prior": prior_pb2.HeadingPrior(heading_deg=1, accuracy_deg=-1)},
            "heading_prior.accuracy_deg",
        ),
        ({"position_prior": prior_pb2.PositionPrior()}, "position_prior.area"),
        ({"position_prior": circle(radius_m=10)}, "position_prior.circle.centre"),
        ({"position_prior": circle(centre=HERE)}, "position_prior.circle.radius_m"),
        (
            {"position_prior": prior_pb2.PositionPrior(polygon=prior_pb2.PolygonPrior())},
            "position_prior.polygon.polygons",
        ),
        (
            {"position_prior": prior_pb2.PositionPrior(polygon=prior_pb2.PolygonPrior(polygons=[LINE]))},
            "position_prior.polygon.polygons.rings",
        ),
        ({"max_hypotheses": 0}, "max_hypotheses"),
        ({"max_candidate_patches": 201}, "max_candidate_patches"),
        ({"regions": ["r"] * 101}, "regions"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"model_digest": "x" * 129}, "model_digest"),
    ],
)
def test_a_bad_field_is_named(fields, field):
    with pytest.raises(InvalidRequest) as caught:
        query_from(request(**fields))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"centre": HERE, "radius_m": -5.0},
        {"centre": HERE, "radius_m": float("nan")},
        {"centre": HERE, "radius_m": 5.0, "confidence_level": 1.0},
        {"centre": LatLng(latitude=91.0), "radius_m": 5.0},
    ],
)
def test_a_circle_that_is_no_place_is_refused(fields):
    with pytest.raises(BadPrior):
        query_from(request(position_prior=circle(**fields)))


def test_an_unknown_prior_mode_is_refused():
    prior = circle(centre=HERE, radius_m=5.0)
    prior.mode = 7
    with pytest.raises(InvalidRequest, match="mode"):
        query_from(request(position_prior=prior))


@pytest.mark.parametrize(("given_s", "expected_s"), [(None, 30.0), (2.0, 2.0), (1e9, 30.0)])
def test_the_time_budget_is_the_smaller_one(given_s, expected_s):
    fields = {} if given_s is None else {"timeout_s": given_s}
    assert timeout_from(request(**fields), 30.0) == expected_s


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_an_impossible_time_budget_is_refused(timeout_s):
    with pytest.raises(InvalidRequest, match="timeout_s"):
        timeout_from(request(timeout_s=timeout_s), 30.0)


def test_an_answer_arrives_whole(panorama, encoder, index, camera):
    answer = locate(panorama, Query(), encoder=encoder, index=index)
    response = response_from(answer)
    best = response.hypotheses[0]
    assert response.status == answer_pb2.LOCALIZATION_STATUS_LOCALIZED
    assert best.position.latitude == pytest.approx(camera.lat, abs=1e-4)
    assert best.supporting_patches[0].quadkey == response.candidate_patches[0].quadkey
    assert response.generations[0].region == "brig"
    assert response.timings.total_ms > 0


def region(name):
    return RegionInfo(
        name=name, generation="g", model_digest="m", dim=2, zoom=20, side_m=70.0, patches=1,
        coverage=shapely.MultiPolygon([shapely.box(7, 46, 8, 47), shapely.box(9, 46, 10, 47)]),
        created_at=datetime(2026, 1, 1, tzinfo=UTC), imagery_from=None, imagery_to=None,
    )  # fmt: skip


def test_pages_follow_each_other_to_the_end():
    regions = [region(name) for name in ("c", "a", "d", "b", "e")]
    names, token = [], ""
    while True:
        page = page_of(regions, region_service_pb2.ListRegionsRequest(page_size=2, page_token=token))
        names.append([found.name for found in page.regions])
        token = page.next_page_token
        if not token:
            break
    assert names == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("fields", [{"page_size": 0}, {"page_size": 1001}, {"page_token": "é"}])
def test_a_bad_page_is_refused(fields):
    with pytest.raises(InvalidRequest, match="page_"):
        page_of([], region_service_pb2.ListRegionsRequest(**fields))


def test_a_region_shows_its_coverage_and_leaves_unknown_dates_unset():
    message = region_message(region("a"))
    assert len(message.coverage) == 2
    assert message.bounds.north_east.longitude == 10
    assert not message.HasField("imagery_start_time")


@pytest.mark.parametrize(
    "bad", [LatLng(latitude=float("nan"), longitude=8.0), LatLng(latitude=91.0, longitude=8.0)]
)
def test_a_vertex_that_is_no_place_is_refused(bad):
    ring = geometry_pb2.LinearRing(positions=[bad, HERE, LatLng(latitude=46.4, longitude=8.0)])
    polygon = prior_pb2.PolygonPrior(polygons=[geometry_pb2.Polygon(rings=[ring])])
    with pytest.raises(BadPrior) as caught:
        query_from(request(position_prior=prior_pb2.PositionPrior(polygon=polygon)))
    assert caught.value.field == "polygon.vertices[0].lat"
