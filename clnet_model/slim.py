"""Leaves out the channels of a layer that the next one can do without.

Optimal brain surgeon (Hassibi and Stork, NIPS 1992) for one linear map, where it is exact: the channel whose
loss costs least, once the weights of the others are set anew, goes first.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

STEADY = 1e-5  # share of the mean square added to every channel's own: alike ones have no single solution
PIXELS = 20_000  # of a part's maps that are looked at


def as_before(inner: Iterable[Tensor], wanted: Iterable[Tensor], keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """The channels of `inner` (B, C, H, W), part after part, to keep: rows (keep,), and the weights (D, keep)
    and bias (D,) that make of them nearly the maps `wanted` (B, D, H, W), by least squares over pixels.
    """
    square, product = _moments(inner, wanted)
    bias = len(square) - 1
    square += STEADY * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    inverse = torch.linalg.inv(square)
    weights = inverse @ product
    left = torch.ones(len(square), dtype=torch.bool)
    for _ in range(bias - keep):
        costs = weights.square().sum(dim=1) / inverse.diagonal()
        costs[~left] = torch.inf
        costs[bias] = torch.inf
        least = int(costs.argmin())
        along = inverse[:, least : least + 1] / inverse[least, least]
        weights = weights - along @ weights[least : least + 1]
        inverse = inverse - along @ inverse[least : least + 1]
        left[least] = False
    rows = left.nonzero()[:, 0]
    refit = torch.linalg.solve(square[rows][:, rows], product[rows]).float()
    return rows[:-1], refit[:-1].T, refit[-1]


def _moments(inner: Iterable[Tensor], wanted: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums over pixels of the channels' products with each other and with what is wanted: (C + 1, C + 1) and
    (C + 1, D), the last a channel of ones."""
    square = product = torch.zeros(())
    dice = torch.Generator().manual_seed(0)
    for x, y in zip(inner, wanted, strict=True):
        columns, goal = (part.movedim(1, -1).flatten(0, -2) for part in (x, y))
        some = torch.randperm(len(columns), generator=dice)[:PIXELS]
        columns = torch.cat([columns[some], torch.ones(len(some), 1)], dim=1).double()
        square = square + columns.T @ columns
        product = product + columns.T @ goal[some].double()
    return square, product
