"""One run of the ablation: a variant trained from scratch, then asked for places it has not seen.

Knows variants, budgets and scores; does not know how runs are shared out, kept or shown.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from cli.pairs import Progress, saved_pairs
from cli.train_data import COARSER, MARGIN_PX, NEAR_M
from clnet_model.augment import AugmentConfig
from clnet_model.collective import World
from clnet_model.data import GeoPairs, load_pairs, nearest_rows
from clnet_model.encoder import Encoder, TorchEncoder, load_encoder
from clnet_model.evaluate import (
    NORTH_KNOWN,
    PHOTO_90,
    UNKNOWN_HEADING,
    QuerySet,
    embed_gallery,
    interpolated_position,
    neighbour_reach_m,
    rank_of_true,
    similarity_blocks,
)
from clnet_model.losses import LossConfig
from clnet_model.model import CLNetConfig, polar_grid
from clnet_model.sampling import SamplerConfig
from clnet_model.schedule import BudgetConfig
from clnet_model.train import fit
from clnet_model.train_config import TrainConfig

APART_M = 1000.0  # between the places of real pairs, which have no positions
FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """What is switched off, as `CLNetConfig.without` names it, and whether NCM brings its two losses."""

    off: tuple[str, ...] = ()
    ncm_losses: bool = True


# The first five unroll patches (`polar`): that is how the baseline sees them too, as SAFA's does.
VARIANTS = {
    "baseline": Variant(off=("ncm", "nec", "gfr")),
    "+ NCM": Variant(off=("nec", "gfr")),
    "+ NEC": Variant(off=("ncm", "gfr")),
    "+ GFR": Variant(off=("ncm", "nec")),
    "all": Variant(),
    "+ NCM, the baseline's loss": Variant(off=("nec", "gfr"), ncm_losses=False),
    "baseline, plan": Variant(off=("ncm", "nec", "gfr", "polar")),
    "all, plan": Variant(off=("polar",)),
}
CITY_QUERIES = {"north known": NORTH_KNOWN, "heading unknown": UNKNOWN_HEADING, "90 degrees": PHOTO_90}
PAIR_QUERIES = {"as taken": NORTH_KNOWN, "heading unknown": UNKNOWN_HEADING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The same for every variant. Steps, not minutes: runs that share a machine slow each other down."""

    steps: int
    batch: int
    threads: int = 1
    device: str = "cpu"
    queries: int = 300  # of each test city


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
    test_s: float
    loss: float
    recall_at_1: dict[str, float]
    recall_25m: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """Of each query (Q,): its own patch came first among all queries' own; it was placed within 25 m."""

    first: NDArray[np.bool_]
    near: NDArray[np.bool_]


def config_of(variant: str, seed: int, budget: Budget) -> TrainConfig:
    """The recipe of the shipped checkpoint without the variant's parts, look-alikes and a validation city."""
    of = VARIANTS[variant]
    loss = LossConfig() if of.ncm_losses else LossConfig(turned_weight=0.0, sector_weight=0.0)
    return TrainConfig(
        model=CLNetConfig().without(*of.off),
        loss=loss,
        sampler=SamplerConfig(queries=budget.batch),
        budget=BudgetConfig(max_steps=budget.steps),
        peak_learning_rate=1.5e-3,
        seed=seed,
        mine_at=(),
        threads=budget.threads,
    )


def run_on_cities(
    variant: str, seed: int, budget: Budget, *, train: Sequence[Path], test: Sequence[Path]
) -> Run:
    """Train on saved cities; ask for panoramas of others in their whole galleries."""
    config = config_of(variant, seed, budget)
    encoder, loss, train_s = trained([load_pairs(path) for path in train], config, budget.device)
    started = time.monotonic()
    hits = [
        found_in(encoder, some_panoramas(load_pairs(path), budget.queries), CITY_QUERIES) for path in test
    ]
    seconds = (train_s, time.monotonic() - started)
    return summed_up(data="simulated", variant=variant, config=config, hits=hits, loss=loss, seconds=seconds)


def run_on_pairs(variant: str, seed: int, budget: Budget, *, pairs: Path) -> Run:
    """Cross-validate on real pairs: train on four fifths, ask for the rest among the rest."""
    whole = load_pairs(pairs)
    config = config_of(variant, seed, budget)
    still = AugmentConfig(shift_patches=False, limited_fov_share=0.0)  # no margin, no horizon
    config = replace(config, augment=still, statistics_batches=8)
    hits, measured = [], []
    for train, test in folds(whole):
        encoder, loss, train_s = trained([train], config, budget.device)
        started = time.monotonic()
        hits.append(found_in(encoder, test, PAIR_QUERIES))
        measured.append((loss, train_s, time.monotonic() - started))
    losses, *seconds = zip(*measured, strict=True)
    return summed_up(
        data="real",
        variant=variant,
        config=config,
        hits=hits,
        loss=float(np.mean(losses)),
        seconds=(sum(seconds[0]), sum(seconds[1])),
    )


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


