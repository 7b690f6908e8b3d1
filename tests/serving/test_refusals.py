"""The table from errors to gRPC codes."""

from __future__ import annotations

import pickle

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from clnet_model.errors import BadImage, ModelError
from serving import errors
from serving.errors import InvalidRequest, OutOfCoverage, ServingError, WrongModel
from serving.refusals import CODES, DETAILS_KEY, HIDDEN, refusal_of
from spatial_index.errors import (
    BadPrior,
    DamagedStore,
    ModelMismatch,
    StoreInUse,
    StoreMissing,
    UnknownRegion,
)

PRIOR = BadPrior("circle.radius_m", -1, "greater than 0", "leave it out")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("image.data", "is empty", "send one"), grpc.StatusCode.INVALID_ARGUMENT),
        (BadImage("not an image"), grpc.StatusCode.INVALID_ARGUMENT),
        (PRIOR, grpc.StatusCode.INVALID_ARGUMENT),
        (UnknownRegion("atlantis", ["brig"]), grpc.StatusCode.NOT_FOUND),
        (WrongModel("a", "b"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.ModelReplaced("a", "b"), grpc.StatusCode.UNAVAILABLE),
        (ModelMismatch("brig", "a", "b"), grpc.StatusCode.FAILED_PRECONDITION),
        (StoreInUse("/store", 1), grpc.StatusCode.UNAVAILABLE),
        (errors.Overloaded(1.0), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineExceeded(1.0), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.PeerRefused("ipv4:1.2.3.4:5"), grpc.StatusCode.PERMISSION_DENIED),
        (DamagedStore("/secret/path", "x"), grpc.StatusCode.DATA_LOSS),
        (ModelError("?"), grpc.StatusCode.INTERNAL),
        (ZeroDivisionError("secret"), grpc.StatusCode.INTERNAL),
    ],
)
def test_each_error_has_its_code(error, code):
    assert refusal_of(error).code is code


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("secret"),
        DamagedStore("/secret/path", "x"),
        StoreInUse("/secret/path", 1),
        StoreMissing("/secret/path", "x"),
    ],
)
def test_an_internal_error_tells_nothing(error):
    refusal = refusal_of(error)
    assert refusal.message == HIDDEN[refusal.code]
    assert b"secret" not in refusal.trailing_metadata()[0][1]


def test_a_replaced_model_is_told_with_its_remedy():
    refusal = refusal_of(errors.ModelReplaced("a", "b"))
    assert "restart the service" in refusal.message
    assert (refusal.reason, refusal.is_our_fault) == ("MODEL_REPLACED", True)
    assert refusal.retry_after_s is not None  # another encoder may have the right one


def details_of(error):
    ((key, value),) = refusal_of(error).trailing_metadata()
    assert key == DETAILS_KEY
    return status_pb2.Status.FromString(value)


@pytest.mark.parametrize(
    ("error", "field", "reason"),
    [
        (InvalidRequest("timeout_s", "is 0", "give more"), "timeout_s", "INVALID_REQUEST"),
        (PRIOR, "position_prior.circle.radius_m", "BAD_PRIOR"),
        (BadImage("x"), "image.data", "BAD_IMAGE"),
        (UnknownRegion("a", []), "regions", "UNKNOWN_REGION"),
    ],
)
def test_the_details_name_the_field_and_the_reason(error, field, reason):
    status = details_of(error)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert (info.reason, info.domain) == (reason, "clnet-geoloc")
    assert [violation.field for violation in request.field_violations] == [field]
    assert status.message == str(error)


def family(kind):
    return [kind, *(grandchild for child in kind.__subclasses__() for grandchild in family(child))]


def test_every_serving_error_is_decided_in_the_table():
    """Errors that a handler can raise have a row of their own; the others are for people at a terminal."""
    at_a_terminal = {
        errors.BadKeys,
        errors.PortInUse,
        errors.AlreadyServing,
        errors.NotReady,
        errors.CallFailed,
        errors.JobFailed,
        OutOfCoverage,
    }
    decided = {kind for kind, _ in CODES}
    bases = {ServingError, errors._TryLater}
    assert set(family(ServingError)) - bases - decided == at_a_terminal


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(InvalidRequest("a", "b", "c")))
    assert (error.field, str(error)) == ("a", "a b; c")
