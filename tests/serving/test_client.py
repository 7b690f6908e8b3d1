"""The client's patience: what it tries again, when, and with which request id."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.calling import Retries
from serving.client import Client
from serving.errors import CallFailed, InvalidRequest, Overloaded, Unready
from serving.locate import Query
from serving.pb import localization_service_pb2, region_service_pb2
from serving.pb.localization_service_pb2_grpc import (
    LocalizationServiceServicer,
    add_LocalizationServiceServicer_to_server,
)
from serving.pb.region_service_pb2_grpc import RegionServiceServicer, add_RegionServiceServicer_to_server
from serving.refusals import refusal_of


class Moody(LocalizationServiceServicer, RegionServiceServicer):
    """Refuses with the errors that it is given, one a call, and answers afterwards."""

    def __init__(self) -> None:
        self.moods: list[Exception | grpc.StatusCode] = []
        self.requests: list = []
        self.metadata: list[dict[str, str]] = []
        self.live = "g2"

    def _answer(self, request, context, response):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if not self.moods:
            return response
        mood = self.moods.pop(0)
        if isinstance(mood, grpc.StatusCode):
            context.abort(mood, "in the proxy's words")
        refusal = refusal_of(mood)
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.code, refusal.message)
        return None

    def Localize(self, request, context):
        return self._answer(request, context, localization_service_pb2.LocalizeResponse(plan="exact"))

    def RollBackRegion(self, request, context):
        region = region_service_pb2.Region(name="r", generation="g1")
        return self._answer(request, context, region_service_pb2.RollBackRegionResponse(region=region))

    def ListGenerations(self, request, context):
        """One build a page."""
        row = int(request.page_token or 0)
        live = region_service_pb2.GENERATION_STATE_LIVE if f"g{row}" == self.live else 0
        found = region_service_pb2.RegionGeneration(region="r", generation=f"g{row}", state=live)
        token = str(row + 1) if row < 2 else ""
        return region_service_pb2.ListGenerationsResponse(generations=[found], next_page_token=token)


@pytest.fixture
def moody():
    servicer = Moody()
    server = grpc.server(ThreadPoolExecutor(2))
    add_LocalizationServiceServicer_to_server(servicer, server)
    add_RegionServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(0)


@pytest.fixture
def client(moody):
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with Client(
        moody.target, api_key="k", retries=Retries(first_wait_s=0.01), traceparent=lambda: parent
    ) as client:
        yield client


@pytest.mark.parametrize(
    "mood",
    [Overloaded(0.01), Unready(0.01), grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL],
    ids=["overloaded", "unready", "proxy unavailable", "proxy internal"],
)
def test_what_passes_is_tried_again(moody, client, mood):
    moody.moods = [mood, mood]
    assert client.localize(b"x", Query()).plan == "exact"
    assert len(moody.requests) == 3


@pytest.mark.parametrize(
    "mood", [InvalidRequest("a", "b", "c"), ZeroDivisionError(), grpc.StatusCode.ABORTED]
)
def test_what_stays_is_not(moody, client, mood):
    moody.moods = [mood]
    with pytest.raises(CallFailed):
        client.localize(b"x", Query())
    assert len(moody.requests) == 1


def test_the_hint_of_the_service_is_followed(moody, client):
    moody.moods = [Overloaded(0.3)]
    began_s = time.monotonic()
    client.localize(b"x", Query())
    assert time.monotonic() - began_s >= 0.3


def test_a_hint_beyond_the_time_left_ends_the_attempts(moody, client):
    moody.moods = [Overloaded(5.0)] * 3
    began_s = time.monotonic()
    with pytest.raises(CallFailed, match="RESOURCE_EXHAUSTED"):
        client.localize(b"x", Query(), timeout_s=1.0)
    assert time.monotonic() - began_s < 1.0
    assert len(moody.requests) == 1


def test_attempts_are_counted(moody, client):
    moody.moods = [Unready(0.01)] * 9
    with pytest.raises(CallFailed, match="UNAVAILABLE"):
        client.localize(b"x", Query())
    assert len(moody.requests) == Retries().attempts


def test_a_change_keeps_its_request_id_over_its_attempts_and_no_longer(moody, client):
    moody.moods = [Unready(0.01), Unready(0.01)]
    assert client.roll_back("r").generation == "g1"
    client.roll_back("r")
    first, *again, other = [request.request_id for request in moody.requests]
    assert first
    assert again == [first, first]
    assert other != first


@pytest.mark.parametrize(
    ("live", "given", "sent"), [("g2", None, "g2"), ("g1", None, "g1"), ("g2", "g1", "g1"), ("", None, "")]
)
def test_a_rollback_names_the_build_that_it_takes_to_be_live(moody, client, live, given, sent):
    """The service may have forgotten the request id, and the first try been carried out."""
    moody.live = live
    moody.moods = [grpc.StatusCode.UNAVAILABLE]
    client.roll_back("r", expected_live=given)
    assert [request.expected_live_generation for request in moody.requests] == [sent, sent]


def test_key_trace_and_time_left_travel_with_the_call(moody, client):
    client.localize(b"x", Query(), timeout_s=7.0)
    assert moody.metadata[0]["authorization"] == "Bearer k"
    assert moody.metadata[0]["traceparent"].startswith("00-4bf9")
    assert 6.0 < moody.requests[0].timeout_s <= 7.0
