"""The Ray Serve deployments behind the ingress: an encoder that batches and an index that searches.

Work that nobody waits for any more is not begun: cancelled canvases leave the encoder's queue, and a search
whose time is up or whose caller has gone is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from clnet_model.calibration import Calibration
from clnet_model.preprocess import CanvasSpec, Pixels
from serving.batching import Batcher
from serving.errors import DeadlineExceeded, ModelReplaced
from serving.locate import Vectors
from serving.metrics import EncoderMetrics, IndexMetrics
from serving.once import Once, RequestKey
from serving.regions import Change, RegionStore, generations_of, make
from serving.shadow import Shadow
from serving.tracing import Carrier, TraceSettings, Tracing
from spatial_index.records import GenerationInfo, PatchRecord, RegionInfo
from spatial_index.store import SearchRequest, SearchResult

if TYPE_CHECKING:
    from clnet_model.encoder import Encoder

T = TypeVar("T")
WARM_EVERY_S = 30.0
CHANGES = frozenset({"promote", "rollback", "drop_generation", "drop_region"})
"""What a job does to the store that decides what is live."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderFacts:
    """What the ingress must know of the encoder."""

    digest: str
    canvas: CanvasSpec
    calibration: Calibration
    turns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """What goes with a request from one deployment to the next."""

    budget_s: float
    """Time left when it was sent."""
    carrier: Carrier
    """The trace that it belongs to."""


class EncoderReplica:
    """Embeds canvases, batched across requests."""

    def __init__(self, load: Callable[[], Encoder], *, max_batch: int, traces: TraceSettings) -> None:
        self._encoder = load()
        self._metrics = EncoderMetrics()
        self._tracing = Tracing("clnet-encoder", traces)
        spec = self._encoder.canvas
        for count in (1, max_batch):  # warm-up: the first call of each size is several times slower
            self._encoder.embed_ground(np.zeros((count, spec.height_px, spec.width_px, 4), np.uint8))
        self._batcher = Batcher(self._embed, max_rows=max_batch)

    async def facts(self) -> EncoderFacts:
        """What the ingress must know of the encoder."""
        encoder = self._encoder
        return EncoderFacts(
            digest=encoder.digest,
            canvas=encoder.canvas,
            calibration=encoder.calibration,
            turns=encoder.turns,
        )

    async def embed_ground(self, canvases: Pixels, model_digest: str, errand: Errand) -> Vectors:
        """(R, H, W, 4) -> (R, D), by the model that is asked for.

        Raises:
            ModelReplaced: this replica has loaded another one.
            DeadlineExceeded: the time was up before.
        """
        if model_digest != self._encoder.digest:
            raise ModelReplaced(model_digest, self._encoder.digest)
        with self._tracing.span("embed", errand.carrier, canvases=len(canvases)):
            try:
                async with asyncio.timeout(errand.budget_s):
                    return await self._batcher(canvases)
            except TimeoutError as error:
                raise DeadlineExceeded(errand.budget_s) from error

    def _embed(self, canvases: Pixels) -> Vectors:
        self._metrics.batch(len(canvases))
        return self._encoder.embed_ground(canvases)


class IndexReplica:
    """Holds the store; an embedded store has one owner, hence one replica."""

    def __init__(
        self, open_index: Callable[[], RegionStore], *, traces: TraceSettings, shadow_share: float
    ) -> None:
        self._index = open_index()
        self._shadow = Shadow(self._index.search, IndexMetrics().shadow_recall, share=shadow_share)
        self._tracing = Tracing("clnet-index", traces)
        self._changing = asyncio.Lock()
        self._once: Once[RegionInfo | None] = Once(finish=True)
        self._index.regions()
        threading.Thread(target=self._keep_warm, daemon=True).start()

    def _keep_warm(self) -> None:
        """What is promoted later, perhaps by others, is read too; what is wrong shows in the answers."""
        while True:
            with contextlib.suppress(Exception):
                self._index.warm_up()
            time.sleep(WARM_EVERY_S)

    async def search(self, requests: Sequence[SearchRequest], errand: Errand) -> list[SearchResult]:
        """The results of the searches of one query.

        Raises:
            DeadlineExceeded: the time was up before the last of them began.
        """
        deadline_s, gone = time.monotonic() + errand.budget_s, threading.Event()

        def run() -> list[SearchResult]:
            found = []
            for request in requests:
                if gone.is_set() or time.monotonic() > deadline_s:
                    raise DeadlineExceeded(errand.budget_s)
                found.append(self._index.search(request))
            return found

        with self._tracing.span("store.search", errand.carrier, searches=len(requests)):
            try:
                found = await asyncio.to_thread(run)
            except asyncio.CancelledError:
                gone.set()
                raise
        for request, result in zip(requests, found, strict=True):
            self._shadow.consider(request, result)
        return found

    async def regions(self) -> list[RegionInfo]:
        """The live regions."""
        return await asyncio.to_thread(self._index.regions)

    async def region(self, name: str) -> RegionInfo:
        """One live region."""
        return await asyncio.to_thread(self._index.region, name)

    async def generations(self, region: str) -> list[GenerationInfo]:
        """All builds of a region."""
        return await asyncio.to_thread(generations_of, self._index, region)

    async def on_store(self, method: str, *args: object, **named: object) -> object:
        """What a job does to the store that this replica owns; see `serving.job_replica.IndexStore`.

        A job's change never comes between the check and the act of another change.
        """
        do = partial(asyncio.to_thread, getattr(self._index, method), *args, **named)
        return await (self._alone(do) if method in CHANGES else do())

    async def read(self, region: str, generation: str) -> AsyncIterator[list[PatchRecord]]:
        """The pages of a generation, for a job."""
        pages = self._index.read(region, generation)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    async def change(
        self, change: Change, key: RequestKey | None, content: bytes, model_digest: str
    ) -> RegionInfo | None:
        """Make a change, one after the other; a repeated key is answered without making it again."""

        do = partial(asyncio.to_thread, make, change, self._index, model_digest=model_digest)
        if key is None:
            return await self._alone(do)
        return await self._once(key, content, partial(self._alone, do))

    async def _alone(self, do: Callable[[], Awaitable[T]]) -> T:
        """Make one change after the other; what has begun ends, as its thread does, whoever has left."""

        async def work() -> T:
            async with self._changing:
                return await do()

        return await asyncio.shield(asyncio.create_task(work()))
