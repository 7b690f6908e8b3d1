"""Localizes images and sequences of them: decodes and resamples here, embeds and searches behind handles.

Only canvases (64 KB each) cross a deployment boundary. Images are never logged and never written.
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

from PIL import Image
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from clnet_model.turning import turned
from serving.admission import Admission
from serving.auth import Scope
from serving.edge import STATUSES, query_from, response_from, timeout_from
from serving.errors import DeadlineExceeded, InvalidRequest, StreamIdle, WrongModel
from serving.gate import Call, Gate, Rpc
from serving.locate import (
    MAX_HYPOTHESES,
    Answer,
    Query,
    Stopwatch,
    conclude,
    decoded,
    look_around,
    searches,
)
from serving.once import Once, RequestKey
from serving.pb import answer_pb2, localization_service_pb2
from serving.replicas import EncoderFacts, Errand
from serving.track import NOTHING_SEEN, Sighting, Track
from serving.track_messages import odometry_from, raw_response, sighting_of, time_s_of, track_message

MAX_FRAMES = 100_000
STREAM_IDLE_S = 60.0
WARM_UP_S = 60.0

LOCALIZE = Rpc(name="Localize", scope=Scope.LOCATE)
LOCALIZE_STREAM = Rpc(name="LocalizeStream", scope=Scope.LOCATE)

T = TypeVar("T")
Localized = localization_service_pb2.LocalizeResponse


class Localizer:
    """Answers `Localize` and `LocalizeStream`."""

    def __init__(
        self,
        encoder: DeploymentHandle[Any],
        index: DeploymentHandle[Any],
        *,
        facts: EncoderFacts,
        gate: Gate,
        timeout_s: float,
        max_inside: int,
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._facts = facts
        self._gate = gate
        self._timeout_s = timeout_s
        self.room = Admission(max_inside)
        self._once: Once[Localized] = Once(finish=False)

    async def warm_up(self) -> None:
        """Localize nothing once; what is wrong with the index shows in the answers."""
        with contextlib.suppress(Exception):
            async with time_limit(WARM_UP_S) as deadline_s:
                await self._locate(blank_image(), Query(), deadline_s)

    async def drain(self, longest_s: float) -> int:
        """Take no more images, and wait for those in work; how many are left after the time."""
        return await self.room.close(longest_s)

    async def localize(self, request: localization_service_pb2.LocalizeRequest, call: Call) -> Localized:
        call.record.request_id = request.request_id[:128] or None
        call.record.image_bytes = len(request.image.data)
        query = query_from(request)
        self._check_model(request)
        timeout_s = timeout_from(request, self._timeout_s)

        async def work() -> Localized:
            answer = await self._answer(request.image.data, query, timeout_s)
            return response_from(answer)

        response = await self._answered_once(request, call, work, timeout_s)
        call.record.status = status_name(response.status)
        return response

    async def _answered_once(
        self,
        request: localization_service_pb2.LocalizeRequest,
        call: Call,
        work: Callable[[], Awaitable[Localized]],
        timeout_s: float,
    ) -> Localized:
        if not request.request_id:
            return await work()
        key = RequestKey(caller=call.caller.name, method=LOCALIZE.name, request_id=request.request_id)
        response = Localized()
        response.CopyFrom(await self._once.within(timeout_s, key, content_of(request), work))
        response.request_id = request.request_id
        return response

    async def _answer(self, data: bytes, query: Query, timeout_s: float) -> Answer:
        """One image within its time, if there is room for it."""
        with self.room.enter():
            self._gate.metrics.in_flight(self.room.inside)
            try:
                async with time_limit(timeout_s) as deadline_s:
                    answer = await self._locate(data, query, deadline_s)
            finally:
                self._gate.metrics.in_flight(self.room.inside - 1)
        self._gate.metrics.answer(answer.status.name, answer.plan, answer.timings_ms)
        return answer

    async def _locate(self, data: bytes, query: Query, deadline_s: float) -> Answer:
        """`serving.locate.locate`, its encoder and index behind handles."""
        facts, watch, span = self._facts, Stopwatch(), self._gate.tracing.span
        with span("decode"):
            image = await asyncio.to_thread(decoded, data, query, spec=facts.canvas)
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
            response = self._encoder.embed_ground.remote(
                views.canvases, facts.digest, self._errand(deadline_s)
            )
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

    async def follow(
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
        time_s, odometry = time_s_of(request), None
        track.check_time(time_s)
        response = localization_service_pb2.LocalizeStreamResponse(capture_time=request.capture_time)
        try:
            odometry = odometry_from(request)
            self._gate.count(call.caller)
            sighting, raw = await self._sight(request.frame)
        except Exception as error:
            response.error.CopyFrom(self._gate.refusal(LOCALIZE_STREAM, error).status())
            sighting = NOTHING_SEEN
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
