"""Exact retrieval figures of Q queries in a gallery of P vectors, block by block: no Q × P matrix is held.

Knows vectors, which rows are right, and positions; knows no images, networks or data sets. What counts:

- A rank is 1 + the number of wrong rows that are as similar or more so. Ties stand against the model: one
  vector for everything gives the last rank.
- R@1% is R@(P // 100), as in Sample4Geo (sample4geo/evaluate/cvusa_and_cvact.py).
- In R@k VIGOR's semi-positives are wrong rows like any other (validate_top in Jeff-Zilence/VIGOR,
  train_overall.py).
- `hit_rate` is what that function and Sample4Geo compute, hence what is published: no row but semi-positives
  stands before the positive. `top1_covers` is what the words of the VIGOR paper say: the first row is the
  positive or a semi-positive. They differ where a semi-positive is first and a wrong row comes before the
  positive.
- AP is the area under the precision-recall curve by trapezoids, junk removed (compute_mAP in
  layumi/University1652-Baseline, evaluate_gpu.py).
- Metres are geodesics on the WGS84 ellipsoid from the query to the first row; among tied first rows the
  farthest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod

from clnet_model.errors import BadPairs
from clnet_model.intervals import Estimate, query_interval
from clnet_model.truth import Rows, Truth, Vectors, check_gallery, check_vectors

MEMORY_BYTES = 512 * 2**20
DEPTHS = (1, 5, 10)
RADII_M = (25, 50, 100)
# A float64 inner product of unit vectors is off by less than D * 2^-53, so equal vectors tie wherever they
# stand in a matrix product. In float32 equal vectors came out up to 2.4e-7 apart (measured, D = 1024).
TIE = 1e-12
MOST_TIED = 100  # with more first rows than this there is no answer, hence no distance
WGS84 = Geod(ellps="WGS84")

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Retrieval:
    """What became of each query; (Q,) arrays. None: the truth does not say."""

    gallery: int
    """Rows that were ranked."""
    places: Rows
    """The first right row of each query; queries that share it are not independent."""
    first_rank: Counts
    """Rank of the best right row, 1 = first."""
    average_precision: Floats
    hit: Bools | None
    top1_covers: Bools | None
    error_m: Floats | None
    """From the query to the first row; infinite without an answer."""

    def metrics(self) -> dict[str, Estimate]:
        """Shares and means between 0 and 1, with 95 % intervals over the queries."""
        values: dict[str, NDArray[Any]] = {f"recall_at_{k}": self.first_rank <= k for k in DEPTHS}
        values["recall_at_1_percent"] = self.first_rank <= max(1, self.gallery // 100)
        values["average_precision"] = self.average_precision
        if self.hit is not None and self.top1_covers is not None:
            values |= {"hit_rate": self.hit, "top1_covers": self.top1_covers}
        if self.error_m is not None:
            values |= {f"recall_{radius}m": self.error_m <= radius for radius in RADII_M}
        return {name: query_interval(each, self.places) for name, each in values.items()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Part:
    """A Retrieval's arrays for some queries."""

    first_rank: Counts
    average_precision: Floats
    hit: Bools
    top1_covers: Bools
    error_m: Floats


def retrieve(
    queries: Vectors | Iterable[Vectors],
    gallery: Vectors,
    truth: Truth,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress | None = None,
) -> Retrieval:
    """Rank the gallery, (P, D), for every query: (Q, D), or blocks of it; all vectors L2-normalised.

    `memory_bytes` is for what is held beside the vectors; it decides the block sizes, never the figures.

    Raises:
        BadPairs: vectors and truth do not fit together, or vectors are not finite.
    """
    check_gallery(gallery, truth)
    count = len(truth.positives)
    query_rows, gallery_rows = block_rows(len(gallery), gallery.shape[1], memory_bytes=memory_bytes)
    parts: list[_Part] = []
    done = 0
    for block in _blocks(queries, query_rows):
        check_vectors("query", block, gallery.shape[1])
        if done + len(block) > count:
            raise BadPairs(f"more query vectors than the {count:,} queries; give one for each")
        parts.append(_rank_block(block, gallery, truth, first=done, gallery_rows=gallery_rows))
        done += len(block)
        if progress is not None:
            progress("ranking", done / count)
    if done < count:
        raise BadPairs(f"{done:,} query vectors for {count:,} queries; give one for each")
    return _joined(parts, truth, len(gallery))


