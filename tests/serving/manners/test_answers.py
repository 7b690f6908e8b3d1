"""What a client is told: coverage, the contract itself, repeated requests, sequences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from google.type.latlng_pb2 import LatLng
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.calling import Retries, status_of
from serving.edge import request_from
from serving.errors import CallFailed
from serving.job_client import JobClient
from serving.locate import HeadingPrior, Query
from serving.pb import (
    answer_pb2,
    geometry_pb2,
    ingestion_service_pb2,
    localization_service_pb2,
    prior_pb2,
    track_pb2,
)
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub

NORTH = Query(heading=HeadingPrior(heading_deg=0.0))


def test_coverage_is_told_before_any_image(client, watched):
    answer = client("reader").coverage()
    (region,) = answer.regions
    assert (region.region, region.generation, region.searchable) == ("brig", "g2", True)
    assert region.imagery_start_time.ToDatetime().year == 2024
    assert answer.model_digest == watched.service.model_digest
    assert region.area_km2 == pytest.approx(0.1, rel=0.2)
    assert not answer.HasField("covered_fraction")
    assert [accuracy.HasField("r68_m") for accuracy in answer.expected_accuracies] == [False]


def test_gaps_of_an_area_are_told(client):
    box = geometry_pb2.BoundingBox(
        south_west=LatLng(latitude=46.313, longitude=7.983),
        north_east=LatLng(latitude=46.316, longitude=7.989),
    )
    answer = client("reader").coverage(localization_service_pb2.GetCoverageRequest(bounding_box=box))
    assert answer.covered_fraction == pytest.approx(2 / 3, abs=0.01)
    (gap,) = answer.gaps
    assert {round(at.longitude, 6) for at in gap.rings[0].positions} == {7.983, 7.985}


def test_a_bad_area_is_refused_with_its_field(channel, caller):
    circle = prior_pb2.CirclePrior(centre=LatLng(latitude=91.0), radius_m=10.0)
    with pytest.raises(grpc.RpcError) as caught:
        LocalizationServiceStub(channel).GetCoverage(
            localization_service_pb2.GetCoverageRequest(circle=circle), metadata=caller("reader").metadata
        )
    violated = error_details_pb2.BadRequest()
    assert status_of(caught.value).details[1].Unpack(violated)
    assert violated.field_violations[0].field == "circle.centre.lat"


def test_a_generic_client_needs_reflection_alone(channel, caller):
    """A client without stubs: the contract comes from the service."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("clnet.geoloc.v1.LocalizationService")
    assert {method.name for method in service.methods} == {"Localize", "LocalizeStream", "GetCoverage"}
    method = service.FindMethodByName("GetCoverage")
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    answer = call(request(regions=["brig"]), metadata=caller("reader").metadata)
    assert answer.regions[0].generation == "g2"


def test_the_same_request_id_gets_the_same_answer(caller, small_world):
    first = caller("reader").localize(small_world.image, request_id="a1")
    again = caller("reader").localize(small_world.image, request_id="a1", timeout_s=7.0)
    assert again == first  # timings and all: nothing was computed anew
    assert caller("reader").localize(small_world.image, request_id="a2").timings != first.timings


def test_a_request_id_names_one_request(caller, small_world):
    caller("reader").localize(small_world.image, request_id="b1")
    with pytest.raises(grpc.RpcError) as caught:
        caller("reader").localize(small_world.image, request_id="b1", max_hypotheses=1)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "request_id" in caught.value.details()


def frames(image, count, *, broken=(), backwards=()):
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(count):
        stamp = Timestamp()
        stamp.FromDatetime(began + timedelta(seconds=number))
        yield localization_service_pb2.LocalizeStreamRequest(
            frame=request_from(b"no image" if number in broken else image, NORTH),
            capture_time=stamp,
            odometry=track_pb2.Odometry(distance_m=-0.2 if number in backwards else 0.0),
        )


def test_a_sequence_is_answered_frame_by_frame(client, small_world):
    answers = list(client("reader").follow(frames(small_world.image, 6, broken={2}, backwards={4})))
    assert len(answers) == 6
    assert [answer.HasField("raw") for answer in answers] == [True, True, False, True, False, True]
    for answer in (answers[2], answers[4]):
        assert answer.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "odometry.distance_m" in answers[4].error.message
    last = answers[-1].smoothed
    assert last.status == answer_pb2.LOCALIZATION_STATUS_LOCALIZED
    assert last.used_frames == 4
    assert last.position.longitude == pytest.approx(small_world.camera.lng, abs=1e-4)
    assert last.position.latitude == pytest.approx(small_world.camera.lat, abs=1e-4)
    assert 0.0 < last.r68_m < last.r95_m


def test_a_sequence_that_goes_back_in_time_ends(client, small_world):
    first, second = frames(small_world.image, 2)
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT: capture_time"):
        list(client("reader").follow([second, first]))


def test_a_service_without_a_folder_of_inputs_takes_no_jobs(watched, caller):
    with JobClient(watched.target, api_key=caller("builder").key, retries=Retries(attempts=1)) as client:
        for call in (
            lambda: client.ingest_region(ingestion_service_pb2.IngestRegionRequest(region="a", sheets=["b"])),
            lambda: list(client.operations()),
        ):
            with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*--inputs"):
                call()
