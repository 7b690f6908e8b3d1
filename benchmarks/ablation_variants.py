"""Which parts of CLNet a run has, how it is asked, and what comes out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from clnet_model.evaluate import NORTH_KNOWN, PHOTO_90, UNKNOWN_HEADING
from clnet_model.losses import LossConfig
from clnet_model.model import CLNet, CLNetConfig
from clnet_model.precision import mixed
from clnet_model.schedule import BudgetConfig
from clnet_model.train_config import TrainConfig

PEAK_LEARNING_RATE = 1.5e-3
COST_BATCH = {"cpu": 64, "cuda": 512}
UNKNOWN = "heading unknown"
CITY_QUERIES = {"north known": NORTH_KNOWN, UNKNOWN: UNKNOWN_HEADING, "90 degrees": PHOTO_90}
PAIR_QUERIES = {"north known": NORTH_KNOWN, UNKNOWN: UNKNOWN_HEADING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What `CLNetConfig.without` switches off; with `columns` NCM's learned field gives way to a fixed grid;
    without `turned_losses` only the loss of descriptors as they are is left. `start_sigma_cells` is how far
    NCM's cells look around their azimuth before they learn."""

    off: tuple[str, ...] = ()
    columns: bool = False
    turned_losses: bool = True
    start_sigma_cells: float = 0.8

    def config(self, seed: int, budget: Budget) -> TrainConfig:
        """The shipped checkpoint's recipe without this variant's parts; `max_steps` from the budget."""
        loss = LossConfig() if self.turned_losses else LossConfig(turned_weight=0.0, sector_weight=0.0)
        return TrainConfig(
            model=CLNetConfig(start_sigma_cells=self.start_sigma_cells).without(*self.off),
            loss=loss,
            budget=BudgetConfig(max_steps=budget.steps),
            peak_learning_rate=PEAK_LEARNING_RATE,
            seed=seed,
        )


# A mean over all tokens forgets where they lie, as the trunk has no edges to tell: columns are the stronger
# baseline.
BASELINE = "columns"
VARIANTS = {
    "pooled": Variant(off=("ncm", "nec", "gfr")),
    "pooled + NEC + GFR": Variant(off=("ncm",)),
    "columns": Variant(off=("nec", "gfr"), columns=True),
    "columns + NEC + GFR": Variant(columns=True),
    "NCM": Variant(off=("nec", "gfr")),
    "NCM + NEC": Variant(off=("gfr",)),
    "NCM + GFR": Variant(off=("nec",)),
    "NCM + NEC + GFR": Variant(),
    "columns, one loss": Variant(off=("nec", "gfr"), columns=True, turned_losses=False),
    "NCM, sharp start": Variant(off=("nec", "gfr"), start_sigma_cells=0.36),
    "NCM + NEC + GFR, sharp start": Variant(start_sigma_cells=0.36),
    "NCM, one loss": Variant(off=("nec", "gfr"), turned_losses=False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The same for every variant. Steps, not minutes: runs that share a machine slow each other down."""

    steps: int
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One variant with one seed; recalls are 0 to 1, over all queries of all test cities or folds."""

    data: str
    variant: str
    seed: int
    steps: int
    batch: int
    queries: int
    train_s: float
    loss: float
    recall_at_1: dict[str, float]


def summed_up(
    data: str,
    variant: str,
    seed: int,
    budget: Budget,
    hits: Sequence[Mapping[str, NDArray[np.bool_]]],
    *,
    loss: float,
    train_s: float,
) -> Run:
    """One run from what each test city or fold found first, by form of asking."""
    whole = {form: np.concatenate([part[form] for part in hits]) for form in hits[0]}
    return Run(
        data=data,
        variant=variant,
        seed=seed,
        steps=budget.steps,
        batch=budget.batch,
        queries=len(next(iter(whole.values()))),
        train_s=round(train_s, 1),
        loss=round(loss, 4),
        recall_at_1={form: round(float(hit.mean()), 4) for form, hit in whole.items()},
    )


def cost(name: str, variant: Variant, device: str) -> dict[str, object]:
    """Size, operations, and milliseconds of embedding one image of each view that lies on the device."""
    config = CLNetConfig().without(*variant.off)
    model = CLNet(config).eval().to(device)
    batch = COST_BATCH[torch.device(device).type]
    row: dict[str, object] = {"what": "cost", "variant": name, "device": device, "batch": batch}
    row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    shapes = {
        "ground": (4, config.canvas.height_px, config.canvas.width_px),
        "aerial": (3, config.patch_px, config.patch_px),
    }
    for view, shape in shapes.items():
        embed = getattr(model, f"embed_{view}")
        images = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=device)
        with torch.no_grad(), mixed("auto", torch.device(device)):
            with FlopCounterMode(display=False) as counter:
                embed(images[:1])
            taken_s = seconds_of(lambda embed=embed, images=images: embed(images).cpu())
        row[f"{view}_mflop"] = round(counter.get_total_flops() / 1e6, 1)
        row[f"{view}_ms"] = round(1000 * taken_s / batch, 4)
    return row


def seconds_of(call: Callable[[], object], *, repeats: int = 7) -> float:
    """Median after one call that is not counted; the call's result is in main memory."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[repeats // 2]
