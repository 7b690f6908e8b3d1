"""The ablation's long way: every variant trained whole and from scratch, trunk and all.

Knows training and galleries; does not know how runs are shared out, kept or shown.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ablation_variants import CITY_QUERIES, VARIANTS, Budget, Run, summed_up
from numpy.typing import NDArray

from clnet_model.collective import World
from clnet_model.data import GeoPairs, load_pairs, nearest_rows
from clnet_model.encoder import Encoder, TorchEncoder, load_encoder
from clnet_model.evaluate import QuerySet, rank_of_true, similarity_blocks
from clnet_model.sampling import SamplerConfig
from clnet_model.train import fit
from clnet_model.train_config import TrainConfig

WHOLE = [name for name, variant in VARIANTS.items() if not variant.columns]


def run_whole(
    variant: str, seed: int, budget: Budget, *, train: Sequence[Path], test: Sequence[Path], device: str
) -> Run:
    """Train on saved cities, ask in others; every city is a gallery of its own."""
    config = replace(
        VARIANTS[variant].config(seed, budget),
        sampler=SamplerConfig(queries=budget.batch),
        mine_at=(),
        threads=1,
    )
    encoder, loss, train_s = trained([load_pairs(path) for path in train], config, device)
    hits = [
        {form: found_first(encoder, load_pairs(path), queries) for form, queries in CITY_QUERIES.items()}
        for path in test
    ]
    return summed_up("simulated, trained whole", variant, seed, budget, hits, loss=loss, train_s=train_s)


def trained(
    cities: Sequence[GeoPairs], config: TrainConfig, device: str
) -> tuple[TorchEncoder, float, float]:
    """The averaged weights after the last step, the mean loss of the last twentieth, and seconds."""
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        fit(
            cities,
            config,
            out=Path(folder),
            world=World(device=torch.device(device)),
            progress=lambda tick: losses.append(tick.loss),
        )
        train_s = time.monotonic() - started
        encoder = load_encoder(Path(folder), device=device, batch_size=256)
    return encoder, float(np.mean(losses[-max(1, len(losses) // 20) :])), train_s


def found_first(encoder: Encoder, pairs: GeoPairs, queries: QuerySet) -> NDArray[np.bool_]:
    """Whether each street image's own patch comes first among those of all (Q,)."""
    nearest = nearest_rows(pairs.street_xy_m, pairs.patch_xy_m, count=1)[0][:, 0]
    own, place = np.unique(nearest, return_inverse=True)
    gallery = encoder.embed_aerial(pairs.centre_patches(own.astype(np.intp)))
    first = [
        rank_of_true(similarity, place[rows]) <= 1
        for rows, similarity in similarity_blocks(encoder, pairs, queries, gallery=gallery)
    ]
    return np.concatenate(first)
