"""Positions within a radius of each other, without ever building the N x N distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rows_within(
    xy_m: NDArray[np.float64], *, radius_m: float, block: int = 8192
) -> tuple[NDArray[np.intp], ...]:
    """For each of N positions (N, 2) the rows within `radius_m`, its own included, ascending.

    Positions are sorted into square cells a little wider than the radius, so that hits lie in the 3 x 3 cells
    around; memory grows with the candidates of one block and with the hits, not with N².
    """
    cell = np.floor((xy_m - xy_m.min(axis=0)) / (radius_m * 1.001)).astype(np.int64)  # (N, 2)
    stride = int(cell[:, 1].max()) + 3  # an empty cell at both ends keeps the columns apart
    key = (cell[:, 0] + 1) * stride + cell[:, 1] + 1
    order = np.argsort(key, kind="stable")
    found: list[NDArray[np.intp]] = []
    for start in range(0, len(xy_m), block):
        rows = np.arange(start, min(start + block, len(xy_m)))
        owner, candidate = _candidates(key[rows], key[order], stride)
        candidate = order[candidate]
        offset = xy_m[rows[owner]] - xy_m[candidate]
        hit = np.hypot(offset[:, 0], offset[:, 1]) <= radius_m
        found.extend(_split_by_owner(owner[hit], candidate[hit], len(rows)))
    return tuple(found)


def _candidates(
    key: NDArray[np.int64], sorted_key: NDArray[np.int64], stride: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (owner, place in `sorted_key`) of the 3 x 3 cells around every key; three cells of a column are
    one run of keys."""
    middle = key[:, None] + np.array([-stride, 0, stride])  # (B, 3)
    first = np.searchsorted(sorted_key, middle - 1, side="left").ravel()
    count = np.searchsorted(sorted_key, middle + 1, side="right").ravel() - first
    owner = np.repeat(np.arange(len(key)), count.reshape(-1, 3).sum(axis=1))
    into_run = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    return owner, np.repeat(first, count) + into_run


def _split_by_owner(owner: NDArray[np.intp], row: NDArray[np.intp], owners: int) -> list[NDArray[np.intp]]:
    order = np.lexsort((row, owner))
    ends = np.bincount(owner, minlength=owners).cumsum()
    return np.split(row[order], ends[:-1])
