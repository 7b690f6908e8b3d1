"""Ingests and fleets ordered over gRPC: the real Serve proxy, real Ray actors, a small random network."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from google.longrunning import operations_pb2
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2
from google.type.latlng_pb2 import LatLng
from PIL import Image
from rasterio.transform import from_origin

from cli.operations import open_operations
from serving.app import APPLICATION, Service, running
from serving.auth import ApiKey, Scope, digest_of
from serving.calling import Retries, status_of
from serving.client import Client
from serving.errors import CallFailed, JobFailed
from serving.job_client import JobClient, metadata_of
from serving.options import ServiceOptions
from serving.pb.geometry_pb2 import LinearRing, Polygon
from serving.pb.ingestion_service_pb2 import VECTOR_STORAGE_INT8, IngestRegionRequest, IngestRegionResponse
from serving.pb.ingestion_service_pb2_grpc import IngestionServiceStub
from serving.pb.job_pb2 import JOB_STATE_CANCELLED, JOB_STATE_SUCCEEDED
from serving.pb.relocalization_service_pb2 import (
    ListRelocalizedImagesRequest,
    RelocalizeFleetRequest,
    RelocalizeFleetResponse,
)
from serving.pb.relocalization_service_pb2_grpc import RelocalizationServiceStub

KEYS = {"builder": "key-of-the-builder", "reader": "key-of-the-reader"}
ONCE = Retries(attempts=1)


@dataclass(frozen=True)
class Yard:
    """A service that takes jobs, its folders, and how it is started."""

    service: Service
    inputs: Path
    jobs: Path


def options_of(folder: Path, checkpoint: Path) -> ServiceOptions:
    return ServiceOptions(
        store=folder / "store",
        checkpoint=checkpoint,
        port=0,
        keys=(
            ApiKey(
                name="builder",
                sha256=digest_of(KEYS["builder"]),
                scopes=frozenset({Scope.INGEST, Scope.LOCATE}),
            ),
            ApiKey(name="reader", sha256=digest_of(KEYS["reader"]), scopes=frozenset({Scope.LOCATE})),
        ),
        audit_log=folder / "audit.jsonl",
        open_operations=partial(
            open_operations, inputs=folder / "inputs", jobs=folder / "jobs", checkpoint=checkpoint
        ),
    )


@pytest.fixture(scope="module")
def folder(small_world, tmp_path_factory) -> Path:
    """A store with the region `brig`, and inputs: a sheet, a damaged one, one outside, a fleet."""
    root = tmp_path_factory.mktemp("jobs")
    small_world.build(root / "store", ("g1",))
    (root / "inputs").mkdir()
    write_sheet(root / "inputs" / "sheet.tif", side_m=200)
    write_sheet(root / "inputs" / "large.tif", side_m=900, seed=1)
    write_sheet(root / "outside.tif", side_m=200)
    (root / "inputs" / "damaged.tif").write_bytes(b"no raster")
    (root / "inputs" / "way-out").symlink_to(root)
    write_fleet(root / "inputs", small_world)
    return root


def write_sheet(path: Path, *, side_m: int, seed: int = 0) -> None:
    pixels = side_m * 2
    coarse = np.random.default_rng(seed).integers(1, 256, (3, pixels // 8, pixels // 8), np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=pixels, height=pixels, count=3, dtype="uint8",
        crs="EPSG:2056", transform=from_origin(2_642_000, 1_130_000, 0.5, 0.5),
    ) as file:  # fmt: skip
        file.write(coarse.repeat(8, axis=1).repeat(8, axis=2))


def write_fleet(inputs: Path, small_world) -> None:
    rng = np.random.default_rng(0)
    lines = ["image,latitude,longitude,captured_at,sequence,heading_deg"]
    camera = small_world.camera
    for number in range(5):
        path = inputs / f"{number}.jpg"
        Image.fromarray(rng.integers(0, 256, (64, 128, 3), np.uint8)).save(path)
        lines.append(f"{path.name},{camera.lat},{camera.lng},2026-05-01T12:00:0{number}Z,car,0")
    (inputs / "0.jpg").write_bytes(small_world.image)
    (inputs / "3.jpg").write_bytes(b"no image")
    (inputs / "fleet.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def yard(ray_session, small_world, folder) -> Iterator[Yard]:
    with running(options_of(folder, small_world.checkpoint)) as service:
        yield Yard(service, folder / "inputs", folder / "jobs")


@pytest.fixture(scope="module")
def builder(yard) -> Iterator[JobClient]:
    with JobClient(yard.service.target, api_key=KEYS["builder"]) as client:
        yield client


@pytest.fixture(scope="module")
def channel(yard) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(yard.service.target) as channel:
        yield channel


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {KEYS[name]}"),)


def refusal(channel: grpc.Channel, request: IngestRegionRequest) -> tuple[grpc.StatusCode, list[str], str]:
    """The code, the fields and the message with which an order is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        IngestionServiceStub(channel).IngestRegion(request, metadata=bearer("builder"))
    fields: list[str] = []
    for detail in status_of(caught.value).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
    return caught.value.code(), fields, caught.value.details()


