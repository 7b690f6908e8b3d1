"""Pairs on disk, nearest neighbours, and what meets in a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clnet_model.data import GeoPairs, load_pairs, nearest_rows, some_of
from clnet_model.errors import BadPairs
from clnet_model.sampling import NeighbourhoodSampler, SamplerConfig

Toy = Callable[..., GeoPairs]


@pytest.fixture(scope="module")
def city(toy_city: Toy) -> GeoPairs:
    return toy_city(seed=1, size_m=240, streets=60, patch_px=64, margin_px=8)


def test_pairs_survive_the_disk(city: GeoPairs, tmp_path: Path) -> None:
    city.save(tmp_path / "toy")
    again = load_pairs(tmp_path / "toy")
    assert (again.city, again.margin_px, again.gsd_m) == (city.city, city.margin_px, city.gsd_m)
    assert np.array_equal(again.canvases, city.canvases)
    assert np.array_equal(again.patch_xy_m, city.patch_xy_m)
    assert isinstance(again.patches, np.memmap)
    assert again.fingerprint() == city.fingerprint()


def test_incomplete_folder_is_refused(city: GeoPairs, tmp_path: Path) -> None:
    city.save(tmp_path)
    (tmp_path / "patches.npy").unlink()
    with pytest.raises(BadPairs, match="no complete pairs data set"):
        load_pairs(tmp_path)


def test_arrays_that_do_not_fit_are_refused(city: GeoPairs) -> None:
    with pytest.raises(BadPairs, match="expected"):
        replace(city, street_xy_m=city.street_xy_m[:-1])


def test_centre_patches_drop_the_margin(city: GeoPairs) -> None:
    assert city.centre_patches().shape[1:3] == (64, 64)
    assert np.array_equal(city.centre_patches()[3], city.patches[3, 8:-8, 8:-8])


def test_some_images_come_evenly_from_all_cities(city: GeoPairs) -> None:
    few = city.subset(np.arange(3))
    canvases, patches = some_of([city, few], 10)
    assert canvases.shape == (5 + 3, *city.canvases.shape[1:])  # the smaller city has no more
    assert patches.shape == (10, city.patch_px, city.patch_px, 3)
    assert np.array_equal(canvases[[0, 4]], city.canvases[[0, -1]])
    assert np.array_equal(canvases[5:], few.canvases)


def test_nearest_rows_agree_with_sorting() -> None:
    rng = np.random.default_rng(0)
    here, there = rng.uniform(0, 100, (30, 2)), rng.uniform(0, 100, (50, 2))
    rows, metres = nearest_rows(here, there, count=5, block=7)
    full = np.hypot(*(here[:, None] - there[None]).transpose(2, 0, 1))
    assert np.array_equal(rows, full.argsort(axis=1)[:, :5])
    np.testing.assert_allclose(metres, np.sort(full, axis=1)[:, :5], rtol=1e-5)


def test_every_batch_holds_each_querys_patch_and_no_patch_twice(city: GeoPairs) -> None:
    sampler = NeighbourhoodSampler([city], SamplerConfig(queries=16), seed=0)
    nearest = nearest_rows(city.street_xy_m, city.patch_xy_m, count=1)[0][:, 0]
    for hardness in (0.0, 0.5, 1.0):
        rows = sampler.draw(hardness)
        assert len(set(rows.patches.tolist())) == len(rows.patches)
        assert set(nearest[rows.street]) <= set(rows.patches.tolist())


def test_an_epoch_shows_every_street_image(city: GeoPairs) -> None:
    sampler = NeighbourhoodSampler([city], SamplerConfig(queries=15), seed=0)
    seen = np.concatenate([sampler.draw().street for _ in range(4)])
    assert sorted(seen) == list(range(60))


def test_batches_of_several_cities_are_of_full_size(city: GeoPairs) -> None:
    """What is left of a city after its last full batch would leave some workers without an image."""
    cities = [city, city.subset(np.arange(21)), city.subset(np.arange(5))]
    sampler = NeighbourhoodSampler(cities, SamplerConfig(queries=8), seed=0)
    drawn = [sampler.draw() for _ in range(60)]
    assert {rows.city for rows in drawn} == {0, 1, 2}
    assert all(len(rows.street) == (8, 8, 5)[rows.city] for rows in drawn)
    assert set(np.concatenate([rows.street for rows in drawn if rows.city == 1])) == set(range(21))


def test_hard_batches_are_compact(city: GeoPairs) -> None:
    def spread_m(hardness: float) -> float:
        sampler = NeighbourhoodSampler([city], SamplerConfig(queries=12, neighbourhoods=1), seed=0)
        return float(city.street_xy_m[sampler.draw(hardness).street].std(axis=0).mean())

    assert spread_m(1.0) < 0.7 * spread_m(0.0)


def test_mined_patches_join_the_batch(city: GeoPairs) -> None:
    sampler = NeighbourhoodSampler([city], SamplerConfig(queries=8, patches_per_query=4), seed=0)
    sampler.set_hard_patches(0, np.full((60, 1), 99, np.int32))
    assert 99 in sampler.draw().patches


def test_sampler_continues_from_its_state(city: GeoPairs) -> None:
    first = NeighbourhoodSampler([city], SamplerConfig(queries=8), seed=0)
    first.draw()
    second = NeighbourhoodSampler([city], SamplerConfig(queries=8), seed=5)
    second.restore(first.state())
    a, b = first.draw(), second.draw()
    assert np.array_equal(a.street, b.street)
    assert np.array_equal(a.patches, b.patches)
