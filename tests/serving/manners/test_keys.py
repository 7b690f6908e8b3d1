"""Who may do what, and what the others are told."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from serving.calling import retry_hint_s, status_of
from serving.errors import CallFailed
from serving.pb import localization_service_pb2, region_service_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from serving.pb.region_service_pb2_grpc import RegionServiceStub

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
        (("authorization", "Basic key-of-the-reader"),),
        (("x-api-key", "key-of-the-reade"),),
        (("authorization", "Bearer "),),
    ],
)
def test_a_wrong_key_is_no_key(channel, metadata):
    assert outcome(channel, "ListRegions", metadata) == ("UNAUTHENTICATED", "UNAUTHENTICATED")


@pytest.mark.parametrize("method", CHANGES)
def test_a_reader_changes_nothing(channel, caller, method):
    assert outcome(channel, method, caller("reader").metadata) == ("PERMISSION_DENIED", "SCOPE_MISSING")


@pytest.mark.parametrize("method", CHANGES)
def test_an_admin_is_asked_what_to_change(channel, caller, method):
    assert outcome(channel, method, caller("admin").metadata) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


@pytest.mark.parametrize("method", READS)
def test_a_reader_reads(channel, caller, method):
    assert outcome(channel, method, caller("reader").metadata)[0] in {"OK", "INVALID_ARGUMENT"}


def test_either_header_carries_the_key(channel, caller):
    metadata = (("x-api-key", caller("reader").key),)
    assert (
        RegionServiceStub(channel)
        .ListRegions(region_service_pb2.ListRegionsRequest(), metadata=metadata)
        .regions
    )


def test_a_stream_needs_a_key_too(client):
    with pytest.raises(CallFailed, match="UNAUTHENTICATED"):
        list(client(None).follow([localization_service_pb2.LocalizeStreamRequest()]))


def test_a_spent_quota_says_when_to_come_back(channel, caller):
    with pytest.raises(grpc.RpcError) as caught:
        for _ in range(3):
            RegionServiceStub(channel).ListRegions(
                region_service_pb2.ListRegionsRequest(), metadata=caller("slow").metadata
            )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 0.0 < retry_hint_s(caught.value) <= 6.0
    failure = error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(failure) for detail in status_of(caught.value).details)
    assert failure.violations[0].subject == "key:slow"
