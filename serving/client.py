"""A typed client of the service, for programs that live beside it; others need the .proto files alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import grpc

from serving.edge import request_from
from serving.errors import CallFailed
from serving.locate import Query
from serving.pb import localization_service_pb2, region_service_pb2
from serving.pb.localization_service_pb2_grpc import LocalizationServiceStub
from serving.pb.region_service_pb2_grpc import RegionServiceStub

MAX_RESPONSE_BYTES = 64 * 2**20  # a thousand regions with ragged coverage outgrow the default of 4 MB


class Client:
    """One channel to one service; safe to use from several threads."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel = grpc.insecure_channel(
            target, options=[("grpc.max_receive_message_length", MAX_RESPONSE_BYTES)]
        )

    def localize(
        self, data: bytes, query: Query, *, timeout_s: float = 60.0
    ) -> localization_service_pb2.LocalizeResponse:
        """Where an encoded image was taken.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        with self._calling():
            return LocalizationServiceStub(self._channel).Localize(
                request_from(data, query), timeout=timeout_s
            )

    def regions(self, *, timeout_s: float = 30.0) -> list[region_service_pb2.Region]:
        """All regions, by name.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        stub = RegionServiceStub(self._channel)
        found: list[region_service_pb2.Region] = []
        request = region_service_pb2.ListRegionsRequest()
        with self._calling():
            while True:
                page = stub.ListRegions(request, timeout=timeout_s)
                found.extend(page.regions)
                if not page.next_page_token:
                    return found
                request.page_token = page.next_page_token

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise CallFailed(self._target, error.code().name, _details_of(error)) from error


def _details_of(error: grpc.RpcError) -> str:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if "connect" in (error.details() or "").lower():
            return "nothing listens there; start it with `clnet serve`, or name another with --server"
        case _:
            return error.details() or "no details"
