"""Clients that ask a service without a pause, and what its answers and errors must be like meanwhile."""

from __future__ import annotations

import threading
import time

import grpc
import pytest
from google.rpc import error_details_pb2

from serving.calling import is_passing, retry_hint_s, status_of
from serving.edge import request_from
from serving.locate import HeadingPrior, Query
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub

NORTH = Query(heading=HeadingPrior(heading_deg=0.0))
TYPED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}


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
