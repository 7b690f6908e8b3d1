"""What a client is told about an error: the one table from every room's errors to gRPC codes and details.

The details are google.rpc.Status in the trailing metadata (gRPC's richer error model, AIP-193): ErrorInfo
always, BadRequest where a field is at fault, RetryInfo where trying again helps, QuotaFailure for a spent
quota.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from clnet_model.errors import BadCamera, BadImage, BadLens, ModelError
from serving.errors import (
    DeadlineExceeded,
    InvalidRequest,
    JobsDisabled,
    LiveChanged,
    ModelReplaced,
    NotOffered,
    Overloaded,
    PeerRefused,
    QuotaExceeded,
    RequestIdReused,
    ScopeMissing,
    ServingError,
    StreamIdle,
    Unauthenticated,
    Unfinished,
    UnfinishedGeneration,
    UnknownOperation,
    UnknownService,
    Unready,
    WrongModel,
)
from spatial_index import errors as index_errors

ERROR_DOMAIN = "clnet-geoloc"
DETAILS_KEY = "grpc-status-details-bin"
DEFAULT_RETRY_S = 2.0

# The first row whose class fits decides. INTERNAL and DATA_LOSS mean a bug or damage on our side; the text
# stays with us.
CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (RequestIdReused, grpc.StatusCode.INVALID_ARGUMENT),
    (WrongModel, grpc.StatusCode.FAILED_PRECONDITION),
    (ModelReplaced, grpc.StatusCode.UNAVAILABLE),
    (UnfinishedGeneration, grpc.StatusCode.FAILED_PRECONDITION),
    (LiveChanged, grpc.StatusCode.ABORTED),
    (JobsDisabled, grpc.StatusCode.FAILED_PRECONDITION),
    (UnknownOperation, grpc.StatusCode.NOT_FOUND),
    (Unfinished, grpc.StatusCode.FAILED_PRECONDITION),
    (NotOffered, grpc.StatusCode.UNIMPLEMENTED),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (StreamIdle, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (QuotaExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unready, grpc.StatusCode.UNAVAILABLE),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (ScopeMissing, grpc.StatusCode.PERMISSION_DENIED),
    (UnknownService, grpc.StatusCode.NOT_FOUND),
    (PeerRefused, grpc.StatusCode.PERMISSION_DENIED),
    (BadImage, grpc.StatusCode.INVALID_ARGUMENT),
    (BadCamera, grpc.StatusCode.INVALID_ARGUMENT),
    (index_errors.BadPrior, grpc.StatusCode.INVALID_ARGUMENT),
    (index_errors.BadRegionName, grpc.StatusCode.INVALID_ARGUMENT),
    (index_errors.UnknownRegion, grpc.StatusCode.NOT_FOUND),
    (index_errors.UnknownGeneration, grpc.StatusCode.NOT_FOUND),
    (index_errors.GenerationLive, grpc.StatusCode.FAILED_PRECONDITION),
    (index_errors.NothingToRollBack, grpc.StatusCode.FAILED_PRECONDITION),
    (index_errors.EmptyGeneration, grpc.StatusCode.FAILED_PRECONDITION),
    (index_errors.ModelMismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (index_errors.StoreMissing, grpc.StatusCode.UNAVAILABLE),
    (index_errors.StoreInUse, grpc.StatusCode.UNAVAILABLE),
    (index_errors.StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (index_errors.StoreFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (index_errors.DamagedStore, grpc.StatusCode.DATA_LOSS),
    (index_errors.SpatialIndexError, grpc.StatusCode.INTERNAL),
    (ModelError, grpc.StatusCode.INTERNAL),
    (ServingError, grpc.StatusCode.INTERNAL),
)
# Texts of our own errors that name places inside the service are not for clients.
HIDDEN: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.INTERNAL: "the service failed to answer; the operator's log says why",
    grpc.StatusCode.DATA_LOSS: "a region's index is damaged; the operator's log says where",
    grpc.StatusCode.UNAVAILABLE: str(Unready()),
}

DISK_FULL = "the service has no room left on its disk; tell its operator"
NOT_HIDDEN = (ModelReplaced,)  # says what to do, and names no place

# Where the field that is at fault stands in LocalizeRequest, for errors that do not know it themselves.
FIELDS: tuple[tuple[type[Exception], str], ...] = (
    (BadImage, "image.data"),
    (BadCamera, "image.perspective"),
    (RequestIdReused, "request_id"),
    (index_errors.BadRegionName, "regions"),
    (index_errors.UnknownRegion, "regions"),
    (index_errors.UnknownGeneration, "generation"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    """Name of the error in UPPER_SNAKE_CASE; stable, for programs."""
    field: str | None = None
    retry_after_s: float | None = None
    """When trying again may help; None: it will not."""
    quota_subject: str | None = None

    @property
    def is_our_fault(self) -> bool:
        """Worth a line in the operator's log."""
        return self.code in HIDDEN

    def status(self) -> status_pb2.Status:
        """google.rpc.Status with its details."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.extend(_packed(detail) for detail in self._details())
        return status

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        """The status as gRPC clients expect it."""
        return [(DETAILS_KEY, self.status().SerializeToString())]

    def _details(self) -> list[Message]:
        details: list[Message] = [error_details_pb2.ErrorInfo(reason=self.reason, domain=ERROR_DOMAIN)]
        if self.field is not None:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromMilliseconds(max(1, round(1000.0 * self.retry_after_s)))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.quota_subject is not None:
            quota = error_details_pb2.QuotaFailure.Violation(
                subject=self.quota_subject, description=self.message
            )
            details.append(error_details_pb2.QuotaFailure(violations=[quota]))
        return details


def refusal_of(error: BaseException, *, region_field: str = "regions") -> Refusal:
    """What a client is told about an error: the family's own message, and nothing at all of anything else.

    `region_field` is where the request names regions.
    """
    code = next((code for kind, code in CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    field = _field_of(error)
    return Refusal(
        code=code,
        message=_message_of(error, code),
        reason="INTERNAL" if code is grpc.StatusCode.INTERNAL else _reason_of(error),
        field=region_field if field == "regions" else field,
        retry_after_s=_retry_after(error, code),
        quota_subject=f"key:{error.key}" if isinstance(error, QuotaExceeded) else None,
    )


def _message_of(error: BaseException, code: grpc.StatusCode) -> str:
    if isinstance(error, index_errors.StoreFull):
        return DISK_FULL
    return str(error) if isinstance(error, NOT_HIDDEN) else HIDDEN.get(code, str(error))


def _reason_of(error: BaseException) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).upper()


def _retry_after(error: BaseException, code: grpc.StatusCode) -> float | None:
    match error:
        case Overloaded() | QuotaExceeded() | Unready():
            return error.retry_after_s
        case _:
            return DEFAULT_RETRY_S if code is grpc.StatusCode.UNAVAILABLE else None


def _field_of(error: BaseException) -> str | None:
    match error:
        case InvalidRequest():
            return error.field
        case BadLens():
            return f"image.lens.{error.field}"
        case index_errors.BadPrior():
            return f"position_prior.{error.field}"
        case _:
            return next((field for kind, field in FIELDS if isinstance(error, kind)), None)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
