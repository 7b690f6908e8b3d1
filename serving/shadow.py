"""Shadow searches: a sample of the searches that did not compare every candidate is repeated exactly, to see
on live traffic whether the plan keeps its promise.

They run beside the answers, one at a time; what comes meanwhile is not sampled.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from spatial_index.errors import SpatialIndexError
from spatial_index.profile import HITS, recall
from spatial_index.store import SearchRequest, SearchResult

EXACT = "exact"
LOG = logging.getLogger(__name__)


class Shadow:
    """Repeats searches. `observe` gets the plan and its recall@10."""

    def __init__(
        self,
        search: Callable[[SearchRequest], SearchResult],
        observe: Callable[[str, float], None],
        *,
        share: float,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._search = search
        self._observe = observe
        self._share = share
        self._dice = dice
        self._running: asyncio.Task[None] | None = None

    def consider(self, request: SearchRequest, result: SearchResult) -> None:
        """Repeat the search later, if chance has it."""
        if result.plan == EXACT or self._dice() >= self._share:
            return
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._compare(request, result))

    async def _compare(self, request: SearchRequest, result: SearchResult) -> None:
        try:
            exact = await asyncio.to_thread(self._search, replace(request, exact=True))
        except SpatialIndexError as error:
            LOG.warning("a shadow search failed: %s", error)
            return
        if not generations(result) - generations(exact):  # else a promotion came between
            self._observe(result.plan, recall_at_10(result, exact))


def recall_at_10(result: SearchResult, exact: SearchResult) -> float:
    """Mean over the vectors of a search."""
    pairs = zip(result.hits, exact.hits, strict=True)
    return float(np.mean([recall(found[:HITS], true[:HITS]) for found, true in pairs]))


def generations(result: SearchResult) -> set[tuple[str, str]]:
    """(region, generation) of what was found."""
    return {(hit.region, hit.generation) for hits in result.hits for hit in hits}
