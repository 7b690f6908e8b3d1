"""Parts of the real service are killed under load: no wrong answers, typed errors, recovery."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from serving.app import APPLICATION, Service, running
from serving.calling import Retries, is_passing, retry_hint_s, status_of
from serving.client import Client
from serving.edge import request_from
from serving.locate import HeadingPrior, Query
from serving.options import ServiceOptions
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NORTH = Query(heading=HeadingPrior(heading_deg=0.0))
TYPED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.fixture(scope="module")
def service(ray_session, small_world, tmp_path_factory) -> Iterator[Service]:
    store = tmp_path_factory.mktemp("killed") / "store"
    small_world.build(store, ("g1",))
    options = ServiceOptions(
        store=store, checkpoint=small_world.checkpoint, port=0, encoder_replicas=2, ingress_replicas=2
    )
    with running(options) as service:
        yield service


def pids_of(deployment: str) -> list[int]:
    """Processes of a deployment's replicas, by the title that Ray gives them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes()
        except OSError:
            continue
        if title.startswith(f"ray::ServeReplica:{APPLICATION}:{deployment}".encode()):
            found.append(int(path.parent.name))
    return found


class Load:
    """Clients that ask without a pause, and what they were told."""

    def __init__(self, target: str, image: bytes, clients: int = 3) -> None:
        self.answers: list = []
        self.errors: list[grpc.RpcError] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(target, image), daemon=True) for _ in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def _ask(self, target: str, image: bytes) -> None:
        with grpc.insecure_channel(target) as channel:
            stub = LocalizationServiceStub(channel)
            while not self._stop.is_set():
                try:
                    self.answers.append(stub.Localize(request_from(image, NORTH), timeout=20.0))
                except grpc.RpcError as error:
                    self.errors.append(error)
                    time.sleep(0.1)


def wait_for_recovery(service, image, seconds=90.0):
    """Seconds until five calls in a row succeed."""
    began_s, good = time.monotonic(), 0
    with grpc.insecure_channel(service.target) as channel:
        while good < 5:
            assert time.monotonic() - began_s < seconds, "no recovery"
            try:
                LocalizationServiceStub(channel).Localize(request_from(image, NORTH), timeout=10.0)
                good += 1
            except grpc.RpcError:
                good = 0
                time.sleep(0.2)
    return time.monotonic() - began_s


def is_of_the_proxy(error: grpc.RpcError) -> bool:
    """Serve's own proxy reports calls that were inside an ingress that died in its own words, as INTERNAL.

    Our client tries them again.
    """
    died = "actor died unexpectedly" in error.details()
    return error.code() is grpc.StatusCode.INTERNAL and died and is_passing(error)


def check(load: Load, truth) -> None:
    """No answer is wrong and no error is untyped."""
    assert load.answers
    for answer in load.answers:
        best = answer.hypotheses[0].position
        assert (best.longitude, best.latitude) == pytest.approx((truth.lng, truth.lat), abs=1e-5)
    for error in load.errors:
        if is_of_the_proxy(error):
            continue
        assert error.code() in TYPED, error.details()
        assert "Traceback" not in (error.details() or "")
        status = status_of(error)
        if status is not None and error.code() is grpc.StatusCode.UNAVAILABLE:
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert retry_hint_s(error) > 0.0


@pytest.mark.parametrize("deployment", ["Encoder", "Ingress", "Index"])
def test_a_killed_replica_is_replaced(service, small_world, deployment):
    before = pids_of(deployment)
    assert before
    with Load(service.target, small_world.image) as load:
        time.sleep(2.0)
        os.kill(before[0], signal.SIGKILL)
        time.sleep(2.0)
        recovery_s = wait_for_recovery(service, small_world.image)
    check(load, small_world.camera)
    deadline_s = time.monotonic() + 60.0
    while len(pids_of(deployment)) < len(before) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert len(pids_of(deployment)) == len(before)
    assert before[0] not in pids_of(deployment)
    print(
        f"{deployment}: {len(load.answers)} answers, {len(load.errors)} errors, {recovery_s:.1f} s to recover"
    )


@pytest.mark.parametrize("deployment", ["Encoder", "Ingress"])
def test_a_client_that_tries_again_does_not_notice(service, small_world, deployment):
    """One of two replicas is killed: every call succeeds in the end."""
    failures: list[Exception] = []
    stop = threading.Event()

    def ask():
        with Client(service.target, retries=Retries(attempts=10)) as client:
            while not stop.is_set():
                try:
                    client.localize(small_world.image, NORTH, timeout_s=60.0)
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    os.kill(pids_of(deployment)[0], signal.SIGKILL)
    time.sleep(6.0)
    stop.set()
    for thread in threads:
        thread.join(70)
    assert not failures
