"""Measures what the ways to search a collection cost and find, on the collection itself.

The queries are the collection's own vectors with noise. Street images are less like their patches than
patches are like each other (cosine 0.2 to 0.3), and a graph that finds near vectors may miss far ones: so
half of the queries are as far off, and half are near. The filters are boxes around the query's own place or
around another one, because vectors and places may or may not have to do with each other. What counts is the
least favourable of the four kinds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from mercantile import LngLat
from numpy.typing import NDArray
from shapely.geometry import box

from spatial_index.planner import EXACT, Method, Profile, Trial
from spatial_index.records import PatchHit, Storage, Vectors
from spatial_index.selection import Candidates

SHARES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
COSINES = (0.25, 0.7)
QUERIES = 64
SAMPLE = 2_000
FEW = 8
HITS = 10
SAME_SCORE = 1e-6

OVERSAMPLINGS = (2.0, 4.0)
GRAPH_LISTS = (128, 256, 512, 1024)
ACORN_LISTS = (128, 256, 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planning:
    """When a collection gets a graph."""

    exact_enough_ms: float = 50.0
    """A scan of everything that is as fast needs no other method: embedding the image takes as long."""
    small: int = 20_000
    """So few points are scanned in no time and need no measurement either."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PointSample:
    """Some points of a collection, drawn evenly."""

    vectors: Vectors
    """(N, D)"""
    locations: tuple[LngLat, ...]


class Measurable(Protocol):
    """The points of a generation, as measuring needs them."""

    def size(self) -> int: ...

    def sample(self, count: int) -> PointSample: ...

    def nearest(
        self, vectors: Vectors, limit: int, candidates: Candidates, method: Method
    ) -> list[list[PatchHit]]: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ask:
    """One query of a measurement."""

    vector: Vectors
    """(1, D)"""
    candidates: Candidates
    kind: int
    """Queries of a kind are judged together."""


def profile_of(
    points: Measurable, storage: Storage, planning: Planning, *, with_graph: Callable[[], Measurable]
) -> Profile | None:
    """What the planner will go by; None: scanning is all there is to do.

    A collection that is slow to scan gets a graph first.
    """
    if points.size() < planning.small:
        return None
    scans = scan_methods(storage)
    if scan_ms(points, scans) <= planning.exact_enough_ms:
        return measure(points, scans) if len(scans) > 1 else None
    return measure(with_graph(), graph_methods(storage))


def scan_methods(storage: Storage) -> tuple[Method, ...]:
    """What a collection without a graph can do."""
    if storage != "int8":
        return (EXACT,)
    return (EXACT, *(Method(name="rescored", oversampling=each) for each in OVERSAMPLINGS))


def graph_methods(storage: Storage) -> tuple[Method, ...]:
    """What a collection with a graph can do."""
    oversampling = OVERSAMPLINGS[0] if storage == "int8" else 0.0
    return (
        EXACT,
        *(Method(name="graph", ef=ef, oversampling=oversampling) for ef in GRAPH_LISTS),
        *(Method(name="acorn", ef=ef, oversampling=oversampling) for ef in ACORN_LISTS),
    )


def scan_ms(points: Measurable, methods: Sequence[Method]) -> float:
    """Time of a search among all points by the fastest of the methods, for one vector."""
    sample = points.sample(FEW)
    asks = [Ask(vector=vector[None], candidates=Candidates(), kind=0) for vector in sample.vectors]
    return min(float(np.median([_timed(points, ask, method)[0] for ask in asks])) for method in methods)


def measure(points: Measurable, methods: Sequence[Method]) -> Profile:
    """A collection's profile."""
    sample = points.sample(SAMPLE)
    rng = np.random.default_rng(0)
    trials = (
        trial for share in SHARES for trial in _trials(points, list(asks(sample, share, rng)), methods, share)
    )
    return Profile(trials=tuple(trials))


def asks(sample: PointSample, share: float, rng: np.random.Generator) -> Iterator[Ask]:
    """Queries whose filters pass about `share` of the points."""
    for number in range(QUERIES):
        own, other = rng.integers(len(sample.vectors), size=2)
        near, cosine = number % 2 == 0, COSINES[number // 2 % 2]
        yield Ask(
            vector=noisy(sample.vectors[own], cosine, rng)[None],
            candidates=box_around(sample.locations, own if near else other, share),
            kind=number % 4,
        )


def noisy(vector: Vectors, cosine: float, rng: np.random.Generator) -> Vectors:
    """A random unit vector at a given cosine to a unit vector (D,)."""
    noise = rng.normal(size=len(vector))
    noise -= (noise @ vector) * vector
    mixed = cosine * vector + np.sqrt(1.0 - cosine**2) * noise / np.linalg.norm(noise)
    return np.asarray(mixed / np.linalg.norm(mixed), dtype=np.float32)


def box_around(locations: Sequence[LngLat], centre: int, share: float) -> Candidates:
    """A box around one of the locations that holds about `share` of them."""
    if share >= 1.0:
        return Candidates()
    places: NDArray[np.float64] = np.array(locations, dtype=np.float64)  # (N, 2)
    lng, lat = places[centre]
    squeeze = max(0.01, float(np.cos(np.radians(lat))))
    away = np.abs(places - (lng, lat)) * (squeeze, 1.0)
    reach = float(np.quantile(away.max(axis=1), share))
    west, east = max(-180.0, lng - reach / squeeze), min(180.0, lng + reach / squeeze)
    return Candidates(condition=box(west, max(-90.0, lat - reach), east, min(90.0, lat + reach)))


def _trials(
    points: Measurable, asked: Sequence[Ask], methods: Sequence[Method], share: float
) -> Iterator[Trial]:
    truth = [_timed(points, ask, EXACT) for ask in asked]
    for method in methods:
        found = truth if method == EXACT else [_timed(points, ask, method) for ask in asked]
        recalls = [recall(hits, exact) for (_, hits), (_, exact) in zip(found, truth, strict=True)]
        yield Trial(
            method=method,
            share=share,
            ms=round(float(np.median([ms for ms, _ in found])), 3),
            recall_at_10=round(_worst_kind(recalls, [ask.kind for ask in asked]), 4),
        )


def recall(found: Sequence[PatchHit], exact: Sequence[PatchHit]) -> float:
    """Share of the exact result that is as good as what was found; equal scores may change places."""
    if not exact:
        return 1.0
    least = exact[-1].score - SAME_SCORE
    return sum(hit.score >= least for hit in found) / len(exact)


def _worst_kind(recalls: Sequence[float], kinds: Sequence[int]) -> float:
    each, kind = np.asarray(recalls), np.asarray(kinds)
    return min(float(each[kind == one].mean()) for one in np.unique(kind))


def _timed(points: Measurable, ask: Ask, method: Method) -> tuple[float, list[PatchHit]]:
    started = time.perf_counter()
    (hits,) = points.nearest(ask.vector, HITS, ask.candidates, method)
    return (time.perf_counter() - started) * 1e3, hits
