"""What several training processes do together: share out a batch, gather it again, agree on a number.

With one process every function here returns its argument. Gradients flow through `gathered` and `summed` as
if one process had done it all, provided that every process adds its own share of the loss and that the
gradients of parameters are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, distributed


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train together, and the device that it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @staticmethod
    def here() -> World:
        """One process, on the GPU where there is one."""
        return World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def first(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def sizes(self, count: int) -> list[int]:
        """How many of `count` rows each process takes; they differ by one at most."""
        return [count // self.size + (rank < count % self.size) for rank in range(self.size)]

    def own(self, count: int) -> slice:
        """The rows among `count` that are this process's."""
        sizes = self.sizes(count)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def gathered(self, own: Tensor, count: int) -> Tensor:
        """All `count` rows, in order, from every process's own; gradients return to whose rows they are."""
        if self.size == 1:
            return own
        return cast(Tensor, _Gather.apply(own, self, count))  # type: ignore[no-untyped-call]

    def agreed(self, number: float) -> float:
        """The first process's number, in all of them."""
        if self.size == 1:
            return number
        told = torch.tensor(number, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        return float(told)

    def total(self, number: float) -> float:
        """The sum of every process's number."""
        if self.size == 1:
            return number
        told = torch.tensor(number, dtype=torch.float64, device=self.device)
        distributed.all_reduce(told)
        return float(told)

    def exchanged(self, own: Any) -> Sequence[Any]:
        """Every process's object, by rank."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, own)
        return found


ALONE = World()


def trained_together() -> bool:
    """Whether this process is one of several."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def summed(own: Tensor) -> Tensor:
    """The sum over all processes; gradients flow to every summand."""
    return cast(Tensor, _Sum.apply(own)) if trained_together() else own  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, world: World, count: int) -> Tensor:
        ctx.rows = world.own(count)
        sizes = world.sizes(count)
        padded = own.new_zeros((max(sizes), *own.shape[1:]))  # all_gather wants equal shapes
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total[ctx.rows], None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total
