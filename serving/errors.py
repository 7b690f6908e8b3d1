"""Errors of the serving room, and the one table that turns every room's errors into gRPC codes.

ServingError
├── InvalidRequest     a request field that is missing or outside its limit
├── WrongModel         the client expects another model than the one that serves
├── DeadlineExceeded   the request's time budget has passed
├── Overloaded         more requests than the service takes
├── Unready            a part of the service is down or starting
├── UnknownService     health of a service that is not ours
├── PeerRefused        a caller from outside while the service is for this machine alone
├── PortInUse          the port is taken by another program
├── AlreadyServing     this Ray cluster runs the service already
├── NotReady           the service did not come up in time
├── CallFailed         the server answered a client with an error
└── OutOfCoverage      told to a person: nothing is indexed where they look

All arguments are positional and kept in `args`, so that errors survive pickling between processes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from clnet_model.errors import BadCamera, BadCheckpoint, BadImage, ModelError
from spatial_index import errors as index_errors

ERROR_DOMAIN = "clnet-geoloc"
DETAILS_KEY = "grpc-status-details-bin"  # gRPC richer error model: google.rpc.Status in the trailing metadata


class ServingError(Exception):
    """Base of everything this package raises on purpose."""


class InvalidRequest(ServingError):
    """A field of the request that is missing or outside its limit."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field} {self.problem}; {self.remedy}"


class WrongModel(ServingError):
    """The client's vectors or expectations belong to another model."""

    def __init__(self, expected: str, serving: str) -> None:
        super().__init__(expected, serving)
        self.expected = expected
        self.serving = serving

    def __str__(self) -> str:
        return (
            f"the request expects model {self.expected[:64]!r}, this service runs {self.serving!r}; "
            "leave model_digest unset to accept it"
        )


class DeadlineExceeded(ServingError):
    """The request's time budget has passed."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no answer within {self.timeout_s:g} s; give a larger timeout_s or narrow the priors"


class Overloaded(ServingError):
    """More requests wait than the service takes."""

    def __str__(self) -> str:
        return "too many requests are waiting; try again in a second"


class Unready(ServingError):
    """A part of the service is down or starting."""

    def __str__(self) -> str:
        return "a part of the service is not available; try again in a few seconds"


class UnknownService(ServingError):
    """The health of a service that this server does not offer."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"this server offers no service {self.name!r}; server reflection lists what it offers"


class PeerRefused(ServingError):
    """The service answers callers on its own machine alone."""

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self.peer = peer

    def __str__(self) -> str:
        return "this service answers callers on its own machine only; start it with --public to open it"


class PortInUse(ServingError):
    """Another program listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port

    def __str__(self) -> str:
        return f"port {self.port} is in use; choose another with --port, or --port 0 for any free one"


class AlreadyServing(ServingError):
    """One Ray cluster runs one service."""

    def __str__(self) -> str:
        return "this Ray cluster runs a Serve application already; stop it first, or use another cluster"


class NotReady(ServingError):
    """The service did not come up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the service did not become ready: {self.reason}"


class CallFailed(ServingError):
    """What a server told its client."""

    def __init__(self, address: str, code: str, details: str) -> None:
        super().__init__(address, code, details)
        self.address = address
        self.code = code
        self.details = details

    def __str__(self) -> str:
        return f"{self.address} answered {self.code}: {self.details}"


class OutOfCoverage(ServingError):
    """Nothing is indexed where the search looked; over gRPC this is a status of the answer, not an error."""

    def __str__(self) -> str:
        return "no indexed patch lies in the position prior; `clnet regions` lists what is indexed"


# The first row whose class fits decides. INTERNAL means a bug or damage on our side; its text stays with us.
CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (WrongModel, grpc.StatusCode.FAILED_PRECONDITION),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unready, grpc.StatusCode.UNAVAILABLE),
    (UnknownService, grpc.StatusCode.NOT_FOUND),
    (PeerRefused, grpc.StatusCode.PERMISSION_DENIED),
    (BadImage, grpc.StatusCode.INVALID_ARGUMENT),
    (BadCamera, grpc.StatusCode.INVALID_ARGUMENT),
    (BadCheckpoint, grpc.StatusCode.FAILED_PRECONDITION),
    (index_errors.BadPrior, grpc.StatusCode.INVALID_ARGUMENT),
    (index_errors.BadRegionName, grpc.StatusCode.INVALID_ARGUMENT),
    (index_errors.UnknownRegion, grpc.StatusCode.NOT_FOUND),
    (index_errors.UnknownGeneration, grpc.StatusCode.NOT_FOUND),
    (index_errors.ModelMismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (index_errors.StoreMissing, grpc.StatusCode.FAILED_PRECONDITION),
    (index_errors.StoreInUse, grpc.StatusCode.UNAVAILABLE),
    (index_errors.StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (index_errors.SpatialIndexError, grpc.StatusCode.INTERNAL),
    (ModelError, grpc.StatusCode.INTERNAL),
    (ServingError, grpc.StatusCode.INTERNAL),
)
HIDDEN = "the service failed to answer; the operator's log says why"

# Where the field that is at fault stands in LocalizeRequest, for errors that do not know it themselves.
FIELDS: tuple[tuple[type[Exception], str], ...] = (
    (BadImage, "image.data"),
    (BadCamera, "image.perspective"),
    (index_errors.BadRegionName, "regions"),
    (index_errors.UnknownRegion, "regions"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    """Name of the error in UPPER_SNAKE_CASE; stable, for programs."""
    field: str | None = None

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        """google.rpc.Status with ErrorInfo, and BadRequest where the field is known."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.append(_packed(error_details_pb2.ErrorInfo(reason=self.reason, domain=ERROR_DOMAIN)))
        if self.field is not None:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message
            )
            status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
        return [(DETAILS_KEY, status.SerializeToString())]


def refusal_of(error: BaseException) -> Refusal:
    """What a client is told about an error: the family's own message, and nothing at all of anything else."""
    code = next((code for kind, code in CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        return Refusal(code=code, message=HIDDEN, reason="INTERNAL")
    return Refusal(code=code, message=str(error), reason=_reason_of(error), field=_field_of(error))


def _reason_of(error: BaseException) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).upper()


def _field_of(error: BaseException) -> str | None:
    match error:
        case InvalidRequest():
            return error.field
        case index_errors.BadPrior():
            return f"position_prior.{error.field}"
        case _:
            return next((field for kind, field in FIELDS if isinstance(error, kind)), None)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
