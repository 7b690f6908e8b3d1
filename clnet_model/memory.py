"""The last steps' descriptors of both views as further negatives: a thousand of them for one product.

They are without gradients and a few steps old, which a slowly moving network forgives (cross-batch memory,
Wang et al., CVPR 2020). Each is remembered with its place, so that a neighbour from an earlier step is no
negative.
"""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Descriptors (N, D) of one view, the world that each stands in (N,), and where (N, 2), metres.

    Positions are comparable within one world alone: a city at one turn and mirroring.
    """

    vectors: Tensor
    world: Tensor  # int64
    xy_m: Tensor  # float64

    def detached(self) -> Placed:
        return Placed(vectors=self.vectors.detach(), world=self.world, xy_m=self.xy_m)


def joined(parts: list[Placed]) -> Placed:
    """All of them, in order."""
    return Placed(
        vectors=torch.cat([part.vectors for part in parts]),
        world=torch.cat([part.world for part in parts]),
        xy_m=torch.cat([part.xy_m for part in parts]),
    )


def distances_between(rows: Placed, columns: Placed) -> Tensor:
    """Metres (R, C) float32; infinite between worlds."""
    apart = torch.cdist(rows.xy_m, columns.xy_m).float()
    return apart.masked_fill(rows.world[:, None] != columns.world[None], torch.inf)


class Memory:
    """Street and aerial descriptors of the last `steps` steps."""

    def __init__(self, steps: int) -> None:
        self._held: deque[tuple[Placed, Placed]] = deque(maxlen=steps)

    def add(self, ground: Placed, aerial: Placed) -> None:
        """Remember one step; the oldest is forgotten."""
        self._held.append((ground.detached(), aerial.detached()))

    def before(self, ground: Placed, aerial: Placed) -> tuple[Placed, Placed]:
        """The step's own descriptors first, then what is remembered."""
        return (
            joined([ground, *(held[0] for held in self._held)]),
            joined([aerial, *(held[1] for held in self._held)]),
        )

    def state(self) -> list[Any]:
        """What `restore` needs, as plain tensors."""
        return [[astuple(placed) for placed in held] for held in self._held]

    def restore(self, state: list[Any]) -> None:
        """Continue where `state()` was taken."""
        self._held.clear()
        for ground, aerial in state:
            self._held.append((_placed(ground), _placed(aerial)))


def _placed(values: tuple[Tensor, Tensor, Tensor]) -> Placed:
    vectors, world, xy_m = values
    return Placed(vectors=vectors, world=world, xy_m=xy_m)
