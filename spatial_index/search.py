"""Answers a search from several live generations; the same for every kind of store.

A store hands over its live generations as `Collection`s; here those that the prior touches are checked,
filtered, counted, searched and merged. The others are not even opened.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spatial_index.errors import BadSearch, ModelMismatch, UnknownRegion
from spatial_index.planner import EXACT, Method, Plan, Profile, choose_plan
from spatial_index.priors import Prior, RegionPrior, leaves_of
from spatial_index.records import PatchHit, RegionInfo, Vectors, check_unit_rows
from spatial_index.roster import Roster
from spatial_index.routing import Router, route
from spatial_index.selection import EVERYTHING, NOTHING, Candidates, Selection, Spot, select
from spatial_index.store import SearchRequest, SearchResult
from spatial_index.weights import Places, searched

MAX_LIMIT = 10_000
MAX_VECTORS = 1_024


class Points(Protocol):
    """The points of one generation, as the search needs them."""

    def size(self) -> int:
        """Exact number of points."""

    def between(self, selection: Selection) -> Iterable[Spot]:
        """Points that pass the selection's `outer` and not its `inner`."""

    def count(self, candidates: Candidates) -> int:
        """Exact number of candidates."""

    def nearest(
        self, vectors: Vectors, limit: int, candidates: Candidates, method: Method
    ) -> list[list[PatchHit]]:
        """The best `limit` candidates for each of (Q, D) vectors, by descending score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """One live generation: what it holds, and how to come at its points."""

    info: RegionInfo
    open: Callable[[], Points]
    profile: Profile | None = None
    roster: Callable[[], Roster | None] = lambda: None
    """Its patches, where they are in memory; else the engine checks every point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A collection that the search area touches, with its exact candidates and their number."""

    info: RegionInfo
    points: Points
    candidates: Candidates
    count: int
    plan: Plan


def run_search(request: SearchRequest, live: Sequence[Collection], router: Router) -> SearchResult:
    """Search the live collections inside the prior and merge what they find.

    Raises:
        BadSearch: the request cannot be answered as asked.
        UnknownRegion: a region named in the request or its prior is not among them.
        ModelMismatch: a collection that was named, or that holds a candidate, has another model.
    """
    _check_ask(request.vectors, request.limit)
    asked = _named(request, live)
    for collection in asked if request.regions else ():
        _check_model(request, collection.info)
    in_region = route(select(request.prior), router.footprints([collection.info for collection in live]))
    routed = [(collection, in_region(collection.info)) for collection in asked]
    touched = [
        _target(collection, selection, request)
        for collection, selection in routed
        if selection.outer != NOTHING
    ]
    targets = [target for target in touched if target.count]
    for target in targets:
        _check_model(request, target.info)
    found = [
        target.points.nearest(
            request.vectors, min(request.limit, target.count), target.candidates, target.plan.method
        )
        for target in targets
    ]
    hits = [_merge([lists[row] for lists in found], request.limit) for row in range(len(request.vectors))]
    return SearchResult(
        hits=hits,
        candidates=sum(target.count for target in targets),
        plan="+".join(sorted({target.plan.method.name for target in targets})) or EXACT.name,
        plan_reason="; ".join(f"{target.info.name}: {target.plan.reason}" for target in targets)
        or "the prior touches no patch",
    )


def run_probe(points: Points, vectors: Vectors, limit: int) -> list[list[PatchHit]]:
    """The nearest points of one generation, unfiltered.

    Raises:
        BadSearch: the limit or the vectors are out of range.
    """
    _check_ask(vectors, limit)
    size = points.size()
    return points.nearest(vectors, min(limit, size), Candidates(), EXACT) if size else [[] for _ in vectors]


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


def _named(request: SearchRequest, live: Sequence[Collection]) -> list[Collection]:
    """The collections of the regions asked for, by name; all of them if the request names none."""
    by_name = {collection.info.name: collection for collection in live}
    parts = leaves_of(request.prior) if request.prior is not None else ()
    in_prior = [name for part in parts if isinstance(part, RegionPrior) for name in part.names]
    for name in [*request.regions, *in_prior]:
        if name not in by_name:
            raise UnknownRegion(name, sorted(by_name))
    return [by_name[name] for name in sorted(set(request.regions) or by_name)]


def _target(collection: Collection, selection: Selection, request: SearchRequest) -> Target:
    points = collection.open()
    candidates, count = _candidates(collection, points, selection, request.prior)
    profile = None if request.exact else collection.profile
    plan = choose_plan(candidates=count, patches=collection.info.patches, profile=profile)
    return Target(info=collection.info, points=points, candidates=candidates, count=count, plan=plan)


def _candidates(
    collection: Collection, points: Points, selection: Selection, prior: Prior | None
) -> tuple[Candidates, int]:
    """Exactly the patches in the search area, and how many they are."""
    if prior is None or selection.outer == EVERYTHING:
        return Candidates(), collection.info.patches
    roster, count = collection.roster(), None
    if roster is not None:
        condition, count = roster.resolve(selection, prior)
        if condition is not None:
            return Candidates(condition=condition), count
    excluded: tuple[uuid.UUID, ...] = ()
    if not selection.is_exact:
        excluded = _outside(prior, list(points.between(selection)), collection.info.name)
    candidates = Candidates(condition=selection.outer, excluded=excluded)
    return candidates, points.count(candidates) if count is None else count


def _outside(prior: Prior, spots: Sequence[Spot], region: str) -> tuple[uuid.UUID, ...]:
    """The ids of those that the prior's search area does not hold after all."""
    if not spots:
        return ()
    places = Places(
        lngs=np.array([spot.location.lng for spot in spots]),
        lats=np.array([spot.location.lat for spot in spots]),
        regions=[region] * len(spots),
        captured_at=[spot.captured_at for spot in spots],
    )
    return tuple(spots[row].id for row in np.flatnonzero(~searched(prior, places)).tolist())


def _check_model(request: SearchRequest, info: RegionInfo) -> None:
    if request.model_digest != info.model_digest:
        raise ModelMismatch(info.name, info.model_digest, request.model_digest)
    dim = request.vectors.shape[1]
    if dim != info.dim:
        raise BadSearch(
            "vectors shape", request.vectors.shape, f"(Q, {info.dim})", "query with the region's model"
        )


def _merge(lists: Sequence[Sequence[PatchHit]], limit: int) -> list[PatchHit]:
    if len(lists) == 1:
        return sorted(lists[0], key=_rank)[:limit]
    merged = heapq.merge(*(sorted(hits, key=_rank) for hits in lists), key=_rank)
    return [hit for _, hit in zip(range(limit), merged, strict=False)]


def _rank(hit: PatchHit) -> tuple[float, uuid.UUID]:
    return -hit.score, hit.id  # equal scores in a stable order