def test_an_ordered_region_is_live_in_the_service_that_built_it(yard, builder):
    order = IngestRegionRequest(region="town", sheets=["sheet.tif"], zoom=20, storage=VECTOR_STORAGE_INT8)
    operation = builder.ingest_region(order)
    assert not operation.done
    assert metadata_of(operation).region == "town"
    seen = []
    result = builder.result(operation.name, IngestRegionResponse, watch=seen.append)
    assert seen[-1].state == JOB_STATE_SUCCEEDED
    assert (seen[-1].completed_count, seen[-1].total_count) == (result.planned_patch_count,) * 2
    assert result.indexed_patch_count + sum(s.count for s in result.skipped) == result.planned_patch_count
    assert result.indexed_patch_count == pytest.approx(200**2 / 26.4**2, abs=12)
    assert result.embedded_patch_count == result.planned_patch_count
    assert result.area_km2 == pytest.approx(0.04, rel=0.1)
    with Client(yard.service.target, api_key=KEYS["reader"]) as client:
        (town,) = [region for region in client.regions() if region.name == "town"]
        assert town.generation == result.generation
        assert town.model_digest == result.model_digest == yard.service.model_digest
    assert builder.ingest_region(order) == builder.operation(operation.name)  # done: nothing is done again
    assert next(builder.operations()).name == operation.name


@pytest.mark.parametrize(
    ("sheets", "field"),
    [
        (["../outside.tif"], "sheets[0]"),
        (["/etc/passwd"], "sheets[0]"),
        (["sheet.tif", "way-out/outside.tif"], "sheets[1]"),
        (["nowhere.tif"], "sheets[0]"),
        (["/vsicurl/http://127.0.0.1/x.tif"], "sheets[0]"),
        (["file:///etc/passwd"], "sheets[0]"),
        (["a\0b"], "sheets[0]"),
        (["damaged.tif"], "sheets"),
        ([], "sheets"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused_by_field(channel, folder, sheets, field):
    code, fields, message = refusal(channel, IngestRegionRequest(region="bad", sheets=sheets))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert str(folder) not in message  # the layout of the machine is nobody's business
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"region": ""}, "region"),
        ({"side_m": float("nan")}, "side_m"),
        ({"side_m": 1e9}, "zoom"),
        ({"zoom": 99}, "zoom"),
        ({"storage": 17}, "storage"),
        ({"area": [Polygon()]}, "area"),
    ],
)
def test_bad_settings_are_refused_by_field(channel, change, field):
    order = IngestRegionRequest(**{"region": "bad", "sheets": ["sheet.tif"], **change})
    code, fields, _ = refusal(channel, order)
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


def test_an_area_away_from_the_imagery_plans_nothing_that_can_be_found(channel):
    corners = [(46.0, 7.0), (46.0, 7.00001), (46.00001, 7.00001), (46.0, 7.0)]
    ring = LinearRing(positions=[LatLng(latitude=lat, longitude=lng) for lat, lng in corners])
    order = IngestRegionRequest(region="bad", sheets=["sheet.tif"], area=[Polygon(rings=[ring])])
    code, fields, message = refusal(channel, order)
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["area"])
    assert "patch centre" in message


