"""The Ray Serve deployment that speaks gRPC: one method per RPC, named as the contract names it.

    client ── gRPC proxy ── Ingress ──canvases──► EncoderReplica
                               └──────vectors───► IndexReplica

The image is decoded and resampled here, so that only canvases (64 KB each) cross a deployment boundary.
Images are never logged and never written.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2
from PIL import Image
from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from clnet_model.preprocess import decode_image
from clnet_model.turning import turned
from serving.admission import Admission
from serving.auth import Scope
from serving.coverage import survey
from serving.edge import STATUSES, query_from, region_names, response_from, timeout_from
from serving.errors import DeadlineExceeded, InvalidRequest, StreamIdle, UnknownService, WrongModel
from serving.fuse import Status
from serving.gate import Call, Gate, GateSettings, Rpc
from serving.locate import (
    MAX_HYPOTHESES,
    Answer,
    Query,
    Stopwatch,
    conclude,
    look_around,
    searches,
)
from serving.once import Once, RequestKey
from serving.pb import answer_pb2, localization_service_pb2, region_service_pb2
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
from serving.replicas import EncoderFacts, Errand
from serving.track import Sighting, Track
from serving.track_messages import odometry_from, raw_response, sighting_of, time_s_of, track_message
from spatial_index.records import RegionInfo

SERVICES = ("clnet.geoloc.v1.LocalizationService", "clnet.geoloc.v1.RegionService")
HEALTH_SERVICES = ("", *SERVICES)

MAX_FRAMES = 100_000
STREAM_IDLE_S = 60.0
WARM_UP_S = 60.0

LOCALIZE = Rpc(name="Localize", scope=Scope.LOCATE)
LOCALIZE_STREAM = Rpc(name="LocalizeStream", scope=Scope.LOCATE)
GET_COVERAGE = Rpc(name="GetCoverage", scope=Scope.LOCATE)
LIST_REGIONS = Rpc(name="ListRegions", scope=Scope.LOCATE)
GET_REGION = Rpc(name="GetRegion", scope=Scope.LOCATE, region_field="name")
LIST_GENERATIONS = Rpc(name="ListGenerations", scope=Scope.LOCATE, region_field="region")
PROMOTE = Rpc(name="PromoteGeneration", scope=Scope.ADMIN, region_field="region")
ROLL_BACK = Rpc(name="RollBackRegion", scope=Scope.ADMIN, region_field="region")
DELETE_REGION = Rpc(name="DeleteRegion", scope=Scope.ADMIN, region_field="region")
DELETE_GENERATION = Rpc(name="DeleteGeneration", scope=Scope.ADMIN, region_field="region")
HEALTH = Rpc(name="Health", scope=None)

T = TypeVar("T")
Localized = localization_service_pb2.LocalizeResponse


class Ingress:
    """Serves the contract; every method goes through the gate."""

    async def __init__(  # type: ignore[misc]  # Serve awaits asynchronous constructors
        self,
        encoder: DeploymentHandle[Any],
        index: DeploymentHandle[Any],
        *,
        gate: GateSettings,
        timeout_s: float,
        max_inside: int,
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._timeout_s = timeout_s
        self._gate = Gate(gate)
        self._room = Admission(max_inside)
        self._once: Once[Localized] = Once(finish=False)
        self._facts: EncoderFacts = await encoder.facts.remote()
        with contextlib.suppress(Exception):  # warm-up; what is wrong with the index shows in the answers
            async with time_limit(WARM_UP_S) as deadline_s:
                await self._locate(blank_image(), Query(), deadline_s)

    async def Localize(
        self, request: localization_service_pb2.LocalizeRequest, grpc_context: RayServegRPCContext
    ) -> Localized:
        """LocalizationService.Localize"""
        return await self._gate.unary(
            LOCALIZE, grpc_context, lambda call: self._localize(request, call), Localized()
        )

    async def LocalizeStream(
        self, request_stream: gRPCInputStream[Any], grpc_context: RayServegRPCContext
    ) -> AsyncIterator[localization_service_pb2.LocalizeStreamResponse]:
        """LocalizationService.LocalizeStream"""
        replies = self._gate.stream(
            LOCALIZE_STREAM,
            grpc_context,
            lambda call: self._follow(request_stream, call),
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
        return await self._gate.unary(HEALTH, grpc_context, lambda _: self._check(request), empty)

    async def List(
        self, request: health_pb2.HealthListRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthListResponse:
        """grpc.health.v1.Health.List"""
        empty = health_pb2.HealthListResponse()
        return await self._gate.unary(HEALTH, grpc_context, lambda _: self._list_health(), empty)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """grpc.health.v1.Health.Watch is refused, as the health protocol allows; poll Check instead."""
        grpc_context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        grpc_context.set_details("Watch is not offered; poll grpc.health.v1.Health/Check")
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    async def drain(self, longest_s: float) -> int:
        """Take no more images, and wait for those in work; how many are left after the time. No RPC."""
        return await self._room.close(longest_s)

    async def _localize(self, request: localization_service_pb2.LocalizeRequest, call: Call) -> Localized:
        call.record.request_id = request.request_id[:128] or None
        call.record.image_bytes = len(request.image.data)
        query = query_from(request)
        self._check_model(request)
        timeout_s = timeout_from(request, self._timeout_s)

        async def work() -> Localized:
            answer = await self._answer(request.image.data, query, timeout_s)
            return response_from(answer)

        response = await self._answered_once(request, call, work)
        call.record.status = status_name(response.status)
        return response

    async def _answered_once(
        self,
        request: localization_service_pb2.LocalizeRequest,
        call: Call,
        work: Callable[[], Awaitable[Localized]],
    ) -> Localized:
        if not request.request_id:
            return await work()
        key = RequestKey(caller=call.caller.name, method=LOCALIZE.name, request_id=request.request_id)
        response = Localized()
        response.CopyFrom(await self._once(key, content_of(request), work))
        response.request_id = request.request_id
        return response

    async def _answer(self, data: bytes, query: Query, timeout_s: float) -> Answer:
        """One image within its time, if there is room for it."""
        with self._room.enter():
            self._gate.metrics.in_flight(self._room.inside)
            try:
                async with time_limit(timeout_s) as deadline_s:
                    answer = await self._locate(data, query, deadline_s)
            finally:
                self._gate.metrics.in_flight(self._room.inside - 1)
        self._gate.metrics.answer(answer.status.name, answer.plan, answer.timings_ms)
        return answer

    async def _locate(self, data: bytes, query: Query, deadline_s: float) -> Answer:
        """`serving.locate.locate`, its encoder and index behind handles."""
        facts, watch, span = self._facts, Stopwatch(), self._gate.tracing.span
        with span("decode"):
            image = await asyncio.to_thread(decode_image, data)
        watch.lap("decode")
        with span("canvas"):
            views = await asyncio.to_thread(
                look_around,
                image,
                query,
                spec=facts.canvas,
                step_deg=facts.calibration.heading_step_deg,
                turns=facts.turns,
            )
        watch.lap("canvas")
        with span("encode"):
            response = self._encoder.embed_ground.remote(views.canvases, self._errand(deadline_s))
            vectors = turned(await wanted(response), views.turns)  # (R, D)
        watch.lap("encode")
        with span("search"):
            asked = searches(vectors, query, model_digest=facts.digest)
            results = await wanted(self._index.search.remote(asked, self._errand(deadline_s)))
        watch.lap("search")
        with span("fuse"):
            answer = await asyncio.to_thread(
                conclude,
                results,
                views.headings_deg,
                query,
                calibration=facts.calibration,
                model_digest=facts.digest,
            )
        watch.lap("fuse")
        return replace(answer, timings_ms=watch.timings_ms())

    async def _follow(
        self, frames: AsyncIterator[localization_service_pb2.LocalizeStreamRequest], call: Call
    ) -> AsyncIterator[localization_service_pb2.LocalizeStreamResponse]:
        """The answers to a sequence, each before the next frame is taken from the wire."""
        track, count = Track(), 0
        while (request := await next_frame(frames)) is not None:
            count += 1
            call.record.frames = count
            if count > MAX_FRAMES:
                raise InvalidRequest("frame", f"is number {count}", "begin a new stream")
            yield await self._step(request, track, call)

    async def _step(
        self, request: localization_service_pb2.LocalizeStreamRequest, track: Track, call: Call
    ) -> localization_service_pb2.LocalizeStreamResponse:
        time_s, odometry = time_s_of(request), odometry_from(request)
        track.check_time(time_s)
        response = localization_service_pb2.LocalizeStreamResponse(capture_time=request.capture_time)
        try:
            self._gate.count(call.caller)
            sighting, raw = await self._sight(request.frame)
        except Exception as error:
            response.error.CopyFrom(self._gate.refusal(LOCALIZE_STREAM, error).status())
            sighting = Sighting(status=Status.NO_CONFIDENT_MATCH, positions=(), probabilities=(), sigma_m=1.0)
        else:
            response.raw.CopyFrom(raw)
        estimate = track_message(await asyncio.to_thread(track.advance, time_s, sighting, odometry))
        if estimate is not None:
            response.smoothed.CopyFrom(estimate)
        return response

    async def _sight(self, frame: localization_service_pb2.LocalizeRequest) -> tuple[Sighting, Localized]:
        """What one frame says by itself, for the track and for the client."""
        query = query_from(frame)
        self._check_model(frame)
        whole = replace(query, max_hypotheses=MAX_HYPOTHESES)
        answer = await self._answer(frame.image.data, whole, timeout_from(frame, self._timeout_s))
        raw = raw_response(answer, query.max_hypotheses)
        if frame.HasField("request_id"):
            raw.request_id = frame.request_id
        return sighting_of(answer, query, self._facts.calibration), raw

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

    async def _check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        if request.service not in HEALTH_SERVICES:
            raise UnknownService(request.service[:128])
        await asyncio.gather(self._encoder.facts.remote(), self._index.regions.remote())
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def _list_health(self) -> health_pb2.HealthListResponse:
        state = await self._check(health_pb2.HealthCheckRequest())
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(HEALTH_SERVICES, state))

    def _check_model(self, request: localization_service_pb2.LocalizeRequest) -> None:
        if request.HasField("model_digest") and request.model_digest != self._facts.digest:
            raise WrongModel(request.model_digest, self._facts.digest)

    def _errand(self, deadline_s: float) -> Errand:
        budget_s = max(0.0, deadline_s - time.monotonic())
        return Errand(budget_s=budget_s, carrier=self._gate.tracing.carrier())


async def wanted(response: Awaitable[T]) -> T:
    """The result of a call to another deployment, which is cancelled there when it is not wanted any more."""
    try:
        return await response
    except asyncio.CancelledError:
        if isinstance(response, DeploymentResponse):
            response.cancel()  # type: ignore[no-untyped-call]
        raise


async def next_frame(
    frames: AsyncIterator[localization_service_pb2.LocalizeStreamRequest],
) -> localization_service_pb2.LocalizeStreamRequest | None:
    """The next frame of a sequence; None at its end.

    Raises:
        StreamIdle: it does not come.
    """
    try:
        async with asyncio.timeout(STREAM_IDLE_S):
            return await anext(frames, None)
    except TimeoutError as error:
        raise StreamIdle(STREAM_IDLE_S) from error


def content_of(request: localization_service_pb2.LocalizeRequest) -> bytes:
    """A digest of what a request asks; how much time it gives is not part of that."""
    asked = localization_service_pb2.LocalizeRequest()
    asked.CopyFrom(request)
    asked.ClearField("timeout_s")
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()


def status_name(status: answer_pb2.LocalizationStatus.ValueType) -> str:
    """LOCALIZED, AMBIGUOUS, …"""
    return next(ours.name for ours, theirs in STATUSES.items() if theirs == status)


def blank_image() -> bytes:
    """A small grey panorama as JPEG."""
    data = io.BytesIO()
    Image.new("RGB", (512, 256), (128, 128, 128)).save(data, "JPEG")
    return data.getvalue()


@contextlib.asynccontextmanager
async def time_limit(timeout_s: float) -> AsyncIterator[float]:
    """Cancels what runs inside after `timeout_s`; gives the moment when that will be, of `time.monotonic`.

    Raises:
        DeadlineExceeded: the time was up.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield time.monotonic() + timeout_s
    except TimeoutError as error:
        raise DeadlineExceeded(timeout_s) from error


def _message_of(region: RegionInfo | None) -> region_service_pb2.Region | None:
    return region_message(region) if region is not None else None
