"""A seeded city: repeatable, bounded, and of its style."""

from __future__ import annotations

import numpy as np
import pytest

from simulation.city import City, build_city
from simulation.errors import BadSimulation, UnknownStyle
from simulation.features import Material
from simulation.styles import HELD_OUT_STYLES, STYLES, TRAIN_STYLES


@pytest.fixture(scope="module", params=list(STYLES))
def small_city(request: pytest.FixtureRequest) -> City:
    return build_city(5, request.param, 300.0)


def test_every_style_has_streets_houses_and_trees(small_city: City) -> None:
    world = small_city.world
    assert len(small_city.plan.streets) >= 4
    assert 0.02 < (world.building > 0).mean() < 0.6
    assert (world.crown_top > 0).mean() > 0.002
    assert np.isin([int(Material.ASPHALT), int(Material.SIDEWALK)], world.material).any()


def test_heights_are_those_of_a_town(small_city: City) -> None:
    world = small_city.world
    assert 4.0 < world.solid_m.max() < 80.0
    assert np.isfinite(world.terrain_m).all()


def test_nothing_solid_stands_on_the_carriageway(small_city: City) -> None:
    world = small_city.world
    road = np.isin(world.material, [int(Material.ASPHALT), int(Material.MARKING)])
    assert (world.solid_m[road] > 1.0).mean() < 0.002


def test_the_same_seed_builds_the_same_city() -> None:
    first, second = (build_city(9, "grid-brick", 250.0).world for _ in range(2))
    assert np.array_equal(first.solid_m, second.solid_m)
    assert np.array_equal(first.material, second.material)


def test_another_seed_builds_another_city() -> None:
    first, second = (build_city(seed, "grid-brick", 250.0).world for seed in (9, 10))
    assert not np.array_equal(first.material, second.material)


def test_held_out_styles_share_nothing_with_training() -> None:
    for held in (STYLES[name] for name in HELD_OUT_STYLES):
        for trained in (STYLES[name] for name in TRAIN_STYLES):
            assert held.pattern is not trained.pattern
            assert held.season is not trained.season
            assert not set(held.roofs) & set(trained.roofs)
            assert not set(held.facades) & set(trained.facades)
            assert max(held.mix, key=lambda u: held.mix[u]) is not max(
                trained.mix, key=lambda u: trained.mix[u]
            )


def test_an_unknown_style_is_refused_with_the_choices() -> None:
    with pytest.raises(UnknownStyle, match="choose one of: grid-brick"):
        build_city(1, "atlantis", 300.0)


@pytest.mark.parametrize("size_m", [0.0, -5.0, 1e9, float("nan")])
def test_an_absurd_size_is_refused(size_m: float) -> None:
    with pytest.raises(BadSimulation, match="size_m"):
        build_city(1, "grid-brick", size_m)