def test_jobs_need_the_scope(yard, channel):
    calls = {
        "IngestRegion": (IngestionServiceStub(channel).IngestRegion, IngestRegionRequest()),
        "ListOperations": (OperationsStub(channel).ListOperations, operations_pb2.ListOperationsRequest()),
        "GetOperation": (OperationsStub(channel).GetOperation, operations_pb2.GetOperationRequest(name="x")),
        "CancelOperation": (OperationsStub(channel).CancelOperation, operations_pb2.CancelOperationRequest()),
    }
    for name, (call, request) in calls.items():
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, name
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=bearer("reader"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, name


def test_a_fleets_rows_come_in_pages_as_the_file_has_them(yard, builder, small_world):
    operation = builder.relocalize_fleet(RelocalizeFleetRequest(manifest="fleet.csv"))
    result = builder.result(operation.name, RelocalizeFleetResponse)
    assert (result.image_count, result.embedded_image_count) == (5, 5)
    counts = {status.status: status.count for status in result.status_counts}
    assert sum(counts.values()) == 5
    assert counts["UNREADABLE_IMAGE"] == 1
    images = list(builder.images(operation.name, page_size=2))
    job = yard.jobs / operation.name.removeprefix("operations/")
    rows = pq.read_table(job / "results.parquet").to_pylist()
    assert [image.image_id for image in images] == [row["image_id"] for row in rows]
    for image, row in zip(images, rows, strict=True):
        assert image.status == row["status"]
        assert image.HasField("r68_m") == (row["r68_m"] is not None)
        assert image.position.latitude == (row["latitude"] or 0.0)
        assert list(image.patch_quadkeys) == (row["patches"] or [])
        assert image.capture_time.ToDatetime() == row["captured_at"].replace(tzinfo=None)
    first = images[0]
    assert (first.position.latitude, first.position.longitude) == pytest.approx(
        (small_world.camera.lat, small_world.camera.lng), abs=1e-5
    )
    again = builder.relocalize_fleet(RelocalizeFleetRequest(manifest="fleet.csv"))
    assert again.done
    rerun = builder.relocalize_fleet(RelocalizeFleetRequest(manifest="fleet.csv", rerun=True))
    assert rerun.name == operation.name
    assert builder.result(rerun.name, RelocalizeFleetResponse).embedded_image_count == 0
    few = builder.relocalize_fleet(RelocalizeFleetRequest(manifest="fleet.csv", max_images=2))
    assert few.name != operation.name
    assert builder.result(few.name, RelocalizeFleetResponse).image_count == 2


def test_pages_and_names_that_do_not_exist(builder, channel):
    with pytest.raises(CallFailed, match="NOT_FOUND"):
        builder.operation("operations/ingest-nothing-000")
    with pytest.raises(CallFailed, match="NOT_FOUND"):
        builder.operation("operations/../../etc")
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT"):
        builder.operation("")
    (ingest,) = [each.name for each in builder.operations() if "ingest-town" in each.name]
    with pytest.raises(CallFailed, match="FAILED_PRECONDITION"):
        list(builder.images(ingest))
    with pytest.raises(JobFailed, match="no RelocalizeFleetResponse"):
        builder.result(ingest, RelocalizeFleetResponse)
    with pytest.raises(grpc.RpcError) as caught:
        OperationsStub(channel).DeleteOperation(
            operations_pb2.DeleteOperationRequest(name=ingest), metadata=bearer("builder")
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    request = ListRelocalizedImagesRequest(operation=ingest, page_token="row-x")
    with pytest.raises(grpc.RpcError) as caught:
        RelocalizationServiceStub(channel).ListRelocalizedImages(request, metadata=bearer("builder"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_cancelled_job_says_so_and_goes_on_when_ordered_again(builder, channel):
    order = IngestRegionRequest(region="large", sheets=["large.tif"], zoom=20)
    operation = builder.ingest_region(order)
    behind = builder.ingest_region(IngestRegionRequest(region="behind", sheets=["sheet.tif"], zoom=20))
    builder.cancel(behind.name)  # while it waits
    builder.cancel(operation.name)  # while it runs, or before
    with pytest.raises(JobFailed, match="asked it to stop"):
        builder.result(operation.name, IngestRegionResponse)
    with pytest.raises(JobFailed, match="asked it to stop"):
        builder.result(behind.name, IngestRegionResponse)
    stopped = builder.operation(operation.name)
    assert stopped.error.code == code_pb2.CANCELLED
    assert metadata_of(stopped).state == JOB_STATE_CANCELLED
    assert builder.ingest_region(order).name == operation.name
    result = builder.result(operation.name, IngestRegionResponse)
    assert result.planned_patch_count == pytest.approx(900**2 / 26.4**2, rel=0.1)


def test_waiting_is_bounded_by_the_request(builder, channel):
    (name,) = [each.name for each in builder.operations() if "ingest-large" in each.name]
    began_s = time.monotonic()
    request = operations_pb2.WaitOperationRequest(name=name, timeout=Duration(seconds=5))
    assert OperationsStub(channel).WaitOperation(request, metadata=bearer("builder")).done
    assert time.monotonic() - began_s < 2.0


def test_a_job_goes_on_when_its_process_is_killed(yard, builder):
    """The replica is replaced, finds the order, and does the rest; one generation is live in the end."""
    order = IngestRegionRequest(region="killed", sheets=["large.tif"], zoom=20, side_m=60.0)
    operation = builder.ingest_region(order)
    deadline_s = time.monotonic() + 60.0
    while metadata_of(builder.operation(operation.name)).completed_count == 0:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    (pid,) = pids_of("Jobs")
    os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + 60.0
    while pids_of("Jobs") in ([], [pid]):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    with JobClient(yard.service.target, api_key=KEYS["builder"], retries=Retries(attempts=12)) as patient:
        result = patient.result(operation.name, IngestRegionResponse)
    assert result.indexed_patch_count == result.planned_patch_count - sum(s.count for s in result.skipped)
    assert 0 < result.embedded_patch_count < result.planned_patch_count  # what was kept is not embedded again


def pids_of(deployment: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue
        if title.startswith(f"ray::ServeReplica:{APPLICATION}:{deployment}".encode()):
            found.append(int(path.parent.name))
    return found


def test_what_was_ordered_is_in_the_audit_log(folder, yard):
    lines = (folder / "audit.jsonl").read_text()
    assert '"IngestRegion"' in lines
    assert "sheet.tif" not in lines


@pytest.mark.slow
def test_jobs_of_a_stopped_service_go_on_in_the_next(yard, builder, folder, small_world):
    """Comes last: it stops the service."""
    order = IngestRegionRequest(region="later", sheets=["large.tif"], zoom=20, side_m=50.0)
    name = builder.ingest_region(order).name
    yard.service.stop()
    with (
        running(options_of(folder, small_world.checkpoint)) as service,
        JobClient(service.target, api_key=KEYS["builder"]) as client,
    ):
        assert client.result(name, IngestRegionResponse).indexed_patch_count > 0
