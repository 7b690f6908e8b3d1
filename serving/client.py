"""A typed client of the service, for programs that live beside it; others need the .proto files alone.

    with Client("127.0.0.1:50051", api_key="clnet_…") as client:
        answer = client.localize(Path("street.jpg").read_bytes(), Query())

Calls that the service could not take are tried again, by its own hint when. What changes something carries a
request id, so that a second try is never a second change.
"""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from serving.edge import request_from
from serving.errors import CallFailed
from serving.locate import Query
from serving.pb import localization_service_pb2, region_service_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from serving.pb.region_service_pb2_grpc import RegionServiceStub
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


class Client:
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
        self._localization = LocalizationServiceStub(self._channel)
        self._regions = RegionServiceStub(self._channel)

    def localize(
        self, data: bytes, query: Query, *, timeout_s: float = 60.0, request_id: str | None = None
    ) -> localization_service_pb2.LocalizeResponse:
        """Where an encoded image was taken.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = request_from(data, query)
        if request_id is not None:
            request.request_id = request_id

        def call(left_s: float) -> localization_service_pb2.LocalizeResponse:
            request.timeout_s = left_s  # the service cannot see the deadline of the call
            return self._localization.Localize(request, timeout=left_s, metadata=self._metadata())

        return self._tried(call, timeout_s)

    def follow(
        self, frames: Iterable[localization_service_pb2.LocalizeStreamRequest]
    ) -> Iterator[localization_service_pb2.LocalizeStreamResponse]:
        """The answers to a sequence as they come; never tried again, since frames cannot be sent twice.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        with self._calling():
            for answer in self._localization.LocalizeStream(iter(frames), metadata=self._metadata()):
                if answer.HasField("capture_time"):  # the last one before an error has none
                    yield answer

    def coverage(
        self,
        request: localization_service_pb2.GetCoverageRequest | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> localization_service_pb2.GetCoverageResponse:
        """What can be localized where.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        asked = request or localization_service_pb2.GetCoverageRequest()
        return self._tried(
            lambda left_s: self._localization.GetCoverage(asked, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        )

    def regions(self, *, timeout_s: float = 30.0) -> list[region_service_pb2.Region]:
        """All regions, by name.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        found: list[region_service_pb2.Region] = []
        request = region_service_pb2.ListRegionsRequest()
        while True:
            page = self._tried(
                lambda left_s: self._regions.ListRegions(request, timeout=left_s, metadata=self._metadata()),
                timeout_s,
            )
            found.extend(page.regions)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def promote(
        self, region: str, generation: str, *, expected_live: str | None = None, timeout_s: float = 60.0
    ) -> region_service_pb2.Region:
        """Make a complete build live.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = region_service_pb2.PromoteGenerationRequest(
            region=region,
            generation=generation,
            expected_live_generation=expected_live,
            request_id=uuid.uuid4().hex,
        )
        return self._tried(
            lambda left_s: self._regions.PromoteGeneration(
                request, timeout=left_s, metadata=self._metadata()
            ),
            timeout_s,
        ).region

    def roll_back(
        self, region: str, *, expected_live: str | None = None, timeout_s: float = 60.0
    ) -> region_service_pb2.Region:
        """Make the build live that was live before.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = region_service_pb2.RollBackRegionRequest(
            region=region, expected_live_generation=expected_live, request_id=uuid.uuid4().hex
        )
        return self._tried(
            lambda left_s: self._regions.RollBackRegion(request, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        ).region

    def delete_region(
        self, region: str, *, expected_live: str | None = None, timeout_s: float = 60.0
    ) -> None:
        """Delete a region with all its builds.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = region_service_pb2.DeleteRegionRequest(
            region=region, expected_live_generation=expected_live, request_id=uuid.uuid4().hex
        )
        self._tried(
            lambda left_s: self._regions.DeleteRegion(request, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        )

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
