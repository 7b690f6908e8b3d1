"""The real service: Ray Serve's gRPC proxy, a small random network, an embedded store."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from google.type.latlng_pb2 import LatLng
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from serving.app import Service, check_port, free_port, running, start_service
from serving.client import Client
from serving.edge import request_from
from serving.errors import AlreadyServing, CallFailed, PortInUse
from serving.locate import HeadingPrior, Query
from serving.options import ServiceOptions
from serving.pb import answer_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from spatial_index.errors import StoreInUse, StoreMissing
from spatial_index.priors import CirclePrior, PriorMode
from spatial_index.store import open_store
from tiling.grid import LngLat

NORTH = Query(heading=HeadingPrior(heading_deg=0.0))


def blocks() -> bytes:
    """The street image of the small world."""
    pixels = np.random.default_rng(3).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(np.kron(pixels, np.ones((32, 32, 1), np.uint8))).save(data, "JPEG")
    return data.getvalue()


STREET_IMAGE = blocks()


@pytest.fixture(scope="module")
def options(small_world, tmp_path_factory: pytest.TempPathFactory) -> ServiceOptions:
    """A store in which one patch has the vector of the street image and all others have random ones."""
    store = tmp_path_factory.mktemp("service") / "store"
    small_world.build(store, ("g1",))
    return ServiceOptions(store=store, checkpoint=small_world.checkpoint, port=0)


@pytest.fixture(scope="module")
def service(ray_session: None, options: ServiceOptions) -> Iterator[Service]:
    with running(options) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with Client(service.target) as client:
        yield client


@pytest.fixture(scope="module")
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def true_patch(small_world) -> LngLat:
    return small_world.camera


def test_locates_an_image(client, service, true_patch):
    answer = client.localize(STREET_IMAGE, NORTH)
    best = answer.hypotheses[0]
    assert answer.status == answer_pb2.LOCALIZATION_STATUS_LOCALIZED
    assert (best.position.longitude, best.position.latitude) == pytest.approx(true_patch, abs=1e-5)
    assert best.heading_deg == 0.0
    assert best.r68_m < best.r95_m
    assert answer.model_digest == service.model_digest
    assert (answer.generations[0].region, answer.generations[0].generation) == ("brig", "g1")
    assert answer.plan
    assert answer.timings.encode_ms > 0


def test_finds_an_unknown_heading(client, true_patch):
    answer = client.localize(STREET_IMAGE, Query())
    best = answer.hypotheses[0]
    assert best.heading_deg == pytest.approx(0.0, abs=8.0) or best.heading_deg == pytest.approx(
        360.0, abs=8.0
    )
    assert (best.position.longitude, best.position.latitude) == pytest.approx(true_patch, abs=5e-4)


def test_many_clients_get_the_answers_that_one_gets(client):
    alone = client.localize(STREET_IMAGE, NORTH)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: client.localize(STREET_IMAGE, NORTH), range(24)))
    for answer in together:
        assert answer.hypotheses[0].position == alone.hypotheses[0].position
        assert answer.hypotheses[0].probability == pytest.approx(alone.hypotheses[0].probability, abs=1e-3)


@pytest.mark.parametrize("mode", PriorMode)
def test_a_prior_in_the_ocean_is_out_of_coverage(client, mode):
    prior = CirclePrior(centre=LngLat(lng=-30.0, lat=40.0), radius_m=1000.0, mode=mode)
    answer = client.localize(STREET_IMAGE, replace(NORTH, prior=prior))
    assert answer.status == answer_pb2.LOCALIZATION_STATUS_OUT_OF_COVERAGE
    assert answer.searched_patches == 0


def changed(**fields):
    request = request_from(STREET_IMAGE, NORTH)
    for path, value in fields.items():
        owner, names = request, path.split("__")
        for name in names[:-1]:
            owner = getattr(owner, name)
        if isinstance(value, list):
            getattr(owner, names[-1]).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(owner, names[-1]).CopyFrom(value)
        else:
            setattr(owner, names[-1], value)
    return request


def wide_png() -> bytes:
    data = io.BytesIO()
    Image.new("1", (50_000, 16)).save(data, "PNG")
    return data.getvalue()


HERE = LatLng(latitude=46.3145, longitude=7.987)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"image__data": b"not an image"}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image__data": wide_png()}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image__data": STREET_IMAGE[:900]}, grpc.StatusCode.INVALID_ARGUMENT, "image.data"),
        ({"image__perspective__hfov_deg": 400.0}, grpc.StatusCode.INVALID_ARGUMENT, "image.perspective"),
        (
            {"heading_prior__heading_deg": float("nan")},
            grpc.StatusCode.INVALID_ARGUMENT,
            "heading_prior.heading_deg",
        ),
        (
            {"position_prior__circle__centre": HERE, "position_prior__circle__radius_m": -3.0},
            grpc.StatusCode.INVALID_ARGUMENT,
            "position_prior.circle.radius_m",
        ),
        (
            {
                "position_prior__circle__centre": LatLng(latitude=float("nan")),
                "position_prior__circle__radius_m": 3.0,
            },
            grpc.StatusCode.INVALID_ARGUMENT,
            "position_prior.circle.centre.lat",
        ),
        ({"regions": ["atlantis"]}, grpc.StatusCode.NOT_FOUND, "regions"),
        ({"model_digest": "0123456789abcdef"}, grpc.StatusCode.FAILED_PRECONDITION, None),
        ({"timeout_s": 1e-6}, grpc.StatusCode.DEADLINE_EXCEEDED, None),
    ],
)
def test_a_bad_request_is_refused_with_its_code_and_field(channel, fields, code, field):
    with pytest.raises(grpc.RpcError) as caught:
        LocalizationServiceStub(channel).Localize(changed(**fields))
    assert caught.value.code() is code
    assert "Traceback" not in caught.value.details()
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    violated = error_details_pb2.BadRequest()
    assert status.code == code.value[0]
    if field is not None:
        assert status.details[1].Unpack(violated)
        assert [violation.field for violation in violated.field_violations] == [field]


def test_a_message_above_the_limit_is_refused(channel):
    with pytest.raises(grpc.RpcError) as caught:
        LocalizationServiceStub(channel).Localize(changed(image__data=bytes(25 * 2**20)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_client_turns_refusals_into_one_error(client):
    with pytest.raises(CallFailed, match="NOT_FOUND: unknown region 'atlantis'"):
        client.localize(STREET_IMAGE, Query(regions=("atlantis",)))


def test_lists_the_regions(client):
    (region,) = client.regions()
    assert (region.name, region.generation, region.zoom, region.side_m) == ("brig", "g1", 20, 70.0)
    assert region.patch_count > 50
    assert len(region.coverage) == 1


def test_health_is_serving(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "clnet.geoloc.v1.LocalizationService"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_is_watched(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name, state in (
        ("clnet.geoloc.v1.RegionService", health_pb2.HealthCheckResponse.SERVING),
        ("other", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN),
    ):
        watching = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=30.0)
        assert next(watching).status == state
        watching.cancel()


def test_reflection_lists_the_services(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in reply.list_services_response.service}
    assert names >= {
        "clnet.geoloc.v1.LocalizationService",
        "clnet.geoloc.v1.RegionService",
        "grpc.health.v1.Health",
    }


def test_reflection_describes_the_contract(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="clnet.geoloc.v1.LocalizeRequest")
    (reply,) = stub.ServerReflectionInfo(iter([request]))
    assert (
        b"clnet/geoloc/v1/localization_service.proto"
        in reply.file_descriptor_response.file_descriptor_proto[0]
    )


def test_the_store_folder_has_one_owner(service, options):
    with pytest.raises(StoreInUse):
        open_store(directory=options.store)


def test_a_port_in_use_is_refused_before_anything_starts(service, options):
    with pytest.raises(PortInUse, match=f"port {service.port} is in use"):
        start_service(replace(options, port=service.port))


def test_a_missing_store_is_refused_before_anything_starts(options, tmp_path: Path):
    with pytest.raises(StoreMissing):
        start_service(replace(options, store=tmp_path / "nowhere"))


def test_one_cluster_runs_one_service(service, options, tmp_path: Path):
    with open_store(directory=tmp_path / "other", create=True):
        pass
    with pytest.raises(AlreadyServing):
        start_service(replace(options, store=tmp_path / "other"))


def test_a_free_port_passes_the_check():
    check_port(free_port())
