"""A typed client of the service's long jobs.

    with JobClient("127.0.0.1:50051", api_key="clnet_…") as jobs:
        operation = jobs.ingest_region(IngestRegionRequest(region="town", sheets=["town/"]))
        print(jobs.result(operation.name, IngestRegionResponse, watch=print))

The same order is the same job, so that ordering again after a failed call never does the work twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

from google.longrunning import operations_pb2
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from serving.calling import Caller
from serving.errors import JobFailed
from serving.pb import ingestion_service_pb2, job_pb2, relocalization_service_pb2
from serving.pb.ingestion_service_pb2_grpc import IngestionServiceStub
from serving.pb.relocalization_service_pb2_grpc import RelocalizationServiceStub

WATCH_S = 1  # between two looks
LOOK_S = 20.0  # for one look at a job, tries included
ORDER_TIMEOUT_S = 300.0  # an order is checked against its inputs, which are read for their checksums

Result = TypeVar("Result", bound=Message)


class JobClient(Caller):
    """Orders long jobs, watches them, fetches what they made."""

    def ingest_region(
        self, request: ingestion_service_pb2.IngestRegionRequest, *, timeout_s: float = ORDER_TIMEOUT_S
    ) -> operations_pb2.Operation:
        """Order a region to be built.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        return self._tried(
            lambda left_s: self._ingestion.IngestRegion(request, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        )

    def relocalize_fleet(
        self,
        request: relocalization_service_pb2.RelocalizeFleetRequest,
        *,
        timeout_s: float = ORDER_TIMEOUT_S,
    ) -> operations_pb2.Operation:
        """Order the images of a manifest to be localized.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        return self._tried(
            lambda left_s: self._relocalization.RelocalizeFleet(
                request, timeout=left_s, metadata=self._metadata()
            ),
            timeout_s,
        )

    def operations(self, *, timeout_s: float = 30.0) -> Iterator[operations_pb2.Operation]:
        """All jobs, the newest first.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = operations_pb2.ListOperationsRequest()
        while True:
            page = self._tried(
                lambda left_s: self._operations.ListOperations(
                    request, timeout=left_s, metadata=self._metadata()
                ),
                timeout_s,
            )
            yield from page.operations
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def operation(self, name: str, *, timeout_s: float = 30.0) -> operations_pb2.Operation:
        """One job as it stands.

        Raises:
            CallFailed: there is none of that name, the service refused or cannot be reached.
        """
        request = operations_pb2.GetOperationRequest(name=name)
        return self._tried(
            lambda left_s: self._operations.GetOperation(request, timeout=left_s, metadata=self._metadata()),
            timeout_s,
        )

    def result(
        self,
        name: str,
        kind: type[Result],
        *,
        watch: Callable[[job_pb2.JobMetadata], None] = lambda _: None,
    ) -> Result:
        """Wait for a job, however long it takes, and give its result.

        Args:
            kind: IngestRegionResponse or RelocalizeFleetResponse.
            watch: told how the job stands, again and again.

        Raises:
            JobFailed: it failed, or somebody cancelled it.
            CallFailed: the service refused or cannot be reached.
        """
        request = operations_pb2.WaitOperationRequest(name=name, timeout=Duration(seconds=WATCH_S))
        while True:
            operation = self._tried(
                lambda left_s: self._operations.WaitOperation(
                    request, timeout=left_s, metadata=self._metadata()
                ),
                LOOK_S,
            )
            watch(metadata_of(operation))
            if operation.done:
                return _unpacked(operation, kind)

    def cancel(self, name: str, *, timeout_s: float = 30.0) -> None:
        """Ask a job to stop; one that is done stays as it is.

        Raises:
            CallFailed: there is none of that name, the service refused or cannot be reached.
        """
        request = operations_pb2.CancelOperationRequest(name=name)
        self._tried(
            lambda left_s: self._operations.CancelOperation(
                request, timeout=left_s, metadata=self._metadata()
            ),
            timeout_s,
        )

    def images(
        self, name: str, *, page_size: int = 1000, timeout_s: float = 60.0
    ) -> Iterator[relocalization_service_pb2.RelocalizedImage]:
        """The images of a fleet's job that has succeeded, by sequence and time.

        Raises:
            CallFailed: the service refused or cannot be reached.
        """
        request = relocalization_service_pb2.ListRelocalizedImagesRequest(operation=name, page_size=page_size)
        while True:
            page = self._tried(
                lambda left_s: self._relocalization.ListRelocalizedImages(
                    request, timeout=left_s, metadata=self._metadata()
                ),
                timeout_s,
            )
            yield from page.images
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    @cached_property
    def _ingestion(self) -> IngestionServiceStub:
        return IngestionServiceStub(self._channel)

    @cached_property
    def _relocalization(self) -> RelocalizationServiceStub:
        return RelocalizationServiceStub(self._channel)

    @cached_property
    def _operations(self) -> OperationsStub:
        return OperationsStub(self._channel)


def metadata_of(operation: operations_pb2.Operation) -> job_pb2.JobMetadata:
    """How a job stands."""
    metadata = job_pb2.JobMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def _unpacked(operation: operations_pb2.Operation, kind: type[Result]) -> Result:
    if operation.HasField("error"):
        raise JobFailed(operation.name, operation.error.message)
    result = kind()
    if not operation.response.Unpack(result):
        raise JobFailed(operation.name, f"its result is no {kind.DESCRIPTOR.name}")
    return result
