"""A flat world with things put exactly where a test wants them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyproj import CRS

from simulation.appearance import Appearance, Difficulty, draw_appearance
from simulation.features import Material
from simulation.styles import Season
from simulation.world import BuildingTable, World

CELLS, GSD_M = 400, 0.5


@pytest.fixture
def flat_world() -> World:
    """200 m × 200 m of grass in UTM 32N, nothing on it."""
    shape = (CELLS, CELLS)
    return World(
        crs=CRS.from_epsg(25832),
        west=500_000.0,
        north=5_300_200.0,
        gsd_m=GSD_M,
        terrain_m=np.zeros(shape, np.float32),
        solid_m=np.zeros(shape, np.float32),
        crown_base=np.zeros(shape, np.uint8),
        crown_top=np.zeros(shape, np.uint8),
        tree=np.zeros(shape, np.uint16),
        car=np.zeros(shape, np.uint16),
        car_top=np.zeros(shape, np.uint8),
        material=np.full(shape, int(Material.GRASS), np.uint8),
        building=np.zeros(shape, np.int32),
        buildings=BuildingTable(
            angle_rad=np.zeros(2, np.float32),
            storey_m=np.full(2, 3.0, np.float32),
            bay_m=np.full(2, 3.0, np.float32),
            eave_m=np.full(2, 10.0, np.float32),
            roof_rgb=np.full((2, 3), 120, np.uint8),
            facade_rgb=np.tile(np.array([[200, 20, 20]], np.uint8), (2, 1)),
            look=np.zeros(2, np.int32),
        ),
    )


@pytest.fixture
def put_block() -> Callable[..., None]:
    """Raise a red block of `height_m` with its centre `east_m`, `north_m` from the middle of the world."""

    def put(
        world: World, *, east_m: float, north_m: float, side_m: float = 6.0, height_m: float = 10.0
    ) -> None:
        middle = CELLS * GSD_M / 2
        left, right = (int((middle + east_m + s * side_m / 2) / GSD_M) for s in (-1, 1))
        top, bottom = (int((middle - north_m + s * side_m / 2) / GSD_M) for s in (-1, 1))
        world.solid_m[top:bottom, left:right] = height_m
        world.building[top:bottom, left:right] = 1
        world.material[top:bottom, left:right] = int(Material.ROOF)

    return put


@pytest.fixture
def overcast() -> Appearance:
    """A plain day without cars."""
    look = draw_appearance(Season.SUMMER, Difficulty.EASY, np.random.default_rng(1), from_above=False)
    return Appearance(
        **{**{name: getattr(look, name) for name in look.__slots__}, "sunshine": 0.0, "car_share": 0.0}
    )
