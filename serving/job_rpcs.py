"""The RPCs of long jobs: ordering them, google.longrunning.Operations, and fetching a fleet's result."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle

from serving.auth import Scope
from serving.errors import JobsDisabled, NotOffered
from serving.gate import Call, Gate, Rpc
from serving.operation_messages import (
    first_row_from,
    fleet_order_from,
    image_page_message,
    ingest_order_from,
    operation_id_from,
    operation_message,
    operation_page_of,
    page_size_from,
)
from serving.operations import Operation
from serving.pb import ingestion_service_pb2, relocalization_service_pb2

INGEST_REGION = Rpc(name="IngestRegion", scope=Scope.INGEST, region_field="region")
RELOCALIZE_FLEET = Rpc(name="RelocalizeFleet", scope=Scope.INGEST)
LIST_IMAGES = Rpc(name="ListRelocalizedImages", scope=Scope.INGEST)
GET_OPERATION = Rpc(name="GetOperation", scope=Scope.INGEST)
LIST_OPERATIONS = Rpc(name="ListOperations", scope=Scope.INGEST)
CANCEL_OPERATION = Rpc(name="CancelOperation", scope=Scope.INGEST)
DELETE_OPERATION = Rpc(name="DeleteOperation", scope=Scope.INGEST)
WAIT_OPERATION = Rpc(name="WaitOperation", scope=Scope.INGEST)

MAX_WAIT_S = 30.0
LOOK_EVERY_S = 0.5


class JobRpcs:
    """Methods that the ingress has beside its own, named as the contract names them."""

    _gate: Gate
    _jobs: DeploymentHandle[Any] | None

    async def IngestRegion(
        self, request: ingestion_service_pb2.IngestRegionRequest, grpc_context: RayServegRPCContext
    ) -> operations_pb2.Operation:
        """IngestionService.IngestRegion"""

        async def work(call: Call) -> operations_pb2.Operation:
            order = ingest_order_from(request)
            call.record.region = order.region
            return operation_message(await self._operations().submit.remote(order))

        return await self._gate.unary(INGEST_REGION, grpc_context, work, operations_pb2.Operation())

    async def RelocalizeFleet(
        self, request: relocalization_service_pb2.RelocalizeFleetRequest, grpc_context: RayServegRPCContext
    ) -> operations_pb2.Operation:
        """RelocalizationService.RelocalizeFleet"""

        async def work(_: Call) -> operations_pb2.Operation:
            order = fleet_order_from(request)
            return operation_message(await self._operations().submit.remote(order))

        return await self._gate.unary(RELOCALIZE_FLEET, grpc_context, work, operations_pb2.Operation())

    async def ListRelocalizedImages(
        self,
        request: relocalization_service_pb2.ListRelocalizedImagesRequest,
        grpc_context: RayServegRPCContext,
    ) -> relocalization_service_pb2.ListRelocalizedImagesResponse:
        """RelocalizationService.ListRelocalizedImages"""

        async def work(_: Call) -> relocalization_service_pb2.ListRelocalizedImagesResponse:
            operation_id = operation_id_from(request.operation, "operation")
            first = first_row_from(request.page_token)
            size = page_size_from(request.page_size if request.HasField("page_size") else None)
            page = await self._operations().images.remote(operation_id, first, size)
            return image_page_message(page, first)

        empty = relocalization_service_pb2.ListRelocalizedImagesResponse()
        return await self._gate.unary(LIST_IMAGES, grpc_context, work, empty)

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, grpc_context: RayServegRPCContext
    ) -> operations_pb2.Operation:
        """google.longrunning.Operations.GetOperation"""

        async def work(_: Call) -> operations_pb2.Operation:
            return operation_message(await self._operation(request.name))

        return await self._gate.unary(GET_OPERATION, grpc_context, work, operations_pb2.Operation())

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, grpc_context: RayServegRPCContext
    ) -> operations_pb2.Operation:
        """google.longrunning.Operations.WaitOperation: answers when it is done, or as it stands after the
        time."""

        async def work(_: Call) -> operations_pb2.Operation:
            deadline_s = time.monotonic() + wait_s_of(request)
            while True:
                operation = await self._operation(request.name)
                left_s = deadline_s - time.monotonic()
                if operation.state.done or left_s <= 0.0:
                    return operation_message(operation)
                await asyncio.sleep(min(LOOK_EVERY_S, left_s))

        return await self._gate.unary(WAIT_OPERATION, grpc_context, work, operations_pb2.Operation())

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, grpc_context: RayServegRPCContext
    ) -> operations_pb2.ListOperationsResponse:
        """google.longrunning.Operations.ListOperations"""

        async def work(_: Call) -> operations_pb2.ListOperationsResponse:
            return operation_page_of(await self._operations().list.remote(), request)

        empty = operations_pb2.ListOperationsResponse()
        return await self._gate.unary(LIST_OPERATIONS, grpc_context, work, empty)

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, grpc_context: RayServegRPCContext
    ) -> Empty:
        """google.longrunning.Operations.CancelOperation"""

        async def work(_: Call) -> Empty:
            await self._operations().cancel.remote(operation_id_from(request.name))
            return Empty()

        return await self._gate.unary(CANCEL_OPERATION, grpc_context, work, Empty())

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, grpc_context: RayServegRPCContext
    ) -> Empty:
        """google.longrunning.Operations.DeleteOperation is refused: a job's folder holds what an earlier
        embedding cost."""

        async def work(_: Call) -> Empty:
            raise NotOffered("DeleteOperation", "jobs are kept, with what was embedded; delete their folders")

        return await self._gate.unary(DELETE_OPERATION, grpc_context, work, Empty())

    async def _operation(self, name: str) -> Operation:
        operation: Operation = await self._operations().get.remote(operation_id_from(name))
        return operation

    def _operations(self) -> DeploymentHandle[Any]:
        if self._jobs is None:
            raise JobsDisabled
        return self._jobs


def wait_s_of(request: operations_pb2.WaitOperationRequest) -> float:
    """How long a call may wait; at most MAX_WAIT_S, whatever it asks for."""
    if not request.HasField("timeout"):
        return MAX_WAIT_S
    asked_s = float(request.timeout.seconds + request.timeout.nanos / 1e9)
    return min(max(0.0, asked_s), MAX_WAIT_S)
