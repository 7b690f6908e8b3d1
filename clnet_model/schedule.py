"""How far a run is, the learning rate that follows from it, and the averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clnet_model.errors import BadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetConfig:
    """A run ends after `max_steps`, or after `max_minutes` of wall clock; exactly one is given."""

    max_steps: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.max_minutes is None):
            raise BadConfig(f"give max_steps or max_minutes, not {self.max_steps} and {self.max_minutes}")


class Clock:
    """Elapsed share of the budget; survives a resume because it carries the seconds already spent."""

    def __init__(self, budget: BudgetConfig, *, spent_s: float = 0.0) -> None:
        self.budget = budget
        self._started = time.monotonic() - spent_s

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._started

    def share(self, step: int, spent_s: float) -> float:
        """0 at the start, 1 when the budget is used up."""
        if self.budget.max_steps is not None:
            return step / self.budget.max_steps
        return spent_s / 60.0 / (self.budget.max_minutes or 1.0)


def learning_rate(share: float, *, peak: float, warmup_share: float, final_share: float = 0.02) -> float:
    """Linear warm-up, then half a cosine down to `final_share` of the peak."""
    if share < warmup_share:
        return peak * max(share / warmup_share, 0.02)
    turn = min(1.0, (share - warmup_share) / (1 - warmup_share))
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * turn)))


class AveragedWeights:
    """Exponential moving average with a horizon of a tenth of the run so far, at most `1 / (1 - decay)`
    steps."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        decay = min(self.decay, 1 - 10 / (step + 20))
        torch._foreach_lerp_(self.weights, [p.detach() for p in parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for parameter, average in zip(model.parameters(), self.weights, strict=True):
            parameter.copy_(average)
