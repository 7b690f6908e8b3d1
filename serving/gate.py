"""What every call passes before and after its work: peer, key, scope, quota; then metrics, audit and error
details.

One object per ingress replica. The handlers behind it hold the work alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)
from ray.serve.grpc_util import RayServegRPCContext

from serving.audit import AuditLog, CallRecord
from serving.auth import ApiKey, Caller, KeyRing, Quotas, Scope, check_scope, presented_key
from serving.errors import Overloaded, PeerRefused, Unready
from serving.metrics import IngressMetrics
from serving.refusals import Refusal, refusal_of
from serving.tracing import Carrier, TraceSettings, Tracing, carrier_in, trace_id_in

logger = logging.getLogger(__name__)

Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rpc:
    """One call of the contract."""

    name: str
    scope: Scope | None
    """None: open to everybody who reaches the service, such as health."""
    region_field: str = "regions"
    """Where its request names regions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings:
    """What an operator decides about calls."""

    public: bool = False
    """False: callers on this machine only."""
    keys: tuple[ApiKey, ...] = ()
    """None: anybody may locate, nobody may administer."""
    audit_log: Path | None = None
    traces: TraceSettings = field(default_factory=TraceSettings)
    replicas: int = 1
    """Most ingress replicas, which share the quotas."""


@dataclass(kw_only=True, slots=True)
class Call:
    """A call in progress."""

    caller: Caller
    record: CallRecord
    carrier: Carrier


class Gate:
    """Lets calls in, and says how they ended."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._ring = KeyRing(settings.keys)
        self._quotas = Quotas(replicas=settings.replicas)
        self._audit = AuditLog(settings.audit_log)
        self.metrics = IngressMetrics()
        self.tracing = Tracing("clnet-ingress", settings.traces)

    async def unary(
        self,
        rpc: Rpc,
        context: RayServegRPCContext,
        work: Callable[[Call], Awaitable[Reply]],
        empty: Reply,
    ) -> Reply:
        """The work's reply; after an error, its code and details on the context and an empty reply.

        Raising would lose the trailing metadata and send the traceback to the client.
        """
        record, began_s = _record_of(rpc, context), time.perf_counter()
        try:
            call = self._admit(rpc, context, record)
            with self.tracing.span(rpc.name, call.carrier):
                return await work(call)
        except Exception as error:
            self._refuse(rpc, context, record, error)
            return empty
        except asyncio.CancelledError:
            record.code = "CANCELLED"
            raise
        finally:
            self._close(rpc, record, began_s)

    async def stream(
        self,
        rpc: Rpc,
        context: RayServegRPCContext,
        work: Callable[[Call], AsyncIterator[Reply]],
        last: Callable[[Refusal], Reply],
    ) -> AsyncIterator[Reply]:
        """The work's replies; after an error, its code and details on the context, and a last reply.

        Serve's own proxy takes code and details from the context that travels with a reply, and from nowhere
        else: without a last one, a refused stream would look like an empty one.
        """
        record, began_s = _record_of(rpc, context), time.perf_counter()
        try:
            call = self._admit(rpc, context, record)
            with self.tracing.span(rpc.name, call.carrier):
                async for reply in work(call):
                    yield reply
        except Exception as error:
            yield last(self._refuse(rpc, context, record, error))
        except asyncio.CancelledError:
            record.code = "CANCELLED"
            raise
        finally:
            self._close(rpc, record, began_s)

    def count(self, caller: Caller) -> None:
        """One more request of a caller, such as a frame of a sequence.

        Raises:
            QuotaExceeded: too many.
        """
        self._quotas.take(caller)

    def refusal(self, rpc: Rpc, error: Exception) -> Refusal:
        """What the client is told about an error; what is our fault is logged, never told."""
        refusal = refusal_of(translated(error), region_field=rpc.region_field)
        if refusal.is_our_fault:
            logger.error("%s failed", rpc.name, exc_info=error)
        return refusal

    def _admit(self, rpc: Rpc, context: RayServegRPCContext, record: CallRecord) -> Call:
        metadata = context.invocation_metadata()
        if not self._settings.public and not is_loopback(context.peer()):
            raise PeerRefused(context.peer())
        carrier = carrier_in(metadata)
        record.trace_id = trace_id_in(carrier)
        if rpc.scope is None:
            return Call(caller=OPEN, record=record, carrier=carrier)
        caller = self._ring.caller(presented_key(metadata))
        record.caller = caller.name
        check_scope(caller, rpc.scope)
        self._quotas.take(caller)
        return Call(caller=caller, record=record, carrier=carrier)

    def _refuse(
        self, rpc: Rpc, context: RayServegRPCContext, record: CallRecord, error: Exception
    ) -> Refusal:
        refusal = self.refusal(rpc, error)
        record.code, record.reason = refusal.code.name, refusal.reason
        context.set_code(refusal.code)
        context.set_details(refusal.message)
        context.set_trailing_metadata(
            refusal.trailing_metadata()  # type: ignore[arg-type]  # -bin keys take bytes
        )
        return refusal

    def _close(self, rpc: Rpc, record: CallRecord, began_s: float) -> None:
        seconds = time.perf_counter() - began_s
        record.duration_ms = 1000.0 * seconds
        self.metrics.call(rpc.name, record.code, record.caller or "unknown", seconds)
        if rpc.scope is not None:
            self._audit.write(record)


OPEN = Caller(name="open", scopes=frozenset())


def translated(error: Exception) -> Exception:
    """Our own error inside one of Ray's, or what one of Ray's means for a client."""
    match error:
        case RayTaskError():
            return translated(error.cause) if isinstance(error.cause, Exception) else error
        case BackPressureError():
            return Overloaded(1.0)
        case (
            RayActorError()
            | DeploymentUnavailableError()
            | RequestCancelledError()
            | TaskCancelledError()
            | RayServeException()
        ):
            return Unready()
        case _:
            return error


def is_loopback(peer: str) -> bool:
    """Whether a gRPC peer (`ipv4:127.0.0.1:5000`, `ipv6:[::1]:5000`, `unix:…`) is on this machine."""
    address = peer.replace("%5B", "[").replace("%5D", "]")
    return address.startswith(("ipv4:127.", "ipv6:[::1]:", "ipv6:[::ffff:127.", "unix:"))


def _record_of(rpc: Rpc, context: RayServegRPCContext) -> CallRecord:
    forwarded = dict(context.invocation_metadata()).get("x-forwarded-for")
    return CallRecord(method=rpc.name, peer=context.peer(), forwarded_for=forwarded)
