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
from mercantile import LngLat
from numpy.typing import NDArray

from spatial_index.planner import Method
from spatial_index.records import PatchHit, RegionInfo, Vectors, point_id
from spatial_index.roster import SpotTable, holds, moment_at
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
Groups = Sequence[Sequence[SearchRequest]]

MOST_VECTOR_BYTES = 2 * 1024**3
MOST_SCORE_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gallery:
    """A generation in memory, by column; N patches."""

    info: RegionInfo
    vectors: Vectors
    """(N, D)"""
    spots: SpotTable
    quadkeys: NDArray[np.str_]
    """(N,)"""
    sources: tuple[str, ...]
    """Each once."""
    source_of: Rows
    """(N,) which of them."""

    @classmethod
    def read(cls, store: Store, info: RegionInfo) -> Gallery:
        """The whole of a live generation."""
        records = [record for page in store.read(info.name, info.generation) for record in page]
        taken = [record.captured_at for record in records]
        sources, source_of = np.unique([record.source for record in records], return_inverse=True)
        return cls(
            info=info,
            vectors=np.stack([record.vector for record in records]),
            spots=SpotTable(
                lngs=np.array([record.location.lng for record in records]),
                lats=np.array([record.location.lat for record in records]),
                taken_s=np.array([moment.timestamp() if moment else np.nan for moment in taken]),
            ),
            quadkeys=np.array([record.quadkey for record in records]),
            sources=tuple(sources.tolist()),
            source_of=source_of,
        )

    def hit(self, row: int) -> PatchHit:
        """A patch as it is found, but for the score."""
        info, quadkey = self.info, str(self.quadkeys[row])
        return PatchHit(
            id=point_id(info.name, info.generation, quadkey, info.side_m),
            location=LngLat(float(self.spots.lngs[row]), float(self.spots.lats[row])),
            quadkey=quadkey,
            region=info.name,
            generation=info.generation,
            side_m=info.side_m,
            captured_at=moment_at(float(self.spots.taken_s[row])),
            source=self.sources[self.source_of[row]],
            score=0.0,
        )


class Patches(dict[int, PatchHit]):
    """The patches of a gallery by row; each is made when it is first wanted."""

    def __init__(self, gallery: Gallery) -> None:
        super().__init__()
        self._gallery = gallery
        self._rows: dict[uuid.UUID, int] = {}

    def __missing__(self, row: int) -> PatchHit:
        hit = self[row] = self._gallery.hit(row)
        self._rows[hit.id] = row
        return hit

    def row_of(self, point: uuid.UUID) -> int:
        """Of a patch that was given out."""
        return self._rows[point]


class StoreSearch:
    """Searches one by one, in the store."""

    portable_bytes = None
    """Stores stay where they were opened."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def search(self, groups: Groups) -> list[list[SearchResult]]:
        """See `BulkSearch.search`."""
        return [[self._store.search(request) for request in group] for group in groups]


def open_bulk_search(store: Store, *, most_vector_bytes: int = MOST_VECTOR_BYTES) -> BulkSearch | StoreSearch:
    """What is live in a store now, read into memory if there is room."""
    regions = store.regions()
    if sum(4 * info.dim * info.patches for info in regions) > most_vector_bytes:
        return StoreSearch(store)
    return BulkSearch([Gallery.read(store, info) for info in regions])


class BulkSearch:
    """Searches galleries in batches. Can be sent to other processes (`pickle`)."""

    def __init__(self, galleries: Sequence[Gallery]) -> None:
        self._galleries = galleries
        self._patches = {gallery.info.name: Patches(gallery) for gallery in galleries}
        self._router = Router()

    def __reduce__(self) -> tuple[type[BulkSearch], tuple[Sequence[Gallery]]]:
        return BulkSearch, (self._galleries,)

    @property
    def portable_bytes(self) -> int:
        """About what another process has to be sent."""
        return sum(gallery.vectors.nbytes + 200 * len(gallery.vectors) for gallery in self._galleries)

    def search(self, groups: Groups) -> list[list[SearchResult]]:
        """The results of groups of searches; a group asks for the same vectors inside several priors.

        Raises:
            SpatialIndexError: what `Store.search` raises.
        """
        return [found for batch in self._batches(groups) for found in self._search_batch(batch)]

    def _batches(self, groups: Groups) -> Iterator[list[Sequence[SearchRequest]]]:
        """As many groups at once as there is room for the scores of."""
        most = MOST_SCORE_BYTES // (4 * max((len(gallery.vectors) for gallery in self._galleries), default=1))
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
                Collection(
                    info=gallery.info, open=partial(self._open, gallery, vectors, scores, slice(first, last))
                )
                for gallery in self._galleries
            ]
            yield [run_search(request, live, self._router) for request in group]
            first = last

    def _open(self, gallery: Gallery, vectors: Vectors, scores: dict[str, Scores], own: slice) -> HeldPoints:
        """A region's points; `scores` keeps the product of a batch, once a search compares everything."""
        name = gallery.info.name

        def compare_all() -> Scores:
            if name not in scores:
                scores[name] = vectors @ gallery.vectors.T  # (ΣQ, N)
            return scores[name][own]

        return HeldPoints(gallery, self._patches[name], compare_all, known=name in scores)


class HeldPoints:
    """The points of a gallery, for one group of searches. See `search.Points`."""

    def __init__(
        self, gallery: Gallery, patches: Patches, compare_all: Callable[[], Scores], *, known: bool
    ) -> None:
        self._gallery = gallery
        self._patches = patches
        self._compare_all = compare_all
        self._known = known
        self._passing: dict[Condition, Flags] = {}

    def size(self) -> int:
        return len(self._gallery.vectors)

    def between(self, selection: Selection) -> Iterator[Spot]:
        passes = self._holds(selection.outer)
        if selection.inner != NOTHING:
            passes = passes & ~self._holds(selection.inner)
        for row in np.flatnonzero(passes).tolist():
            hit = self._patches[row]
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
        passes[[self._patches.row_of(point) for point in candidates.excluded]] = False
        return np.flatnonzero(passes)

    def _holds(self, condition: Condition) -> Flags:
        if condition not in self._passing:
            self._passing[condition] = holds(condition, self._gallery.spots)
        return self._passing[condition]

    def _best(self, scores: Scores, rows: Rows | None, limit: int) -> list[PatchHit]:
        rest = max(0, len(scores) - limit)
        best = np.argpartition(scores, rest)[rest:] if rest else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        return [
            PatchHit(*self._patches[row][:-1], score)
            for row, score in zip(
                (best if rows is None else rows[best]).tolist(), scores[best].tolist(), strict=True
            )
        ]
