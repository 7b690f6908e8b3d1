"""The contract through both of Serve's proxies, each in a process of its own as an operator starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.calling import Retries, status_of
from serving.client import Client
from serving.edge import request_from
from serving.errors import CallFailed
from serving.locate import HeadingPrior, Query
from serving.pb import localization_service_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NORTH = Query(heading=HeadingPrior(heading_deg=0.0))


@dataclass(frozen=True)
class Started:
    """`clnet serve` in a process of its own."""

    process: subprocess.Popen
    target: str


@pytest.fixture(scope="module", params=[(), ("--haproxy",)], ids=["proxy", "haproxy"])
def started(request, small_world, tmp_path_factory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("mode")
    small_world.build(folder / "store", ("g1",))
    command = [
        sys.executable, "-m", "cli", "serve", "--store", str(folder / "store"), "--checkpoint",
        str(small_world.checkpoint), "--port", "0", "--drain-s", "10", *request.param,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], start_new_session=True
    )
    try:
        yield Started(process, target_of(process))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(90) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def target_of(process: subprocess.Popen) -> str:
    for line in process.stdout:
        found = re.match(r"ready on (\S+),", line)
        if found:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return found[1]
    raise AssertionError(f"clnet serve ended with {process.wait()}")


@pytest.fixture(scope="module")
def client(started):
    with Client(started.target, retries=Retries(attempts=1)) as client:
        yield client


@pytest.fixture(scope="module")
def channel(started):
    with grpc.insecure_channel(started.target) as channel:
        yield channel


def test_an_image_is_located(client, small_world):
    best = client.localize(small_world.image, NORTH).hypotheses[0]
    assert best.position.latitude == pytest.approx(small_world.camera.lat, abs=1e-5)


def test_many_clients_get_the_answers_that_one_gets(client, small_world):
    alone = client.localize(small_world.image, NORTH)
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: client.localize(small_world.image, NORTH), range(32)):
            assert answer.hypotheses[0].position == alone.hypotheses[0].position


@pytest.mark.parametrize(
    ("data", "regions", "code", "reason"),
    [
        (b"no image", (), "INVALID_ARGUMENT", "BAD_IMAGE"),
        (None, ("atlantis",), "NOT_FOUND", "UNKNOWN_REGION"),
    ],
)
def test_errors_carry_code_and_details(channel, small_world, data, regions, code, reason):
    request = request_from(data or small_world.image, Query(regions=regions))
    with pytest.raises(grpc.RpcError) as caught:
        LocalizationServiceStub(channel).Localize(request)
    info = error_details_pb2.ErrorInfo()
    assert caught.value.code().name == code
    assert status_of(caught.value).details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason, "clnet-geoloc")
    assert "Traceback" not in caught.value.details()


def frames(image, seconds):
    for second in seconds:
        stamp = Timestamp()
        stamp.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second))
        yield localization_service_pb2.LocalizeStreamRequest(
            frame=request_from(image, NORTH), capture_time=stamp
        )


def test_a_sequence_is_answered(client, small_world):
    answers = list(client.follow(frames(small_world.image, range(4))))
    assert [answer.smoothed.used_frames for answer in answers] == [1, 2, 3, 4]


def test_a_bad_sequence_ends_with_an_error(client, small_world):
    with pytest.raises(CallFailed, match="INVALID_ARGUMENT"):
        list(client.follow(frames(small_world.image, [1, 0])))


def test_without_keys_nobody_changes_anything(client):
    with pytest.raises(CallFailed, match="UNAUTHENTICATED"):
        client.delete_region("brig")


def test_a_deadline_is_kept(channel, small_world):
    with pytest.raises(grpc.RpcError) as caught:
        LocalizationServiceStub(channel).Localize(request_from(small_world.image, NORTH), timeout=0.001)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_health_and_reflection_answer(channel):
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (reply,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name for service in reply.list_services_response.service}
    assert "clnet.geoloc.v1.LocalizationService" in names
