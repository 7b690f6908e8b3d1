"""What is right for each query of a retrieval test, and the checks that it fits the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clnet_model.errors import BadPairs

Vectors = NDArray[np.float32]
Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """What is right for each of Q queries among P gallery rows.

    Raises:
        BadPairs: the arrays do not fit together, or a query has no right row.
    """

    positives: Sequence[Rows]
    """Q arrays of at least one row."""
    semi_positives: Sequence[Rows] | None = None
    """Q arrays of rows that show the query's place too, away from their centre."""
    junk: Rows | None = None
    """Gallery rows that are neither right nor wrong; they are taken out of every ranking."""
    query_lnglat: NDArray[np.float64] | None = None  # (Q, 2), WGS84 degrees
    gallery_lnglat: NDArray[np.float64] | None = None  # (P, 2)

    def __post_init__(self) -> None:
        if not len(self.positives):
            raise BadPairs("no queries; a figure needs at least one")
        empty = [number for number, rows in enumerate(self.positives) if not len(rows)]
        if empty:
            raise BadPairs(
                f"{len(empty):,} queries have no right row, the first is number {empty[0]}; leave them out"
            )
        if self.semi_positives is not None:
            _check_length("semi_positives", len(self.semi_positives), len(self.positives))
        if self.query_lnglat is not None:
            _check_length("query_lnglat", len(self.query_lnglat), len(self.positives))
        if self.junk is not None and np.isin(np.concatenate(self.positives), self.junk).any():
            raise BadPairs("a row is both junk and right; take it out of one of them")

    @property
    def located(self) -> bool:
        """Whether distances can be told."""
        return self.query_lnglat is not None and self.gallery_lnglat is not None

    def places(self) -> Rows:
        """The first right row of each query, (Q,); queries that share it are not independent."""
        return np.array([rows.min() for rows in self.positives], np.intp)


def check_gallery(gallery: Vectors, truth: Truth) -> None:
    """Refuse a gallery, (P, D), that the truth is not about.

    Raises:
        BadPairs: the message names what does not fit.
    """
    if gallery.ndim != 2 or not len(gallery):
        raise BadPairs(f"the gallery is {gallery.shape}, expected (P, D) with at least one row")
    check_vectors("gallery", gallery, gallery.shape[1])
    _check_rows("positives", np.concatenate(truth.positives), len(gallery))
    if truth.semi_positives is not None:
        _check_rows("semi_positives", np.concatenate(truth.semi_positives), len(gallery))
    if truth.junk is not None:
        _check_rows("junk", truth.junk, len(gallery))
    if truth.gallery_lnglat is not None:
        _check_length("gallery_lnglat", len(truth.gallery_lnglat), len(gallery))


def check_vectors(name: str, vectors: Vectors, dim: int) -> None:
    """Refuse vectors that are not (N, dim) or not finite: NaN compares as neither ahead nor behind.

    Raises:
        BadPairs: the message names them.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise BadPairs(f"{name} vectors are {vectors.shape}, expected (N, {dim}); embed both with one model")
    if not np.isfinite(vectors.sum(dtype=np.float64)):  # NaN and infinity survive a sum; no (N, D) mask
        raise BadPairs(f"{name} vectors are not finite; the checkpoint or an image is damaged")


def _check_length(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise BadPairs(f"{name} has {found:,} entries for {expected:,}; give one for each")


def _check_rows(name: str, rows: Rows, gallery: int) -> None:
    if len(rows) and not 0 <= rows.min() <= rows.max() < gallery:
        raise BadPairs(f"{name} name rows {rows.min()} to {rows.max()}, the gallery has 0 to {gallery - 1}")
