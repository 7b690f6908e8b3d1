"""Calls to a service: one channel, tried again where that is safe, refusals as typed errors."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from serving.errors import CallFailed
from serving.refusals import DETAILS_KEY

MAX_RESPONSE_BYTES = 64 * 2**20  # a thousand regions with ragged coverage outgrow the default of 4 MB
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often and how patiently a call is tried again."""

    attempts: int = 4
    first_wait_s: float = 0.2
    """Doubled each time, with up to half of it added by chance; a longer hint of the service is followed."""
    longest_wait_s: float = 10.0

    def wait_s(self, attempt: int, hint_s: float | None) -> float:
        """Pause after the attempt of this number, from 1 on."""
        own_s = self.first_wait_s * 2.0 ** (attempt - 1) * random.uniform(1.0, 1.5)
        return min(self.longest_wait_s, max(own_s, hint_s or 0.0))


class Caller:
    """One channel to one service; safe to use from several threads.

    Args:
        target: host:port.
        api_key: sent with every call.
        tls: None: plain text; a file: the certificate authority to trust; True: those that the system trusts.
        traceparent: gives the W3C `traceparent` of the caller's trace, asked at each call.
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Path | bool | None = None,
        retries: Retries | None = None,
        traceparent: Callable[[], str | None] | None = None,
    ) -> None:
        self._target = target
        self._api_key = api_key
        self._retries = retries or Retries()
        self._traceparent = traceparent
        self._channel = _channel(target, tls)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tried(self, call: Callable[[float], T], timeout_s: float) -> T:
        """The call's result, within the time in all; `call` takes the seconds left."""
        deadline_s = time.monotonic() + timeout_s
        with self._calling():
            for attempt in range(1, self._retries.attempts):
                try:
                    return call(max(0.001, deadline_s - time.monotonic()))
                except grpc.RpcError as error:
                    wait_s = self._retries.wait_s(attempt, retry_hint_s(error))
                    if not is_passing(error) or time.monotonic() + wait_s >= deadline_s:
                        raise
                    time.sleep(wait_s)
            return call(max(0.001, deadline_s - time.monotonic()))

    def _metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        traceparent = self._traceparent() if self._traceparent else None
        key = (("authorization", f"Bearer {self._api_key}"),) if self._api_key else ()
        return key + ((("traceparent", traceparent),) if traceparent else ())

    @contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise CallFailed(self._target, error.code().name, _details_of(error)) from error


def is_passing(error: grpc.RpcError) -> bool:
    """Whether the same call may succeed later.

    An INTERNAL error without our details comes from Serve's proxy, when the process that had the call died.
    """
    if error.code() is grpc.StatusCode.INTERNAL:
        return status_of(error) is None
    return error.code() in RETRIED


def status_of(error: grpc.RpcError) -> status_pb2.Status | None:
    """The google.rpc.Status that a service sent with an error; None when it sent none."""
    metadata: Any = error.trailing_metadata()  # the stubs have forgotten that it is pairs
    details = dict(metadata or ()).get(DETAILS_KEY)
    if not isinstance(details, bytes):
        return None
    with contextlib.suppress(DecodeError):
        return status_pb2.Status.FromString(details)
    return None


def retry_hint_s(error: grpc.RpcError) -> float | None:
    """After how many seconds the service asks to try again; None when it says nothing about it."""
    info = error_details_pb2.RetryInfo()
    status = status_of(error)
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return float(info.retry_delay.ToMilliseconds() / 1000.0)
    return None


def _channel(target: str, tls: Path | bool | None) -> grpc.Channel:
    options = [("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]
    if not tls:
        return grpc.insecure_channel(target, options=options)
    roots = tls.read_bytes() if isinstance(tls, Path) else None
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), options=options)


def _details_of(error: grpc.RpcError) -> str:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if "connect" in (error.details() or "").lower():
            return "nothing listens there; start it with `clnet serve`, or name another with --server"
        case _:
            return error.details() or "no details"
