"""Recall of a benchmark through the spatial index: what the store finds, beside what is exact.

The gallery goes into an embedded store in a temporary folder and every query is searched there as in serving,
without a prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from mercantile import LngLat
from numpy.typing import NDArray
from shapely.geometry import box

from clnet_model.errors import BadConfig
from clnet_model.intervals import Estimate, query_interval
from clnet_model.retrieval import DEPTHS
from clnet_model.truth import Truth, Vectors
from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import SearchRequest, open_store

if TYPE_CHECKING:
    from spatial_index.records import PatchHit
    from spatial_index.store import Store

Progress = Callable[[str, float], None]

NAME = "benchmark"
DIGITS = 20  # a gallery row in base 4 stands in for the quadkey: two images may be of one place
WRITE_ROWS = 2_000
SEARCH_ROWS = 256
LIMIT = max(DEPTHS) + 1  # one more than reported, so that a tie across the end is seen
TIE = 1e-6  # the store compares in float32
MARGIN_DEG = 0.01  # around the gallery, which may be one point


def recall_through_index(
    queries: Vectors, gallery: Vectors, truth: Truth, *, digest: str, progress: Progress
) -> dict[str, Estimate]:
    """R@1, 5 and 10 of (Q, D) queries searched in a store that holds the (P, D) gallery; ties count against.

    R@1% is left out: it would fetch a hundredth of the gallery for each query.

    Raises:
        BadConfig: the positions of the gallery are unknown.
    """
    if truth.gallery_lnglat is None:
        raise BadConfig("--through-index needs gallery positions, which this benchmark lacks; leave it out")
    with TemporaryDirectory() as folder, open_store(directory=Path(folder) / "store", create=True) as store:
        _fill(store, gallery, truth.gallery_lnglat, digest, progress)
        ranks: list[int] = []
        for start in range(0, len(queries), SEARCH_ROWS):
            asked = SearchRequest(
                vectors=queries[start : start + SEARCH_ROWS],
                limit=LIMIT,
                model_digest=digest,
                regions=(NAME,),
            )
            found = store.search(asked).hits
            right = truth.positives[start : start + SEARCH_ROWS]
            ranks += [rank_among(hits, set(rows.tolist())) for hits, rows in zip(found, right, strict=True)]
            progress("through the index", min(1.0, (start + SEARCH_ROWS) / len(queries)))
    places = truth.places()
    return {f"recall_at_{k}": query_interval(np.array(ranks) <= k, places) for k in DEPTHS}


def rank_among(hits: Sequence[PatchHit], right: set[int]) -> int:
    """Rank of the best right row among the hits, ties against it; LIMIT when none is there."""
    rows = [int(hit.quadkey, 4) for hit in hits]
    best = max((hit.score for hit, row in zip(hits, rows, strict=True) if row in right), default=None)
    if best is None:
        return LIMIT
    cut_off = len(hits) == LIMIT and hits[-1].score >= best - TIE
    wrong = sum(hit.score >= best - TIE for hit, row in zip(hits, rows, strict=True) if row not in right)
    return LIMIT if cut_off else wrong + 1


def _fill(
    store: Store, gallery: Vectors, lnglat: NDArray[np.float64], digest: str, progress: Progress
) -> None:
    spec = GenerationSpec(
        region=NAME, generation=NAME, model_digest=digest, dim=gallery.shape[1], zoom=DIGITS, side_m=1.0
    )
    store.create_generation(spec)
    for start in range(0, len(gallery), WRITE_ROWS):
        rows = range(start, min(start + WRITE_ROWS, len(gallery)))
        store.write(NAME, NAME, [_record(row, gallery[row], lnglat[row], spec) for row in rows])
        progress("into the index", rows.stop / len(gallery))
    (west, south), (east, north) = lnglat.min(axis=0).tolist(), lnglat.max(axis=0).tolist()
    world = box(-180, -90, 180, 90)
    area = box(west - MARGIN_DEG, south - MARGIN_DEG, east + MARGIN_DEG, north + MARGIN_DEG)
    store.promote(NAME, NAME, coverage=area.intersection(world))


def _record(row: int, vector: Vectors, lnglat: NDArray[np.float64], spec: GenerationSpec) -> PatchRecord:
    return PatchRecord(
        location=LngLat(lng=float(lnglat[0]), lat=float(lnglat[1])),
        quadkey=np.base_repr(row, 4).zfill(DIGITS),
        region=spec.region,
        generation=spec.generation,
        side_m=spec.side_m,
        captured_at=None,
        source="benchmark",
        valid_fraction=1.0,
        vector=vector,
    )