def found_in(encoder: Encoder, pairs: GeoPairs, asked: Mapping[str, QuerySet]) -> dict[str, Hits]:
    gallery = embed_gallery(encoder, pairs)
    return {name: hits_of(encoder, pairs, queries, gallery) for name, queries in asked.items()}


def hits_of(encoder: Encoder, pairs: GeoPairs, queries: QuerySet, gallery: NDArray[np.float32]) -> Hits:
    """R@1 as CVUSA and CVACT count it, one patch for each query, and recall within 25 m as the service has
    it, in the whole gallery (which for real pairs, a kilometre apart, is R@1 but for ties)."""
    nearest = nearest_rows(pairs.street_xy_m, pairs.patch_xy_m, count=1)[0][:, 0]
    own, place = np.unique(nearest, return_inverse=True)
    temperature = encoder.calibration.at(queries.hfov_deg, heading_known=queries.heading_known).temperature
    reach_m = neighbour_reach_m(pairs.patch_xy_m)
    first, near = [], []
    for rows, similarity in similarity_blocks(encoder, pairs, queries, gallery=gallery):
        first.append(rank_of_true(similarity[:, own], place[rows]) <= 1)
        found = interpolated_position(similarity, pairs.patch_xy_m, temperature=temperature, radius_m=reach_m)
        near.append(np.hypot(*(found - pairs.street_xy_m[rows]).T) <= 25.0)
    return Hits(first=np.concatenate(first), near=np.concatenate(near))


def summed_up(
    *,
    data: str,
    variant: str,
    config: TrainConfig,
    hits: Sequence[Mapping[str, Hits]],
    loss: float,
    seconds: tuple[float, float],
) -> Run:
    first = {name: np.concatenate([part[name].first for part in hits]) for name in hits[0]}
    near = {name: np.concatenate([part[name].near for part in hits]) for name in hits[0]}
    return Run(
        data=data,
        variant=variant,
        seed=config.seed,
        steps=config.budget.max_steps or 0,
        batch=config.sampler.queries,
        queries=len(next(iter(first.values()))),
        train_s=round(seconds[0], 1),
        test_s=round(seconds[1], 1),
        loss=round(loss, 4),
        recall_at_1={name: round(float(hit.mean()), 4) for name, hit in first.items()},
        recall_25m={name: round(float(hit.mean()), 4) for name, hit in near.items()},
    )


# Data


def saved_city(data: Path, *, whole: bool, progress: Progress = lambda *_: None) -> Path:
    """A simulated city as `clnet train` has it; `whole` with its gallery, else with moveable patches."""
    model = CLNetConfig()
    if whole:
        return saved_pairs(data, model, progress=progress)
    coarse = replace(model, zoom=model.zoom - COARSER)
    return saved_pairs(data, coarse, margin_px=MARGIN_PX, near_m=NEAR_M, progress=progress)


def some_panoramas(city: GeoPairs, count: int) -> GeoPairs:
    rows = city.panoramas()
    return city.subset(rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)])


def saved_drone_pairs(root: Path, out: Path) -> Path:
    """`root`/drone/NAME and `root`/satellite/NAME show one place from aslant and from above.

    The drone looks down on the place in its image's middle, so its image is unrolled around that, as a patch
    is: azimuth across, up in the image at the canvas's centre. Which way it looked is not known.
    """
    names = sorted(path.name for path in (root / "drone").iterdir())
    spec, size_px = CLNetConfig().canvas, CLNetConfig().patch_px
    drone, satellite = (
        np.stack([square(root / view / name, size_px) for name in names]) for view in ("drone", "satellite")
    )
    grid = polar_grid(spec.height_px, spec.width_px).expand(len(names), -1, -1, -1)
    planes = torch.from_numpy(drone).permute(0, 3, 1, 2).float()
    unrolled = functional.grid_sample(planes, grid, align_corners=False, padding_mode="border")
    rgb = unrolled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    places = np.stack([APART_M * np.arange(len(names)), np.zeros(len(names))], axis=1)
    GeoPairs(
        city=root.name,
        canvases=np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1),
        street_xy_m=places,
        hfov_deg=np.full(len(names), 360, np.float32),
        patches=satellite,
        patch_xy_m=places,
    ).save(out)
    return out


def square(path: Path, size_px: int) -> NDArray[np.uint8]:
    image = Image.open(path).convert("RGB")
    return np.asarray(image if image.size == (size_px, size_px) else image.resize((size_px, size_px)))


def folds(pairs: GeoPairs) -> Iterator[tuple[GeoPairs, GeoPairs]]:
    """Train and test pairs; which are together does not depend on a run's seed."""
    part = np.random.default_rng(0).permutation(len(pairs)) % FOLDS
    for fold in range(FOLDS):
        yield only(pairs, np.flatnonzero(part != fold)), only(pairs, np.flatnonzero(part == fold))


def only(pairs: GeoPairs, rows: NDArray[np.intp]) -> GeoPairs:
    """These street images with the patch of each."""
    return replace(pairs.subset(rows), patches=pairs.patches[rows], patch_xy_m=pairs.patch_xy_m[rows])
