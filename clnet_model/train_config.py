"""TrainConfig: everything that defines a run, but for where it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from clnet_model.augment import AugmentConfig
from clnet_model.losses import LossConfig
from clnet_model.model import CLNetConfig
from clnet_model.sampling import SamplerConfig
from clnet_model.schedule import BudgetConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run. `precision` auto = bfloat16 where the chip computes it natively, else float32 (float16 on
    a GPU). `recompute` trades a third more time for a fraction of the memory."""

    model: CLNetConfig = field(default_factory=CLNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(max_minutes=10.0))
    peak_learning_rate: float = 8e-4
    weight_decay: float = 0.03
    warmup_share: float = 0.04
    ramp_share: float = 0.3
    clip_norm: float = 2.0
    ema_decay: float = 0.998
    statistics_batches: int = 24
    mine_at: tuple[float, ...] = (0.3, 0.55, 0.8)
    mined_per_query: int = 8
    validate_every_share: float = 0.2
    validation_queries: int = 400
    checkpoint_every_minutes: float = 5.0
    seed: int = 0
    threads: int | None = None
    precision: str = "auto"
    recompute: bool = False
    pretrained: str | None = None
    start_from: str | None = None

    def hardness(self, share: float) -> float:
        """0 at the start of the run, 1 from `ramp_share` of it on: how packed batches and how strong
        augmentation are. A network that has learned before starts at 1."""
        if self.start_from is not None:
            return 1.0
        return min(1.0, share / self.ramp_share) if self.ramp_share > 0 else 1.0

    @property
    def mining_times(self) -> tuple[float, ...]:
        """Shares of the run; a network that has learned before knows look-alikes at once."""
        return self.mine_at if self.start_from is None else (0.0, *self.mine_at[1:])

    def settings(self) -> str:
        """What must not change between the start of a run and its resumption."""
        return json.dumps(asdict(self), sort_keys=True, default=str)
