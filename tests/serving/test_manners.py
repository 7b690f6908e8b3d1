"""The real service with API keys: who may do what, what is told, logged, measured and traced."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import ray
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from google.type.latlng_pb2 import LatLng
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving.app import Service, running
from serving.auth import ApiKey, Scope, digest_of
from serving.calling import Retries, retry_hint_s, status_of
from serving.client import Client
from serving.edge import request_from
from serving.errors import CallFailed
from serving.job_client import JobClient
from serving.locate import HeadingPrior, Query
from serving.options import ServiceOptions
from serving.pb import (
    answer_pb2,
    geometry_pb2,
    ingestion_service_pb2,
    localization_service_pb2,
    prior_pb2,
    region_service_pb2,
    track_pb2,
)
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from serving.pb.region_service_pb2_grpc import RegionServiceStub
from serving.tracing import TraceSettings

NORTH = Query(heading=HeadingPrior(heading_deg=0.0))
KEYS = {
    "reader": "key-of-the-reader",
    "admin": "key-of-the-admin",
    "slow": "key-of-the-slow-one",
    "builder": "key-of-the-builder",
}
ONCE = Retries(attempts=1)


def key(name: str, *scopes: Scope, requests_per_minute: float | None = None) -> ApiKey:
    return ApiKey(
        name=name,
        sha256=digest_of(KEYS[name]),
        scopes=frozenset(scopes),
        requests_per_minute=requests_per_minute,
    )


@dataclass(frozen=True)
class Watched:
    """A running service and what it writes."""

    service: Service
    audit_log: Path
    trace_file: Path

    @property
    def target(self) -> str:
        return self.service.target

    def calls(self) -> list[dict]:
        return [json.loads(line) for line in self.audit_log.read_text().splitlines()]

    def spans(self) -> list[dict]:
        return [json.loads(line) for line in self.trace_file.read_text().splitlines()]


@pytest.fixture(scope="module")
def watched(ray_session, small_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("manners")
    small_world.build(folder / "store", ("g1", "g2"), unfinished=("g3",))
    options = ServiceOptions(
        store=folder / "store",
        checkpoint=small_world.checkpoint,
        port=0,
        keys=(
            key("reader", Scope.LOCATE),
            key("admin", Scope.LOCATE, Scope.ADMIN),
            key("slow", Scope.LOCATE, requests_per_minute=10.0),
            key("builder", Scope.INGEST),
        ),
        audit_log=folder / "audit.jsonl",
        traces=TraceSettings(file=folder / "spans.jsonl"),
    )
    with running(options) as service:
        yield Watched(service, folder / "audit.jsonl", folder / "spans.jsonl")


@pytest.fixture(scope="module")
def reader(watched):
    with Client(watched.target, api_key=KEYS["reader"], retries=ONCE) as client:
        yield client


@pytest.fixture(scope="module")
def admin(watched):
    with Client(watched.target, api_key=KEYS["admin"], retries=ONCE) as client:
        yield client


@pytest.fixture(scope="module")
def channel(watched):
    with grpc.insecure_channel(watched.target) as channel:
        yield channel


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {KEYS[name]}"),)


READS = {
    "Localize": (LocalizationServiceStub, localization_service_pb2.LocalizeRequest),
    "GetCoverage": (LocalizationServiceStub, localization_service_pb2.GetCoverageRequest),
    "ListRegions": (RegionServiceStub, region_service_pb2.ListRegionsRequest),
    "GetRegion": (RegionServiceStub, region_service_pb2.GetRegionRequest),
    "ListGenerations": (RegionServiceStub, region_service_pb2.ListGenerationsRequest),
}
CHANGES = {
    "PromoteGeneration": (RegionServiceStub, region_service_pb2.PromoteGenerationRequest),
    "RollBackRegion": (RegionServiceStub, region_service_pb2.RollBackRegionRequest),
    "DeleteRegion": (RegionServiceStub, region_service_pb2.DeleteRegionRequest),
    "DeleteGeneration": (RegionServiceStub, region_service_pb2.DeleteGenerationRequest),
}


def outcome(channel, method, metadata):
    """The code and reason with which an empty request is answered."""
    stub, request = (READS | CHANGES)[method]
    try:
        getattr(stub(channel), method)(request(), metadata=metadata)
    except grpc.RpcError as error:
        info = error_details_pb2.ErrorInfo()
        status = status_of(error)
        assert status.code == error.code().value[0]
        assert status.details[0].Unpack(info)
        assert info.domain == "clnet-geoloc"
        assert "Traceback" not in error.details()
        return error.code().name, info.reason
    return "OK", ""


@pytest.mark.parametrize("method", READS | CHANGES)
def test_without_a_key_nothing_is_answered(channel, method):
    assert outcome(channel, method, ()) == ("UNAUTHENTICATED", "UNAUTHENTICATED")


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Bearer wrong"),),
        (("authorization", f"Basic {KEYS['reader']}"),),
        (("x-api-key", KEYS["reader"][:-1]),),
        (("authorization", "Bearer "),),
    ],
)
def test_a_wrong_key_is_no_key(channel, metadata):
    assert outcome(channel, "ListRegions", metadata) == ("UNAUTHENTICATED", "UNAUTHENTICATED")


@pytest.mark.parametrize("method", CHANGES)
def test_a_reader_changes_nothing(channel, method):
    assert outcome(channel, method, bearer("reader")) == ("PERMISSION_DENIED", "SCOPE_MISSING")


@pytest.mark.parametrize("method", CHANGES)
def test_an_admin_is_asked_what_to_change(channel, method):
    assert outcome(channel, method, bearer("admin")) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


@pytest.mark.parametrize("method", READS)
def test_a_reader_reads(channel, method):
    assert outcome(channel, method, bearer("reader"))[0] in {"OK", "INVALID_ARGUMENT"}


def test_either_header_carries_the_key(channel):
    metadata = (("x-api-key", KEYS["reader"]),)
    assert (
        RegionServiceStub(channel)
        .ListRegions(region_service_pb2.ListRegionsRequest(), metadata=metadata)
        .regions
    )


def test_a_stream_needs_a_key_too(watched):
    with Client(watched.target, retries=ONCE) as client, pytest.raises(CallFailed, match="UNAUTHENTICATED"):
        list(client.follow([localization_service_pb2.LocalizeStreamRequest()]))


def test_a_spent_quota_says_when_to_come_back(channel):
    with pytest.raises(grpc.RpcError) as caught:
        for _ in range(3):
            RegionServiceStub(channel).ListRegions(
                region_service_pb2.ListRegionsRequest(), metadata=bearer("slow")
            )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 0.0 < retry_hint_s(caught.value) <= 6.0
    failure = error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(failure) for detail in status_of(caught.value).details)
    assert failure.violations[0].subject == "key:slow"


def test_coverage_is_told_before_any_image(reader, watched):
    answer = reader.coverage()
    (region,) = answer.regions
    assert (region.region, region.generation, region.searchable) == ("brig", "g2", True)
    assert region.imagery_start_time.ToDatetime().year == 2024
    assert answer.model_digest == watched.service.model_digest
    assert region.area_km2 == pytest.approx(0.1, rel=0.2)
    assert not answer.HasField("covered_fraction")
    assert [accuracy.HasField("r68_m") for accuracy in answer.expected_accuracies] == [False]


def test_gaps_of_an_area_are_told(reader):
    box = geometry_pb2.BoundingBox(
        south_west=LatLng(latitude=46.313, longitude=7.983),
        north_east=LatLng(latitude=46.316, longitude=7.989),
    )
    answer = reader.coverage(localization_service_pb2.GetCoverageRequest(bounding_box=box))
    assert answer.covered_fraction == pytest.approx(2 / 3, abs=0.01)
    (gap,) = answer.gaps
    assert {round(at.longitude, 6) for at in gap.rings[0].positions} == {7.983, 7.985}


def test_a_bad_area_is_refused_with_its_field(channel):
    circle = prior_pb2.CirclePrior(centre=LatLng(latitude=91.0), radius_m=10.0)
    with pytest.raises(grpc.RpcError) as caught:
        LocalizationServiceStub(channel).GetCoverage(
            localization_service_pb2.GetCoverageRequest(circle=circle), metadata=bearer("reader")
        )
    violated = error_details_pb2.BadRequest()
    assert status_of(caught.value).details[1].Unpack(violated)
    assert violated.field_violations[0].field == "circle.centre.lat"


def test_a_generic_client_needs_reflection_alone(channel):
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
    answer = call(request(regions=["brig"]), metadata=bearer("reader"))
    assert answer.regions[0].generation == "g2"


def localize(channel, image, **fields):
    request = request_from(image, NORTH)
    for name, value in fields.items():
        setattr(request, name, value)
    return LocalizationServiceStub(channel).Localize(request, metadata=bearer("reader"))


def test_the_same_request_id_gets_the_same_answer(channel, small_world):
    first = localize(channel, small_world.image, request_id="a1")
    again = localize(channel, small_world.image, request_id="a1", timeout_s=7.0)
    assert again == first  # timings and all: nothing was computed anew
    assert localize(channel, small_world.image, request_id="a2").timings != first.timings


def test_a_request_id_names_one_request(channel, small_world):
    localize(channel, small_world.image, request_id="b1")
    with pytest.raises(grpc.RpcError) as caught:
        localize(channel, small_world.image, request_id="b1", max_hypotheses=1)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "request_id" in caught.value.details()


def test_generations_are_listed_page_by_page(channel):
    stub, names, token = RegionServiceStub(channel), [], ""
    while True:
        request = region_service_pb2.ListGenerationsRequest(region="brig", page_size=2, page_token=token)
        page = stub.ListGenerations(request, metadata=bearer("reader"))
        names.append([(found.generation, found.state) for found in page.generations])
        token = page.next_page_token
        if not token:
            break
    previous, live, unfinished = (
        region_service_pb2.GENERATION_STATE_PREVIOUS,
        region_service_pb2.GENERATION_STATE_LIVE,
        region_service_pb2.GENERATION_STATE_UNFINISHED,
    )
    assert names == [[("g1", previous), ("g2", live)], [("g3", unfinished)]]


def change(channel, method, **fields):
    stub, request = CHANGES[method]
    return getattr(stub(channel), method)(request(**fields), metadata=bearer("admin"))


@pytest.mark.parametrize(
    ("method", "fields", "code", "reason"),
    [
        ("PromoteGeneration", {"region": "atlantis", "generation": "g1"}, "NOT_FOUND", "UNKNOWN_REGION"),
        ("PromoteGeneration", {"region": "brig", "generation": "g9"}, "NOT_FOUND", "UNKNOWN_GENERATION"),
        (
            "PromoteGeneration",
            {"region": "brig", "generation": "g3"},
            "FAILED_PRECONDITION",
            "UNFINISHED_GENERATION",
        ),
        (
            "PromoteGeneration",
            {"region": "brig", "generation": "g1", "expected_live_generation": "g1"},
            "ABORTED",
            "LIVE_CHANGED",
        ),
        ("RollBackRegion", {"region": "atlantis"}, "NOT_FOUND", "UNKNOWN_REGION"),
        ("DeleteRegion", {"region": "atlantis"}, "NOT_FOUND", "UNKNOWN_REGION"),
        ("DeleteRegion", {"region": "../etc"}, "INVALID_ARGUMENT", "BAD_REGION_NAME"),
        (
            "DeleteRegion",
            {"region": "brig", "expected_live_generation": "g1"},
            "ABORTED",
            "LIVE_CHANGED",
        ),
        (
            "DeleteGeneration",
            {"region": "brig", "generation": "g2"},
            "FAILED_PRECONDITION",
            "GENERATION_LIVE",
        ),
    ],
)
def test_an_impossible_change_is_refused(channel, method, fields, code, reason):
    with pytest.raises(grpc.RpcError) as caught:
        change(channel, method, **fields)
    info = error_details_pb2.ErrorInfo()
    assert caught.value.code().name == code
    assert status_of(caught.value).details[0].Unpack(info)
    assert info.reason == reason


def live(reader):
    return next(region.generation for region in reader.regions() if region.name == "brig")


def test_a_repeated_rollback_rolls_back_once(channel, admin, reader):
    assert change(channel, "RollBackRegion", region="brig", request_id="r1").region.generation == "g1"
    assert change(channel, "RollBackRegion", region="brig", request_id="r1").region.generation == "g1"
    assert live(reader) == "g1"
    with pytest.raises(CallFailed, match="FAILED_PRECONDITION"):
        admin.roll_back("brig")  # another request: there is nothing before g1
    assert admin.promote("brig", "g2", expected_live="g1").generation == "g2"
    assert live(reader) == "g2"


def test_a_generation_that_is_not_live_can_be_deleted(channel):
    change(channel, "DeleteGeneration", region="brig", generation="g3", request_id="d1")
    change(channel, "DeleteGeneration", region="brig", generation="g3", request_id="d1")
    with pytest.raises(grpc.RpcError) as caught:
        change(channel, "DeleteGeneration", region="brig", generation="g3")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


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


def test_a_sequence_is_answered_frame_by_frame(reader, small_world):
    answers = list(reader.follow(frames(small_world.image, 6, broken={2}, backwards={4})))
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


def test_a_sequence_that_goes_back_in_time_ends(reader, small_world):
    first, second = frames(small_world.image, 2)
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT: capture_time"):
        list(reader.follow([second, first]))


def test_the_audit_log_tells_who_did_what_and_shows_no_image(watched, channel, small_world):
    localize(channel, small_world.image, request_id="audited")
    (line,) = [call for call in watched.calls() if call.get("request_id") == "audited"]
    assert (line["method"], line["caller"], line["code"]) == ("Localize", "reader", "OK")
    assert line["image_bytes"] == len(small_world.image)
    assert line["status"] == "LOCALIZED"
    assert line["duration_ms"] > 0.0
    text = watched.audit_log.read_text()
    assert not any(secret in text for secret in KEYS.values())
    assert all(len(line) < 1000 for line in text.splitlines())
    refused = Counter((call["code"], call.get("caller")) for call in watched.calls())
    assert refused["UNAUTHENTICATED", None] > 0
    assert refused["PERMISSION_DENIED", "reader"] > 0


def test_a_trace_joins_client_ingress_encoder_and_index(watched, channel, small_world):
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    LocalizationServiceStub(channel).Localize(
        request_from(small_world.image, NORTH),
        metadata=(*bearer("reader"), ("traceparent", f"00-{trace}-{parent}-01")),
    )
    spans = {span["name"]: span for span in watched.spans() if span["trace_id"] == trace}
    assert {name: spans[name]["service"] for name in ("Localize", "embed", "store.search")} == {
        "Localize": "clnet-ingress",
        "embed": "clnet-encoder",
        "store.search": "clnet-index",
    }
    assert spans["Localize"]["parent_id"] == parent
    assert spans["embed"]["parent_id"] == spans["encode"]["span_id"]
    assert spans["store.search"]["parent_id"] == spans["search"]["span_id"]
    for stage in ("decode", "canvas", "encode", "search", "fuse"):
        assert spans[stage]["parent_id"] == spans["Localize"]["span_id"]
    assert any(call.get("trace_id") == trace for call in watched.calls())


def test_prometheus_gets_the_metrics(watched, ray_session, reader, small_world):
    reader.localize(small_world.image, NORTH)
    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline_s = time.monotonic() + 30.0  # Ray reports every 10 s
    wanted = {
        'ray_clnet_calls_total{', 'ray_clnet_call_seconds_bucket{', 'status="LOCALIZED"', 'plan="exact"',
        'stage="encode"', 'ray_clnet_batch_rows_bucket{', 'ray_clnet_requests_in_flight{',
        'code="UNAUTHENTICATED"',
    }  # fmt: skip
    missing = wanted
    while missing and time.monotonic() < deadline_s:
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        ours = "\n".join(line for line in text.splitlines() if line.startswith("ray_clnet_"))
        missing = {name for name in wanted if name not in ours}
        time.sleep(0.5)
    assert not missing


def test_a_service_without_a_folder_of_inputs_takes_no_jobs(watched):
    with JobClient(watched.target, api_key=KEYS["builder"], retries=ONCE) as client:
        for call in (
            lambda: client.ingest_region(ingestion_service_pb2.IngestRegionRequest(region="a", sheets=["b"])),
            lambda: list(client.operations()),
        ):
            with pytest.raises(CallFailed, match=r"FAILED_PRECONDITION.*--inputs"):
                call()
