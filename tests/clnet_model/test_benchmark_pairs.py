"""A benchmark split becomes pairs that train like a city."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyproj import Geod

from clnet_model.benchmark_pairs import hold_out, positions_m, save_pairs
from clnet_model.benchmarks.base import QueryKind, Split, own_pairs
from clnet_model.data import load_pairs
from clnet_model.errors import BadPairs
from clnet_model.model import CLNetConfig
from clnet_model.sampling import SamplerConfig
from clnet_model.schedule import BudgetConfig
from clnet_model.train import fit
from clnet_model.train_config import TrainConfig


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Forty pairs of noise, without positions."""
    folder, rng = tmp_path_factory.mktemp("split"), np.random.default_rng(0)
    paths: dict[str, list[Path]] = {"street": [], "aerial": []}
    for number in range(40):
        for side, shape in (("street", (32, 64, 3)), ("aerial", (30, 30, 3))):
            paths[side].append(folder / f"{side}{number}.png")
            Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(paths[side][-1])
    return Split(
        name="noise",
        queries=tuple(paths["street"]),
        gallery=tuple(paths["aerial"]),
        positives=own_pairs(40),
        query_kind=QueryKind.PANORAMA,
        centre_heading_deg=0.0,
    )


def test_pairs_without_positions_lie_far_apart(split: Split) -> None:
    streets, patches = positions_m(split)
    apart = np.hypot(*(streets[:, None] - patches[None]).transpose(2, 0, 1))
    assert (apart.argmin(axis=1) == np.arange(40)).all()
    assert np.sort(apart, axis=1)[:, 1].min() >= 1000


def test_aerial_images_that_queries_share_are_of_one_place(split: Split) -> None:
    """The third query is right at the images of the first two, so all three stand there."""
    chained = replace(split, positives=(*split.positives[:2], np.array([0, 1]), *split.positives[3:]))
    streets, patches = positions_m(chained)
    assert [streets[row].tolist() for row in (0, 1, 2)] == [patches[0].tolist()] * 3
    assert patches[1].tolist() == patches[0].tolist()
    assert np.hypot(*(patches[3:] - patches[0]).T).min() >= 1000


def test_distances_are_metres_in_every_city(split: Split) -> None:
    where = np.array([[-122.33, 47.61], [-73.98, 40.75], [10.75, 59.91], [18.42, -33.92]]).repeat(10, axis=0)
    near = where + np.random.default_rng(1).uniform(-2e-4, 2e-4, (40, 2))
    placed = Split(
        **{name: getattr(split, name) for name in ("name", "queries", "gallery", "positives", "query_kind")},
        centre_heading_deg=0.0,
        query_lnglat=where,
        gallery_lnglat=near,
    )
    streets, patches = positions_m(placed)
    _, _, true_m = Geod(ellps="WGS84").inv(*where.T, *near.T)
    assert np.hypot(*(streets - patches).T) == pytest.approx(true_m, rel=2e-3)
    assert np.hypot(*(streets[0] - streets[10]).T) > 1e6


def test_held_out_images_are_not_trained_on(split: Split) -> None:
    train, held = hold_out(split, every=4)
    assert (len(train.queries), len(held.queries)) == (30, 10)
    assert not set(train.queries) & set(held.queries)
    assert not set(train.gallery) & set(held.gallery)
    assert held.gallery[held.positives[3][0]].name.replace("aerial", "street") == held.queries[3].name


def test_too_few_queries_to_hold_out_are_refused(split: Split) -> None:
    with pytest.raises(BadPairs, match="too few"):
        hold_out(split, every=100)


def test_a_split_trains(split: Split, tiny: Callable[..., CLNetConfig], tmp_path: Path) -> None:
    config = tiny()
    train, held = hold_out(split, every=4)
    pairs, validation = (
        load_pairs(save_pairs(each, config, tmp_path / name))
        for each, name in ((train, "train"), (held, "val"))
    )
    assert pairs.canvases.shape == (30, config.canvas.height_px, config.canvas.width_px, 4)
    assert pairs.patches.shape == (30, config.patch_px, config.patch_px, 3)
    report = fit(
        [pairs],
        TrainConfig(
            model=config,
            sampler=SamplerConfig(queries=8, neighbourhoods=2),
            budget=BudgetConfig(max_steps=2),
            statistics_batches=1,
            precision="fp32",
        ),
        out=tmp_path / "run",
        validation=validation,
    )
    assert report.steps == 2
    assert report.validation is not None
    assert report.validation.queries == 10


def test_saved_pairs_are_kept_for_the_same_data_alone(
    split: Split, tiny: Callable[..., CLNetConfig], tmp_path: Path
) -> None:
    fewer, folder, config = hold_out(split, every=4)[1], tmp_path / "pairs", tiny()
    written = (save_pairs(fewer, config, folder) / "pairs.json").stat().st_mtime_ns
    assert (save_pairs(fewer, config, folder) / "pairs.json").stat().st_mtime_ns == written
    wider = replace(config, patch_px=80)
    photos = replace(fewer, query_kind=QueryKind.PERSPECTIVE)
    for other, taken in ((split, config), (fewer, wider), (photos, config)):
        with pytest.raises(BadPairs, match="fresh --out"):
            save_pairs(other, taken, folder)


def test_queries_from_above_are_refused(
    split: Split, tiny: Callable[..., CLNetConfig], tmp_path: Path
) -> None:
    drone = Split(
        **{name: getattr(split, name) for name in ("name", "queries", "gallery", "positives")},
        query_kind=QueryKind.AERIAL,
        centre_heading_deg=None,
    )
    with pytest.raises(BadPairs, match="street images"):
        save_pairs(drone, tiny(), tmp_path)
