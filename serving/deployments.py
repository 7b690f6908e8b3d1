"""The Ray Serve deployments: an ingress that speaks gRPC, an encoder that batches, an index that searches.

    client ── gRPC proxy ── Ingress ──canvases──► EncoderReplica
                               └──────vectors───► IndexReplica

The image is decoded and resampled in the ingress, so that only canvases (64 KB each) cross a deployment
boundary. Images are never logged and never written. Every handler answers errors by the table in
`serving.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from PIL import Image
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle

from clnet_model.calibration import Calibration
from clnet_model.preprocess import CanvasSpec, Pixels, decode_image
from clnet_model.turning import turned
from serving.batching import Batcher
from serving.edge import page_of, query_from, response_from, timeout_from
from serving.errors import (
    DeadlineExceeded,
    Overloaded,
    PeerRefused,
    UnknownService,
    Unready,
    WrongModel,
    refusal_of,
)
from serving.locate import Answer, Index, Query, Stopwatch, Vectors, conclude, look_around, searches
from serving.pb import localization_service_pb2, region_service_pb2
from spatial_index.records import RegionInfo
from spatial_index.store import SearchRequest, SearchResult

if TYPE_CHECKING:
    from clnet_model.encoder import Encoder

logger = logging.getLogger(__name__)

HEALTH_SERVICES = ("", "clnet.geoloc.v1.LocalizationService", "clnet.geoloc.v1.RegionService")

Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderFacts:
    """What the ingress must know of the encoder."""

    digest: str
    canvas: CanvasSpec
    calibration: Calibration
    turns: int


class EncoderReplica:
    """Embeds canvases, batched across requests."""

    def __init__(self, load: Callable[[], Encoder], *, max_batch: int) -> None:
        self._encoder = load()
        spec = self._encoder.canvas
        for count in (1, max_batch):  # warm-up: the first call of each size is several times slower
            self._encoder.embed_ground(np.zeros((count, spec.height_px, spec.width_px, 4), np.uint8))
        self._batcher = Batcher(self._encoder.embed_ground, max_rows=max_batch)

    async def facts(self) -> EncoderFacts:
        """What the ingress must know of the encoder."""
        encoder = self._encoder
        return EncoderFacts(
            digest=encoder.digest,
            canvas=encoder.canvas,
            calibration=encoder.calibration,
            turns=encoder.turns,
        )

    async def embed_ground(self, canvases: Pixels) -> Vectors:
        """(R, H, W, 4) -> (R, D)"""
        return await self._batcher(canvases)


class IndexReplica:
    """Holds the store; an embedded store has one owner, hence one replica."""

    def __init__(self, open_index: Callable[[], Index]) -> None:
        self._index = open_index()
        self._index.regions()

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """The results of the searches of one query."""
        return await asyncio.to_thread(lambda: [self._index.search(request) for request in requests])

    async def regions(self) -> list[RegionInfo]:
        """The live regions."""
        return await asyncio.to_thread(self._index.regions)


class Ingress:
    """Serves the contract; one method per RPC, named as the contract names it."""

    async def __init__(  # type: ignore[misc]  # Serve awaits asynchronous constructors
        self, encoder: DeploymentHandle[Any], index: DeploymentHandle[Any], *, public: bool, timeout_s: float
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._public = public
        self._timeout_s = timeout_s
        self._facts: EncoderFacts = await encoder.facts.remote()
        with contextlib.suppress(Exception):  # warm-up; what is wrong with the index shows in the answers
            await self._locate(blank_image(), Query())

    async def Localize(
        self, request: localization_service_pb2.LocalizeRequest, grpc_context: RayServegRPCContext
    ) -> localization_service_pb2.LocalizeResponse:
        """LocalizationService.Localize"""
        response = localization_service_pb2.LocalizeResponse()
        return await self._guarded(grpc_context, self._localize(request), response)

    async def ListRegions(
        self, request: region_service_pb2.ListRegionsRequest, grpc_context: RayServegRPCContext
    ) -> region_service_pb2.ListRegionsResponse:
        """RegionService.ListRegions"""
        return await self._guarded(
            grpc_context, self._list_regions(request), region_service_pb2.ListRegionsResponse()
        )

    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        """grpc.health.v1.Health.Check: SERVING when encoder and index answer."""
        return await self._guarded(grpc_context, self._check(request), health_pb2.HealthCheckResponse())

    async def List(
        self, request: health_pb2.HealthListRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthListResponse:
        """grpc.health.v1.Health.List"""
        return await self._guarded(grpc_context, self._list_health(), health_pb2.HealthListResponse())

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """grpc.health.v1.Health.Watch is refused, as the health protocol allows; poll Check instead."""
        grpc_context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        grpc_context.set_details("Watch is not offered; poll grpc.health.v1.Health/Check")
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    async def _localize(
        self, request: localization_service_pb2.LocalizeRequest
    ) -> localization_service_pb2.LocalizeResponse:
        query = query_from(request)
        self._check_model(request)
        async with time_limit(timeout_from(request, self._timeout_s)):
            answer = await self._locate(request.image.data, query)
        response = response_from(answer)
        if request.HasField("request_id"):
            response.request_id = request.request_id
        return response

    async def _locate(self, data: bytes, query: Query) -> Answer:
        """`serving.locate.locate`, its encoder and index behind handles."""
        facts, watch = self._facts, Stopwatch()
        image = await asyncio.to_thread(decode_image, data)
        watch.lap("decode")
        views = await asyncio.to_thread(
            look_around,
            image,
            query,
            spec=facts.canvas,
            step_deg=facts.calibration.heading_step_deg,
            turns=facts.turns,
        )
        watch.lap("canvas")
        vectors = turned(await self._encoder.embed_ground.remote(views.canvases), views.turns)  # (R, D)
        watch.lap("encode")
        results = await self._index.search.remote(searches(vectors, query, model_digest=facts.digest))
        watch.lap("search")
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

    async def _list_regions(
        self, request: region_service_pb2.ListRegionsRequest
    ) -> region_service_pb2.ListRegionsResponse:
        return page_of(await self._index.regions.remote(), request)

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

    async def _guarded(self, context: RayServegRPCContext, work: Awaitable[Reply], empty: Reply) -> Reply:
        """The work's reply; after an error, its code and details on the context and an empty reply.

        Raising would lose the trailing metadata and send the traceback to the client.
        """
        try:
            self._check_peer(context.peer())
            return await work
        except Exception as error:
            refusal = refusal_of(translated(error))
            if refusal.code is grpc.StatusCode.INTERNAL:
                logger.error("request failed", exc_info=error)
            context.set_code(refusal.code)
            context.set_details(refusal.message)
            context.set_trailing_metadata(
                refusal.trailing_metadata()  # type: ignore[arg-type]  # -bin keys take bytes
            )
            return empty
        finally:
            if asyncio.iscoroutine(work):
                work.close()  # never started when the peer was refused

    def _check_peer(self, peer: str) -> None:
        """Serve's gRPC proxy always listens on all interfaces; callers from other machines are refused here.

        Raises:
            PeerRefused: the caller's address is not a loopback address.
        """
        if not self._public and not is_loopback(peer):
            raise PeerRefused(peer)


def blank_image() -> bytes:
    """A small grey panorama as JPEG."""
    data = io.BytesIO()
    Image.new("RGB", (512, 256), (128, 128, 128)).save(data, "JPEG")
    return data.getvalue()


def is_loopback(peer: str) -> bool:
    """Whether a gRPC peer (`ipv4:127.0.0.1:5000`, `ipv6:[::1]:5000`, `unix:…`) is on this machine."""
    address = peer.replace("%5B", "[").replace("%5D", "]")
    return address.startswith(("ipv4:127.", "ipv6:[::1]:", "ipv6:[::ffff:127.", "unix:"))


@contextlib.asynccontextmanager
async def time_limit(timeout_s: float) -> AsyncIterator[None]:
    """Cancels what runs inside after `timeout_s`.

    Raises:
        DeadlineExceeded: the time was up.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(timeout_s) from error


def translated(error: Exception) -> Exception:
    """Our own error inside one of Ray's, or what one of Ray's means for a client."""
    match error:
        case RayTaskError():
            return error.cause if isinstance(error.cause, Exception) else error
        case BackPressureError():
            return Overloaded()
        case RayActorError() | DeploymentUnavailableError() | RayServeException():
            return Unready()
        case _:
            return error