def block_rows(gallery: int, dim: int, *, memory_bytes: int) -> tuple[int, int]:
    """Queries ranked at once and gallery rows multiplied at once, so that both fit."""
    gallery_rows = min(gallery, 8_192, max(1, memory_bytes // 4 // (8 * dim)))
    left = memory_bytes - 8 * dim * gallery_rows
    per_query = 9 * gallery + 8 * dim  # similarities, one comparison of them, the query itself
    return max(1, left // per_query), gallery_rows


def average_precision(wrong: Counts, counts: Rows) -> Floats:
    """Area under each query's precision-recall curve, (Q,), by trapezoids.

    `wrong` (Q, M) holds the number of wrong rows before the query's best, second best, … right row;
    only the first `counts` (Q,) of them exist.
    """
    right = np.arange(wrong.shape[1])
    place = wrong + right  # 0-based, in the whole ranking
    precision = (right + 1) / (place + 1)
    before = np.where(place > 0, right / np.maximum(place, 1), 1.0)
    area: Floats = np.where(right < counts[:, None], (precision + before) / 2, 0.0).sum(axis=1) / counts
    return area


def distances_m(from_lnglat: Floats, to_lnglat: Floats) -> Floats:
    """Geodesic distances (N,) between positions (N, 2) in degrees."""
    start, end = from_lnglat.T.copy(), to_lnglat.T.copy()  # contiguous (2, N)
    _, _, metres = WGS84.inv(start[0], start[1], end[0], end[1])
    return np.asarray(metres, dtype=np.float64)


def _rank_block(queries: Vectors, gallery: Vectors, truth: Truth, *, first: int, gallery_rows: int) -> _Part:
    similarity = _similarity(queries, gallery, gallery_rows)  # (q, P)
    if truth.junk is not None:
        similarity[:, truth.junk] = -np.inf
    rows = slice(first, first + len(queries))
    positives = [np.unique(each) for each in truth.positives[rows]]
    own = _descending(similarity, positives)  # (q, M)
    semi = _descending(similarity, _semi_positives(truth, rows))  # (q, S)
    wrong = _wrong_ahead(similarity, own)  # (q, M)
    cover = np.maximum(own[:, 0], semi.max(axis=1, initial=-np.inf))  # (q,)
    others = _ahead(similarity, cover) - _ahead(own, cover) - _ahead(semi, cover)
    return _Part(
        first_rank=wrong[:, 0] + 1,
        average_precision=average_precision(wrong, np.array([len(each) for each in positives], np.intp)),
        hit=wrong[:, 0] == _ahead(semi, own[:, 0]),
        top1_covers=others == 0,
        error_m=_error_m(similarity, truth, rows),
    )


def _similarity(queries: Vectors, gallery: Vectors, gallery_rows: int) -> Floats:
    """Inner products (q, P) in float64, where those of float32 vectors are as good as exact."""
    found = np.empty((len(queries), len(gallery)))
    wide = queries.astype(np.float64)
    for start in range(0, len(gallery), gallery_rows):
        block = gallery[start : start + gallery_rows].astype(np.float64)
        np.matmul(wide, block.T, out=found[:, start : start + len(block)])
    return found


def _descending(similarity: Floats, rows: Sequence[Rows]) -> Floats:
    """Similarities (q, M) of each query's own rows, best first, -inf where a query has fewer than M."""
    found = np.full((len(rows), max((len(each) for each in rows), default=0)), -np.inf)
    for query, columns in enumerate(rows):
        found[query, : len(columns)] = similarity[query, columns]
    best_first: Floats = -np.sort(-found, axis=1)
    return best_first


def _wrong_ahead(similarity: Floats, own: Floats) -> Counts:
    """Rows that are not right and as good or better than each right row, (q, M)."""
    bars = np.where(np.isneginf(own), np.inf, own)  # nothing reaches a right row that does not exist
    found = [_ahead(similarity, bar) - _ahead(own, bar) for bar in bars.T]
    return np.stack(found, axis=1)


def _ahead(similarity: Floats, bar: Floats) -> Counts:
    """Entries of each row of (q, N) that reach its bar, (q,)."""
    reaching: Counts = np.count_nonzero(similarity >= bar[:, None] - TIE, axis=1).astype(np.int64)
    return reaching


def _semi_positives(truth: Truth, rows: slice) -> Sequence[Rows]:
    if truth.semi_positives is None:
        return [np.empty(0, np.intp)] * len(truth.positives[rows])
    pairs = zip(truth.semi_positives[rows], truth.positives[rows], strict=True)
    return [np.setdiff1d(semi, right) for semi, right in pairs]


def _error_m(similarity: Floats, truth: Truth, rows: slice) -> Floats:
    """Distance to the first row, the farthest of those that tie for it, (q,)."""
    error = np.full(len(similarity), np.inf)
    if truth.query_lnglat is None or truth.gallery_lnglat is None:
        return error
    leading = similarity >= similarity.max(axis=1, keepdims=True) - TIE
    few = np.count_nonzero(leading, axis=1) <= MOST_TIED
    leading[~few] = False
    query, column = np.nonzero(leading)
    error[few] = 0.0
    np.maximum.at(error, query, distances_m(truth.query_lnglat[rows][query], truth.gallery_lnglat[column]))
    return error


def _joined(parts: Sequence[_Part], truth: Truth, gallery: int) -> Retrieval:
    covered = truth.semi_positives is not None
    return Retrieval(
        gallery=gallery - (0 if truth.junk is None else len(np.unique(truth.junk))),
        places=truth.places(),
        first_rank=np.concatenate([part.first_rank for part in parts]),
        average_precision=np.concatenate([part.average_precision for part in parts]),
        hit=np.concatenate([part.hit for part in parts]) if covered else None,
        top1_covers=np.concatenate([part.top1_covers for part in parts]) if covered else None,
        error_m=np.concatenate([part.error_m for part in parts]) if truth.located else None,
    )


def _blocks(queries: Vectors | Iterable[Vectors], rows: int) -> Iterator[Vectors]:
    for block in [queries] if isinstance(queries, np.ndarray) else queries:
        for start in range(0, len(block), rows):
            yield block[start : start + rows]
