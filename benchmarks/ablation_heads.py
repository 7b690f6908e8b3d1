"""Variants of CLNet from the tokens on, trained and tested on frozen features.

Knows features and heads; does not know images, how runs are shared out, kept or shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from ablation_features import CHANNELS, Features
from ablation_variants import CITY_QUERIES, PAIR_QUERIES, UNKNOWN, VARIANTS, Budget, Run, Variant, summed_up
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from clnet_model.augment import Batch
from clnet_model.evaluate import best_similarity, rank_of_true
from clnet_model.model import CLNet, CLNetConfig, View
from clnet_model.modules import Alignment
from clnet_model.train_step import TrainState, forget_statistics, set_learning_rate, state_of, train_step
from clnet_model.trunk import Side
from clnet_model.turning import turned

FOLDS = 5


class FixedGrid(nn.Module):
    """In NCM's place, what the polar transform alone gives: azimuths are the tokens' columns, ranges are
    means over bands of rows, the same in both views (SAFA, Shi et al., NeurIPS 2019; DSM, CVPR 2020)."""

    def __init__(self, config: CLNetConfig) -> None:
        super().__init__()
        self.shape = (config.latent_ranges, config.latent_azimuths)
        self.norm = nn.LayerNorm(config.token_dim)
        self.value = nn.Linear(config.token_dim, config.token_dim)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Alignment:
        """As `CorrespondenceField`; tokens (B, rows * azimuths, C)."""
        grid = (-1, self.shape[1])
        values = self.value(self.norm(tokens)).transpose(1, 2).unflatten(2, grid)  # (B, C, rows, A)
        seen = torch.ones_like(values[:, :1]) if mask is None else mask[:, None].unflatten(2, grid)
        share = functional.adaptive_avg_pool2d(seen, self.shape)  # (B, 1, R, A)
        banded = functional.adaptive_avg_pool2d(values * seen, self.shape) / share.clamp(min=1e-3)
        return Alignment(
            values=banded.permute(0, 3, 2, 1),
            attention=tokens.new_empty(0),
            observed=share[:, 0].transpose(1, 2),
        )


class Heads(CLNet):
    """CLNet whose images are features (B, C + 1, rows, columns) of a frozen trunk, last the seen share."""

    def __init__(self, config: CLNetConfig, *, columns: bool) -> None:
        super().__init__(config)
        self.trunk = nn.Sequential(nn.Linear(CHANNELS, config.token_dim), nn.LayerNorm(config.token_dim))
        if columns:
            self.ground.ncm, self.aerial.ncm = FixedGrid(config), FixedGrid(config)

    def view_ground(self, canvases: Tensor) -> View:
        seen = canvases[:, CHANNELS].flatten(1)
        return self._finish(Side.GROUND, *self.ground(self._seen_tokens(canvases), seen))

    def view_aerial(self, patches: Tensor) -> View:
        return self._finish(Side.AERIAL, *self.aerial(self._seen_tokens(patches), None))

    def _seen_tokens(self, features: Tensor) -> Tensor:
        tokens: Tensor = self.trunk(features[:, :CHANNELS].permute(0, 2, 3, 1))
        return tokens.flatten(1, 2)


def run_on_cities(
    name: str, seed: int, budget: Budget, *, train: Sequence[Features], test: Sequence[Features]
) -> Run:
    """Train on some cities, ask in others; every city is a gallery of its own."""
    model, loss, seconds = trained(train, VARIANTS[name], seed, budget, photos=True)
    hits = [found_first(model, city, np.arange(len(city)), list(CITY_QUERIES)) for city in test]
    return summed_up("simulated", name, seed, budget, hits, loss=loss, train_s=seconds)


def run_on_pairs(name: str, seed: int, budget: Budget, *, train: Features, test: Features) -> Run:
    """Cross-validate: train on four fifths of the pairs, ask for the rest among the rest."""
    hits, losses, seconds = [], [], 0.0
    part = np.random.default_rng(0).permutation(len(train)) % FOLDS  # the same in all runs
    for fold in range(FOLDS):
        rows = np.flatnonzero(part != fold)
        model, loss, taken_s = trained([train], VARIANTS[name], seed, budget, rows=rows)
        hits.append(found_first(model, test, np.flatnonzero(part == fold), list(PAIR_QUERIES)))
        losses.append(loss)
        seconds += taken_s
    return summed_up("real", name, seed, budget, hits, loss=float(np.mean(losses)), train_s=seconds)


def trained(
    cities: Sequence[Features],
    variant: Variant,
    seed: int,
    budget: Budget,
    *,
    rows: NDArray[np.intp] | None = None,
    photos: bool = False,
) -> tuple[Heads, float, float]:
    """The averaged weights after the last step, the mean loss of the last twentieth, and seconds."""
    started = time.monotonic()
    config = replace(variant.config(seed, budget), precision="fp32")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Heads(config.model, columns=variant.columns)
    state = state_of(model, config)
    batches = drawn(cities, seed, budget.batch, rows=rows, photos=photos)
    losses = []
    for step in range(budget.steps):
        share = step / budget.steps
        set_learning_rate(state, share, config)
        losses.append(train_step(state, next(batches), config, share=share, spent_s=0.0).loss)
    settle(state, [next(batches) for _ in range(8)])
    return model, float(np.mean(losses[-max(1, len(losses) // 20) :])), time.monotonic() - started


@torch.no_grad()
def settle(state: TrainState, batches: Sequence[Batch]) -> None:
    """Put the averaged weights and statistics of their own into the model."""
    state.average.copy_to(state.model)
    forget_statistics(state.model)
    for batch in batches:
        state.model.view_ground(batch.canvases)
        state.model.view_aerial(batch.patches)
    state.model.eval()


def drawn(
    cities: Sequence[Features], seed: int, size: int, *, rows: NDArray[np.intp] | None, photos: bool
) -> Iterator[Batch]:
    """Endless batches, each of one city; both views are turned and mirrored together, and more than half of
    the street images show a sector alone when `photos`. They depend on the seed, not on the variant."""
    dice = np.random.default_rng(seed)
    while True:
        city = cities[dice.integers(len(cities))]
        chosen = dice.choice(np.arange(len(city)) if rows is None else rows, size, replace=False)
        street_draw, aerial_draw = (
            dice.integers(len(city.street), size=size),
            dice.integers(len(city.aerial), size=size),
        )
        seen = torch.from_numpy(city.seen[street_draw, chosen]).float()
        street = torch.from_numpy(city.street[street_draw, chosen]).float()
        aerial = torch.from_numpy(city.aerial[aerial_draw, chosen]).float()
        if photos:
            seen = seen * torch.from_numpy(sectors(dice, size, seen.shape[-1]))[:, None]
        turn, mirror = int(dice.integers(seen.shape[-1])), bool(dice.integers(2))
        street, aerial = (
            view.roll(turn, dims=3).flip(3) if mirror else view.roll(turn, dims=3)
            for view in (torch.cat([street, seen[:, None]], dim=1), aerial)
        )
        apart_m = np.hypot(*(city.street_xy_m[chosen][:, None] - city.street_xy_m[chosen][None]).T)
        distance_m = torch.from_numpy(apart_m.astype(np.float32))
        yield Batch(canvases=street, patches=aerial, distance_m=distance_m, true_patch=torch.arange(size))


def sectors(dice: np.random.Generator, count: int, columns: int) -> NDArray[np.float32]:
    """Which columns (count, columns) are seen: 70 to 360 degrees in six of ten rows, all in the others."""
    middle, wide = dice.uniform(0, columns, (count, 1)), dice.uniform(70 / 360, 1, (count, 1)) * columns
    away = np.abs((np.arange(columns) + 0.5 - middle + columns / 2) % columns - columns / 2)
    return ((away <= wide / 2) | (dice.random((count, 1)) > 0.6)).astype(np.float32)


@torch.no_grad()
def found_first(
    model: Heads, city: Features, rows: NDArray[np.intp], asked: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """Whether each street image's own patch comes first among those of all; (Q,) for each form of asking."""
    patches, own = distinct(city.aerial[0, rows])
    aerial = model.view_aerial(torch.from_numpy(patches).float()).descriptor.numpy()
    hits = {}
    for number, form in enumerate(asked):
        street = torch.from_numpy(city.street[number, rows]).float()
        seen = torch.from_numpy(city.seen[number, rows]).float()
        vectors = model.view_ground(torch.cat([street, seen[:, None]], dim=1)).descriptor.numpy()
        turns = model.config.latent_azimuths if form == UNKNOWN and model.config.use_ncm else 1
        similarity = best_similarity(turned(vectors, turns).reshape(turns, len(rows), -1), aerial)
        hits[form] = rank_of_true(similarity, own) <= 1
    return hits


def distinct(patches: NDArray[np.float16]) -> tuple[NDArray[np.float16], NDArray[np.intp]]:
    """Each patch once, and where each of (N, ...) is among them: street images may share their patch."""
    numbers: dict[bytes, int] = {}
    own = np.array([numbers.setdefault(patch.tobytes(), len(numbers)) for patch in patches], np.intp)
    return patches[np.unique(own, return_index=True)[1]], own
