"""Answers a search from several live generations; the same for every kind of store.

A store hands over its live generations as `Collection`s; here they are checked, filtered, counted, searched
and merged.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from mercantile import LngLat

from spatial_index.errors import BadSearch, ModelMismatch
from spatial_index.planner import Plan, choose_plan
from spatial_index.records import PatchHit, RegionInfo, Vectors, check_unit_rows
from spatial_index.selection import Candidates, Rim, Selection, select
from spatial_index.store import SearchRequest, SearchResult

MAX_LIMIT = 10_000
MAX_VECTORS = 1_024


class Points(Protocol):
    """The points of one generation, as the search needs them."""

    def size(self) -> int:
        """Exact number of points."""

    def within(self, rim: Rim) -> Iterable[tuple[uuid.UUID, LngLat]]:
        """Points between the rim's discs."""

    def count(self, candidates: Candidates) -> int:
        """Exact number of candidates."""

    def nearest(
        self, vectors: Vectors, limit: int, candidates: Candidates, plan: Plan
    ) -> list[list[PatchHit]]:
        """The best `limit` candidates for each of (Q, D) vectors, by descending score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """One live generation: what it holds and its points."""

    info: RegionInfo
    points: Points


def run_search(request: SearchRequest, collections: Sequence[Collection]) -> SearchResult:
    """Search the collections inside the prior and merge what they find.

    Raises:
        BadSearch: the request cannot be answered as asked.
        ModelMismatch: a collection that was named, or that holds a candidate, has another model.
    """
    _check_ask(request.vectors, request.limit)
    selection = select(request.prior)
    targets = [(collection, *_filtered(collection, selection)) for collection in collections]
    for collection, _, count in targets:
        if count or request.regions:
            _check_model(request, collection.info)
    total = sum(count for _, _, count in targets)
    plan = choose_plan(candidates=total, patches=sum(collection.info.patches for collection in collections))
    found = [
        collection.points.nearest(request.vectors, min(request.limit, count), candidates, plan)
        for collection, candidates, count in targets
        if count
    ]
    hits = [_merge([lists[row] for lists in found], request.limit) for row in range(len(request.vectors))]
    return SearchResult(hits=hits, candidates=total, plan=plan.name, plan_reason=plan.reason)


def run_probe(points: Points, vectors: Vectors, limit: int) -> list[list[PatchHit]]:
    """The nearest points of one generation, unfiltered.

    Raises:
        BadSearch: the limit or the vectors are out of range.
    """
    _check_ask(vectors, limit)
    size = points.size()
    return points.nearest(vectors, limit, Candidates(), choose_plan(candidates=size, patches=size))


def _check_ask(vectors: Vectors, limit: int) -> None:
    """Refuse what the engine would answer with nonsense."""
    if not 1 <= limit <= MAX_LIMIT:
        raise BadSearch("limit", limit, f"1 to {MAX_LIMIT}", "ask for fewer hits")
    shape = np.shape(vectors)
    if len(shape) != 2 or not 1 <= shape[0] <= MAX_VECTORS:
        raise BadSearch("vectors shape", shape, f"(1 to {MAX_VECTORS}, D)", "stack the query vectors as rows")
    fault = check_unit_rows(vectors)
    if fault:
        raise BadSearch("vectors", fault, "finite and of length 1", "send the encoder's output unchanged")


def _filtered(collection: Collection, selection: Selection) -> tuple[Candidates, int]:
    """The exact candidates of a selection in one collection, and their number."""
    excluded = selection.rim.outside(collection.points.within(selection.rim)) if selection.rim else ()
    candidates = Candidates(shapes=selection.shapes, excluded=excluded)
    return candidates, collection.info.patches if candidates.everything else collection.points.count(
        candidates
    )


def _check_model(request: SearchRequest, info: RegionInfo) -> None:
    if request.model_digest != info.model_digest:
        raise ModelMismatch(info.name, info.model_digest, request.model_digest)
    dim = request.vectors.shape[1]
    if dim != info.dim:
        raise BadSearch(
            "vectors shape", request.vectors.shape, f"(Q, {info.dim})", "query with the region's model"
        )


def _merge(lists: Sequence[Sequence[PatchHit]], limit: int) -> list[PatchHit]:
    merged = heapq.merge(*(sorted(hits, key=_rank) for hits in lists), key=_rank)
    return [hit for _, hit in zip(range(limit), merged, strict=False)]


def _rank(hit: PatchHit) -> tuple[float, uuid.UUID]:
    return -hit.score, hit.id  # equal scores in a stable order
