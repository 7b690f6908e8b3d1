"""Generations over gRPC: listed, promoted, rolled back, deleted, each once. In the order of this file."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from serving.calling import status_of
from serving.errors import CallFailed
from serving.pb import region_service_pb2


def test_generations_are_listed_page_by_page(caller):
    names, token = [], ""
    while True:
        page = caller("reader").listed(region="brig", page_size=2, page_token=token)
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
def test_an_impossible_change_is_refused(caller, method, fields, code, reason):
    with pytest.raises(grpc.RpcError) as caught:
        caller("admin").change(method, **fields)
    info = error_details_pb2.ErrorInfo()
    assert caught.value.code().name == code
    assert status_of(caught.value).details[0].Unpack(info)
    assert info.reason == reason


def live(reader):
    return next(region.generation for region in reader.regions() if region.name == "brig")


def test_a_repeated_rollback_rolls_back_once(caller, client):
    assert caller("admin").change("RollBackRegion", region="brig", request_id="r1").region.generation == "g1"
    assert caller("admin").change("RollBackRegion", region="brig", request_id="r1").region.generation == "g1"
    assert live(client("reader")) == "g1"
    with pytest.raises(CallFailed, match="FAILED_PRECONDITION"):
        client("admin").roll_back("brig")  # another request: there is nothing before g1
    assert client("admin").promote("brig", "g2", expected_live="g1").generation == "g2"
    assert live(client("reader")) == "g2"


def test_a_generation_that_is_not_live_can_be_deleted(caller):
    caller("admin").change("DeleteGeneration", region="brig", generation="g3", request_id="d1")
    caller("admin").change("DeleteGeneration", region="brig", generation="g3", request_id="d1")
    with pytest.raises(grpc.RpcError) as caught:
        caller("admin").change("DeleteGeneration", region="brig", generation="g3")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
