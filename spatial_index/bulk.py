"""Answers many searches at once, exactly: regions are read into memory, and whole batches of vectors compared
by one matrix product.

The engine compares one vector after the other; a matrix product compares hundreds with each patch that it
fetches. Everything else is `search.run_search` on points that lie in memory: the same routing, priors and
merging, hence the same answers. Regions that are too large for memory are searched by their store.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from spatial_index.planner import Method
from spatial_index.records import PatchHit, PatchRecord, RegionInfo, Vectors, point_id
from spatial_index.roster import SpotTable, holds
from spatial_index.routing import Router
from spatial_index.search import Collection, run_search
from spatial_index.selection import (
    NOTHING,
    Candidates,
    Condition,
    Selection,
    Spot,
)
from spatial_index.store import SearchRequest, SearchResult, Store

Flags = NDArray[np.bool_]
Scores = NDArray[np.float32]
Rows = NDArray[np.intp]

MOST_VECTOR_BYTES = 2 * 1024**3
MOST_SCORE_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gallery:
    """A generation in memory; N patches."""

    info: RegionInfo
    vectors: Vectors
    """(N, D)"""
    spots: SpotTable
    hits: tuple[PatchHit, ...]
    """Each patch as it is found, but for the score."""
    rows: dict[uuid.UUID, int]

    @classmethod
    def read(cls, store: Store, info: RegionInfo) -> Gallery:
        """The whole of a live generation."""
        records = [record for page in store.read(info.name, info.generation) for record in page]
        hits = tuple(_hit_of(record) for record in records)
        taken = [record.captured_at for record in records]
        return cls(
            info=info,
            vectors=np.stack([record.vector for record in records]),
            spots=SpotTable(
                lngs=np.array([record.location.lng for record in records]),
                lats=np.array([record.location.lat for record in records]),
                taken_s=np.array([moment.timestamp() if moment else np.nan for moment in taken]),
            ),
            hits=hits,
            rows={hit.id: row for row, hit in enumerate(hits)},
        )


class BulkSearch:
    """Searches what is live in a store when this is made, in batches."""

    def __init__(self, store: Store, *, most_vector_bytes: int = MOST_VECTOR_BYTES) -> None:
        self.regions = store.regions()
        self.in_memory = sum(4 * info.dim * info.patches for info in self.regions) <= most_vector_bytes
        """Whether the regions are held; else every search goes to the store."""
        self._store = store
        self._router = Router()
        self._galleries: dict[str, Gallery] = {}

    def search(self, groups: Sequence[Sequence[SearchRequest]]) -> list[list[SearchResult]]:
        """The results of groups of searches; a group asks for the same vectors inside several priors.

        Raises:
            SpatialIndexError: what `Store.search` raises.
        """
        if not self.in_memory:
            return [[self._store.search(request) for request in group] for group in groups]
        return [found for batch in self._batches(groups) for found in self._search_batch(batch)]

    def _batches(self, groups: Sequence[Sequence[SearchRequest]]) -> Iterator[list[Sequence[SearchRequest]]]:
        """As many groups at once as there is room for the scores of."""
        most = MOST_SCORE_BYTES // (4 * max(1, *(info.patches for info in self.regions), 1))
        batch: list[Sequence[SearchRequest]] = []
        vectors = 0
        for group in groups:
            if batch and vectors + len(group[0].vectors) > most:
                yield batch
                batch, vectors = [], 0
            batch.append(group)
            vectors += len(group[0].vectors)
        if batch:
            yield batch

    def _search_batch(self, groups: list[Sequence[SearchRequest]]) -> Iterator[list[SearchResult]]:
        vectors = np.concatenate([group[0].vectors for group in groups])
        scores: dict[str, Scores] = {}
        first = 0
        for group in groups:
            last = first + len(group[0].vectors)
            live = [
                Collection(info=info, open=partial(self._open, info, vectors, scores, slice(first, last)))
                for info in self.regions
            ]
            yield [run_search(request, live, self._router) for request in group]
            first = last

    def _open(self, info: RegionInfo, vectors: Vectors, scores: dict[str, Scores], own: slice) -> HeldPoints:
        """A region's points; `scores` keeps the product of a batch, once a search compares everything."""
        gallery = self._galleries.get(info.name)
        if gallery is None:
            gallery = self._galleries[info.name] = Gallery.read(self._store, info)

        def compare_all() -> Scores:
            if info.name not in scores:
                scores[info.name] = vectors @ gallery.vectors.T  # (ΣQ, N)
            return scores[info.name][own]

        return HeldPoints(gallery, compare_all, known=info.name in scores)


class HeldPoints:
    """The points of a gallery, for one group of searches. See `search.Points`."""

    def __init__(self, gallery: Gallery, compare_all: Callable[[], Scores], *, known: bool) -> None:
        self._gallery = gallery
        self._compare_all = compare_all
        self._known = known
        self._passing: dict[Condition, Flags] = {}

    def size(self) -> int:
        return len(self._gallery.hits)

    def between(self, selection: Selection) -> Iterator[Spot]:
        passes = self._holds(selection.outer)
        if selection.inner != NOTHING:
            passes = passes & ~self._holds(selection.inner)
        for row in np.flatnonzero(passes).tolist():
            hit = self._gallery.hits[row]
            yield Spot(id=hit.id, location=hit.location, captured_at=hit.captured_at)

    def count(self, candidates: Candidates) -> int:
        return len(self._rows(candidates))

    def nearest(
        self, vectors: Vectors, limit: int, candidates: Candidates, _: Method
    ) -> list[list[PatchHit]]:
        if candidates.everything:
            return [self._best(row, None, limit) for row in self._compare_all()]
        rows = self._rows(candidates)
        scores = self._compare_all()[:, rows] if self._known else vectors @ self._gallery.vectors[rows].T
        return [self._best(row, rows, limit) for row in scores]

    def _rows(self, candidates: Candidates) -> Rows:
        passes = self._holds(candidates.condition).copy()
        passes[[self._gallery.rows[point] for point in candidates.excluded]] = False
        return np.flatnonzero(passes)

    def _holds(self, condition: Condition) -> Flags:
        if condition not in self._passing:
            self._passing[condition] = holds(condition, self._gallery.spots)
        return self._passing[condition]

    def _best(self, scores: Scores, rows: Rows | None, limit: int) -> list[PatchHit]:
        best = np.argpartition(-scores, limit - 1)[:limit] if limit < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        hits = self._gallery.hits
        return [
            hits[row]._replace(score=score)
            for row, score in zip(
                (best if rows is None else rows[best]).tolist(), scores[best].tolist(), strict=True
            )
        ]


def _hit_of(record: PatchRecord) -> PatchHit:
    return PatchHit(
        id=point_id(record.region, record.generation, record.quadkey, record.side_m),
        location=record.location,
        quadkey=record.quadkey,
        region=record.region,
        generation=record.generation,
        side_m=record.side_m,
        captured_at=record.captured_at,
        source=record.source,
        score=0.0,
    )
