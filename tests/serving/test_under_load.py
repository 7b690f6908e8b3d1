"""The service when more comes than it can do, when callers leave, and when it is stopped.

The encoder is slow on purpose. The last tests stop the service, and start another.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from ray import cloudpickle, serve

from clnet_model.encoder import load_encoder
from serving.app import (
    Service,
    deploy,
    free_port,
    wait_until_serving,
)
from serving.calling import Retries, retry_hint_s, status_of
from serving.client import Client
from serving.deployments import build_application, open_index_of
from serving.edge import request_from
from serving.errors import CallFailed
from serving.locate import HeadingPrior, Query
from serving.options import ServiceOptions
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub

NORTH = Query(heading=HeadingPrior(heading_deg=0.0))
BATCH_S = 0.25
ROOM = 6

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class SlowEncoder:
    """An encoder that takes its time over every batch, and writes down how many canvases it got."""

    def __init__(self, checkpoint: Path, log: Path) -> None:
        self._inner = load_encoder(checkpoint, device="cpu")
        self._log = log
        self.digest = self._inner.digest
        self.canvas = self._inner.canvas
        self.calibration = self._inner.calibration
        self.turns = self._inner.turns

    def embed_ground(self, canvases: np.ndarray) -> np.ndarray:
        with self._log.open("a") as log:
            log.write(f"{len(canvases)}\n")
        time.sleep(BATCH_S)
        return self._inner.embed_ground(canvases)


@dataclass(frozen=True)
class Slow:
    """A running service and what its encoder wrote down."""

    service: Service
    log: Path

    def canvases(self) -> int:
        return sum(int(line) for line in self.log.read_text().splitlines())


def start(small_world, folder: Path, **more: int) -> Slow:
    small_world.build(folder / "store", ("g1",))
    log = folder / "batches"
    options = ServiceOptions(
        store=folder / "store", checkpoint=small_world.checkpoint, max_waiting=ROOM, max_batch=1, **more
    )
    app = build_application(
        options,
        load=partial(SlowEncoder, small_world.checkpoint, log),
        open_index=partial(open_index_of, options),
    )
    port = free_port()
    deploy(app, options, port)
    service = Service(port=port, model_digest="", regions=(), owns_ray=False)
    wait_until_serving(service.target, 60.0)
    return Slow(service, log)


@pytest.fixture(scope="module")
def slow(ray_session, small_world, tmp_path_factory) -> Iterator[Slow]:
    slow = start(small_world, tmp_path_factory.mktemp("load"))
    yield slow
    slow.service.stop()


def call(slow, image, **options):
    with grpc.insecure_channel(slow.service.target) as channel:
        return LocalizationServiceStub(channel).Localize(request_from(image, NORTH), **options)


def quiet(slow) -> None:
    """Return when the encoder has nothing more to do."""
    before = -1
    while before != slow.canvases():
        before = slow.canvases()
        time.sleep(2.5 * BATCH_S)


def test_what_is_too_much_is_refused_with_a_hint(slow, small_world):
    quiet(slow)

    def attempt(_):
        try:
            call(slow, small_world.image)
        except grpc.RpcError as error:
            return error
        return None

    with ThreadPoolExecutor(4 * ROOM) as pool:
        began_s = time.monotonic()
        outcomes = list(pool.map(attempt, range(4 * ROOM)))
    refused = [error for error in outcomes if error is not None]
    assert len(refused) >= 2 * ROOM
    assert sum(error is None for error in outcomes) >= ROOM
    for error in refused:
        info = error_details_pb2.ErrorInfo()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert status_of(error).details[0].Unpack(info)
        assert info.reason == "OVERLOADED"
        assert retry_hint_s(error) > 0.0
    assert time.monotonic() - began_s < (ROOM + 4) * BATCH_S + 5.0  # nobody waits behind the others


@pytest.mark.slow
def test_a_patient_client_gets_through(slow, small_world):
    quiet(slow)

    def attempt(_):
        with Client(slow.service.target, retries=Retries(attempts=12)) as client:
            return client.localize(small_world.image, NORTH, timeout_s=60.0)

    with ThreadPoolExecutor(2 * ROOM) as pool:
        answers = list(pool.map(attempt, range(2 * ROOM)))
    assert len({answer.hypotheses[0].position.latitude for answer in answers}) == 1


def test_what_nobody_waits_for_is_not_embedded(slow, small_world):
    """Callers who give up while they wait for the encoder cost it nothing."""
    quiet(slow)
    before = slow.canvases()

    def attempt(_):
        with pytest.raises(grpc.RpcError) as caught:
            call(slow, small_world.image, timeout=0.5 * BATCH_S)
        return caught.value.code()

    with ThreadPoolExecutor(ROOM) as pool:
        codes = list(pool.map(attempt, range(ROOM)))
    assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    time.sleep((ROOM + 1) * BATCH_S)
    assert slow.canvases() - before <= 2  # the one being embedded, and one that was next


def test_a_budget_in_the_request_stops_the_work_too(slow, small_world):
    quiet(slow)
    before = slow.canvases()
    request = request_from(small_world.image, NORTH)
    request.timeout_s = 0.5 * BATCH_S

    def attempt(_):
        with grpc.insecure_channel(slow.service.target) as channel, pytest.raises(grpc.RpcError) as caught:
            LocalizationServiceStub(channel).Localize(request)
        return caught.value.code()

    with ThreadPoolExecutor(ROOM) as pool:
        assert set(pool.map(attempt, range(ROOM))) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    time.sleep((ROOM + 1) * BATCH_S)
    assert slow.canvases() - before <= 2


def test_the_place_of_one_who_left_is_free(slow, small_world):
    quiet(slow)
    for _ in range(3 * ROOM):
        with pytest.raises(grpc.RpcError):
            call(slow, small_world.image, timeout=0.05)
    time.sleep(2 * BATCH_S)
    assert call(slow, small_world.image).hypotheses


@pytest.mark.slow
def test_stopping_waits_for_what_is_in_work(slow, small_world):
    """Every request that was taken is answered; what comes later is refused by a typed error."""
    quiet(slow)
    answers, errors, late = [], [], []

    def attempt():
        try:
            answers.append(call(slow, small_world.image))
        except grpc.RpcError as error:
            errors.append(error)

    def keep_calling():
        """The first may come before the door is closed; nobody is let in again after it was."""
        while not stopped.is_set():
            try:
                call(slow, small_world.image, timeout=5.0)
            except grpc.RpcError as error:
                late.append(error)
            else:
                assert not any(error.code() is grpc.StatusCode.UNAVAILABLE for error in late)
            time.sleep(0.05)

    threads = [threading.Thread(target=attempt) for _ in range(ROOM)]
    for thread in threads:
        thread.start()
    time.sleep(1.5 * BATCH_S)
    stopped = threading.Event()
    stopping = threading.Thread(target=slow.service.stop)
    stopping.start()
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(keep_calling)
        stopping.join()
        stopped.set()
        calling.result()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(answers) == ROOM
    refused = {error.code() for error in late}
    assert grpc.StatusCode.UNAVAILABLE in refused
    assert refused <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert any(retry_hint_s(error) for error in late)  # by us, before the proxy was gone
    with Client(slow.service.target, retries=Retries(attempts=1)) as client, pytest.raises(CallFailed):
        client.localize(small_world.image, NORTH, timeout_s=2.0)


@pytest.mark.slow
def test_encoders_multiply_under_load(slow, small_world, tmp_path):
    """Load brings a second encoder, which takes part of it; every answer stays the same."""
    slow.service.stop()
    growing = start(small_world, tmp_path, max_encoder_replicas=2)
    answers, calm, deadline_s = [], threading.Event(), time.monotonic() + 90.0

    def keep_calling():
        while not calm.is_set():
            answers.append(call(growing, small_world.image))

    try:
        threads = [threading.Thread(target=keep_calling) for _ in range(ROOM)]
        for thread in threads:
            thread.start()
        while encoders_running() < 2 and time.monotonic() < deadline_s:
            time.sleep(0.5)
        alone = len(answers)
        time.sleep(20 * BATCH_S)
        calm.set()
        for thread in threads:
            thread.join()
        assert encoders_running() == 2
        assert len(answers) - alone > 1.4 * 20  # one encoder gives 20 in that time
        assert len({answer.hypotheses[0].position.latitude for answer in answers}) == 1
    finally:
        calm.set()
        growing.service.stop()


def encoders_running() -> int:
    """Replicas that answer."""
    [app] = serve.status().applications.values()
    return app.deployments["Encoder"].replica_states.get("RUNNING", 0)
