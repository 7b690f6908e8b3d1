"""The Ray Serve deployment that speaks gRPC: one method per RPC, named as the contract names it.

    client ── gRPC proxy ── Ingress ──canvases──► EncoderReplica
                               └──────vectors───► IndexReplica

What happens to an image is `serving.localizer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from ray.serve.handle import DeploymentHandle

from serving.auth import Scope
from serving.coverage import survey
from serving.edge import region_names
from serving.gate import Call, Gate, GateSettings, Rpc
from serving.health import HealthCheck
from serving.job_rpcs import JobRpcs
from serving.localizer import LOCALIZE, LOCALIZE_STREAM, Localizer
from serving.once import RequestKey
from serving.pb import localization_service_pb2, region_service_pb2
from serving.region_messages import (
    ChangeRequest,
    area_from,
    change_from,
    coverage_response,
    generation_page_of,
    named,
    page_of,
    region_message,
)
from serving.replicas import EncoderFacts
from spatial_index.records import RegionInfo

GET_COVERAGE = Rpc(name="GetCoverage", scope=Scope.LOCATE)
LIST_REGIONS = Rpc(name="ListRegions", scope=Scope.LOCATE)
GET_REGION = Rpc(name="GetRegion", scope=Scope.LOCATE, region_field="name")
LIST_GENERATIONS = Rpc(name="ListGenerations", scope=Scope.LOCATE, region_field="region")
PROMOTE = Rpc(name="PromoteGeneration", scope=Scope.ADMIN, region_field="region")
ROLL_BACK = Rpc(name="RollBackRegion", scope=Scope.ADMIN, region_field="region")
DELETE_REGION = Rpc(name="DeleteRegion", scope=Scope.ADMIN, region_field="region")
DELETE_GENERATION = Rpc(name="DeleteGeneration", scope=Scope.ADMIN, region_field="region")
HEALTH = Rpc(name="Health", scope=None)


class Ingress(JobRpcs):
    """Serves the contract; every method goes through the gate."""

    async def __init__(  # type: ignore[misc]  # Serve awaits asynchronous constructors
        self,
        encoder: DeploymentHandle[Any],
        index: DeploymentHandle[Any],
        jobs: DeploymentHandle[Any] | None = None,
        *,
        gate: GateSettings,
        timeout_s: float,
        max_inside: int,
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._jobs = jobs
        self._gate = Gate(gate)
        self._facts: EncoderFacts = await encoder.facts.remote()
        self._localizer = Localizer(
            encoder, index, facts=self._facts, gate=self._gate, timeout_s=timeout_s, max_inside=max_inside
        )
        self._health = HealthCheck(encoder, index, self._localizer.room, model_digest=self._facts.digest)
        await self._localizer.warm_up()

    async def Localize(
        self, request: localization_service_pb2.LocalizeRequest, grpc_context: RayServegRPCContext
    ) -> localization_service_pb2.LocalizeResponse:
        """LocalizationService.Localize"""
        return await self._gate.unary(
            LOCALIZE,
            grpc_context,
            lambda call: self._localizer.localize(request, call),
            localization_service_pb2.LocalizeResponse(),
        )

    async def LocalizeStream(
        self, request_stream: gRPCInputStream[Any], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[localization_service_pb2.LocalizeStreamResponse]:
        """LocalizationService.LocalizeStream"""
        replies = self._gate.stream(
            LOCALIZE_STREAM,
            grpc_context,
            lambda call: self._localizer.follow(request_stream, call),
            lambda refusal: localization_service_pb2.LocalizeStreamResponse(error=refusal.status()),
        )
        async for reply in replies:
            yield reply

    async def GetCoverage(
        self, request: localization_service_pb2.GetCoverageRequest, grpc_context: RayServegRPCContext
    ) -> localization_service_pb2.GetCoverageResponse:
        """LocalizationService.GetCoverage"""
        empty = localization_service_pb2.GetCoverageResponse()
        return await self._gate.unary(GET_COVERAGE, grpc_context, lambda _: self._coverage(request), empty)

    async def ListRegions(
        self, request: region_service_pb2.ListRegionsRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.ListRegionsResponse:
        """RegionService.ListRegions"""

        async def work(_: Call) -> region_service_pb2.ListRegionsResponse:
            return page_of(await self._index.regions.remote(), request)

        empty = region_service_pb2.ListRegionsResponse()
        return await self._gate.unary(LIST_REGIONS, grpc_context, work, empty)

    async def GetRegion(
        self, request: region_service_pb2.GetRegionRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.GetRegionResponse:
        """RegionService.GetRegion"""

        async def work(call: Call) -> region_service_pb2.GetRegionResponse:
            call.record.region = named(request, "name")
            region = await self._index.region.remote(request.name)
            return region_service_pb2.GetRegionResponse(region=region_message(region))

        empty = region_service_pb2.GetRegionResponse()
        return await self._gate.unary(GET_REGION, grpc_context, work, empty)

    async def ListGenerations(
        self, request: region_service_pb2.ListGenerationsRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.ListGenerationsResponse:
        """RegionService.ListGenerations"""

        async def work(call: Call) -> region_service_pb2.ListGenerationsResponse:
            call.record.region = named(request, "region")
            return generation_page_of(await self._index.generations.remote(request.region), request)

        empty = region_service_pb2.ListGenerationsResponse()
        return await self._gate.unary(LIST_GENERATIONS, grpc_context, work, empty)

    async def PromoteGeneration(
        self, request: region_service_pb2.PromoteGenerationRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.PromoteGenerationResponse:
        """RegionService.PromoteGeneration"""

        async def work(call: Call) -> region_service_pb2.PromoteGenerationResponse:
            region = await self._change(PROMOTE, request, call)
            return region_service_pb2.PromoteGenerationResponse(region=_message_of(region))

        empty = region_service_pb2.PromoteGenerationResponse()
        return await self._gate.unary(PROMOTE, grpc_context, work, empty)

    async def RollBackRegion(
        self, request: region_service_pb2.RollBackRegionRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.RollBackRegionResponse:
        """RegionService.RollBackRegion"""

        async def work(call: Call) -> region_service_pb2.RollBackRegionResponse:
            region = await self._change(ROLL_BACK, request, call)
            return region_service_pb2.RollBackRegionResponse(region=_message_of(region))

        empty = region_service_pb2.RollBackRegionResponse()
        return await self._gate.unary(ROLL_BACK, grpc_context, work, empty)

    async def DeleteRegion(
        self, request: region_service_pb2.DeleteRegionRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.DeleteRegionResponse:
        """RegionService.DeleteRegion"""

        async def work(call: Call) -> region_service_pb2.DeleteRegionResponse:
            await self._change(DELETE_REGION, request, call)
            return region_service_pb2.DeleteRegionResponse()

        empty = region_service_pb2.DeleteRegionResponse()
        return await self._gate.unary(DELETE_REGION, grpc_context, work, empty)

    async def DeleteGeneration(
        self, request: region_service_pb2.DeleteGenerationRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.DeleteGenerationResponse:
        """RegionService.DeleteGeneration"""

        async def work(call: Call) -> region_service_pb2.DeleteGenerationResponse:
            await self._change(DELETE_GENERATION, request, call)
            return region_service_pb2.DeleteGenerationResponse()

        empty = region_service_pb2.DeleteGenerationResponse()
        return await self._gate.unary(DELETE_GENERATION, grpc_context, work, empty)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        """grpc.health.v1.Health.Check: SERVING when encoder and index answer."""
        empty = health_pb2.HealthCheckResponse()
        return await self._gate.unary(
            HEALTH, grpc_context, lambda _: self._health.check(request.service), empty
        )

    async def List(
        self, request: health_pb2.HealthListRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthListResponse:
        """grpc.health.v1.Health.List"""
        empty = health_pb2.HealthListResponse()
        return await self._gate.unary(HEALTH, grpc_context, lambda _: self._health.list(), empty)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """grpc.health.v1.Health.Watch"""
        replies = self._gate.stream(
            HEALTH,
            grpc_context,
            lambda _: self._health.watch(request.service),
            lambda _: health_pb2.HealthCheckResponse(),
        )
        async for reply in replies:
            yield reply

    async def drain(self, longest_s: float) -> int:
        """Take no more images, and wait for those in work; how many are left after the time. No RPC."""
        return await self._localizer.drain(longest_s)

    async def _coverage(
        self, request: localization_service_pb2.GetCoverageRequest
    ) -> localization_service_pb2.GetCoverageResponse:
        area, names = await asyncio.to_thread(area_from, request), region_names(request.regions)
        regions = await self._index.regions.remote()
        digest = self._facts.digest
        coverage = await asyncio.to_thread(survey, regions, area=area, names=names, model_digest=digest)
        return coverage_response(coverage, calibration=self._facts.calibration, model_digest=digest)

    async def _change(self, rpc: Rpc, request: ChangeRequest, call: Call) -> RegionInfo | None:
        change = change_from(request)
        call.record.request_id = request.request_id or None
        call.record.region = change.region
        call.record.generation = getattr(change, "generation", None)
        key = RequestKey(caller=call.caller.name, method=rpc.name, request_id=request.request_id)
        content = request.SerializeToString(deterministic=True)
        changed: RegionInfo | None = await self._index.change.remote(
            change, key if request.request_id else None, content, self._facts.digest
        )
        return changed


def _message_of(region: RegionInfo | None) -> region_service_pb2.Region | None:
    return region_message(region) if region is not None else None
