"""The ablation's data, made once and kept: simulated cities and real pairs, their images and their features.

Every function here may run in a process of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ablation_features import complete, drone_pairs, load_features, saved_test, saved_training
from ablation_heads import run_on_cities, run_on_pairs
from ablation_variants import CITY_QUERIES, PAIR_QUERIES, Budget, Run

from cli.pairs import saved_pairs
from cli.train_data import COARSER, MARGIN_PX, NEAR_M
from clnet_model.data import load_pairs
from clnet_model.evaluate import QuerySet
from clnet_model.model import CLNetConfig

QUERIES = 300  # of each test city


def training_city(data: Path) -> Path:
    """A simulated city with patches near its streets that can be moved within a margin."""
    model = CLNetConfig()
    coarse = replace(model, zoom=model.zoom - COARSER)
    return saved_pairs(data, coarse, margin_px=MARGIN_PX, near_m=NEAR_M, progress=lambda *_: None)


def test_city(data: Path) -> Path:
    """Some of a simulated city's panoramas, evenly from all, with the patches of its whole grid."""
    whole = saved_pairs(data, CLNetConfig(), progress=lambda *_: None)
    out = whole.with_name(f"{whole.name}-some-{QUERIES}")
    if not (out / "pairs.json").exists():
        city = load_pairs(whole)
        rows = city.panoramas()
        city.subset(rows[np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).astype(int)]).save(out)
    return out


def real_pairs(root: Path, out: Path) -> Path:
    if not (out / "pairs.json").exists():
        drone_pairs(root).save(out)
    return out


def training_features(pairs: Path, *, draws: int) -> Path:
    out = pairs.with_name(f"{pairs.name}-features-{draws}")
    return out if complete(out) else saved_training(load_pairs(pairs), out, draws=draws)


def test_features(pairs: Path) -> Path:
    return asked_features(pairs, CITY_QUERIES)


def real_test_features(pairs: Path) -> Path:
    return asked_features(pairs, PAIR_QUERIES)


def asked_features(pairs: Path, asked: Mapping[str, QuerySet]) -> Path:
    out = pairs.with_name(f"{pairs.name}-asked")
    return out if complete(out) else saved_test(load_pairs(pairs), out, asked)


def on_frozen_cities(
    variant: str, seed: int, budget: Budget, train: Sequence[Path], test: Sequence[Path]
) -> Run:
    train_features, test_features = ([load_features(path) for path in paths] for paths in (train, test))
    return run_on_cities(variant, seed, budget, train=train_features, test=test_features)


def on_frozen_pairs(variant: str, seed: int, budget: Budget, train: Path, test: Path) -> Run:
    return run_on_pairs(variant, seed, budget, train=load_features(train), test=load_features(test))
