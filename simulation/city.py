"""Builds a city from a seed and a style, somewhere real on the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyproj import CRS

from simulation.errors import BadSimulation
from simulation.features import Plan
from simulation.plan import plan_city
from simulation.raster import burn
from simulation.styles import style_named
from simulation.world import World

WORLD_GSD_M = 0.3
SIZE_LIMITS_M = (200.0, 6000.0)

# (EPSG code, easting range, northing range): land, spread over latitudes and grid convergences.
_PLACES: tuple[tuple[int, tuple[float, float], tuple[float, float]], ...] = (
    (25831, (420_000, 640_000), (4_700_000, 5_500_000)),
    (25832, (400_000, 620_000), (5_200_000, 5_900_000)),
    (25833, (380_000, 600_000), (5_300_000, 5_850_000)),
    (32630, (380_000, 480_000), (4_400_000, 4_700_000)),
    (2056, (2_560_000, 2_720_000), (1_160_000, 1_240_000)),
    (3006, (520_000, 640_000), (6_250_000, 6_550_000)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A world together with the plan that it was built from (streets for the camera cars)."""

    world: World
    plan: Plan
    style: str
    seed: int


def build_city(seed: int, style: str, size_m: float) -> City:
    """A square city of `size_m` metres, the same for the same seed and style.

    Raises:
        UnknownStyle: no such style.
        BadSimulation: size_m outside SIZE_LIMITS_M.
    """
    if not SIZE_LIMITS_M[0] <= size_m <= SIZE_LIMITS_M[1]:
        low, high = SIZE_LIMITS_M
        raise BadSimulation(f"size_m is {size_m:g}; give a city side between {low:g} and {high:g} metres")
    chosen = style_named(style)
    rng = np.random.default_rng([seed, *style.encode()])
    epsg, eastings, northings = _PLACES[int(rng.integers(len(_PLACES)))]
    west, north = np.round(rng.uniform(*eastings)), np.round(rng.uniform(*northings))
    plan = plan_city(chosen, size_m, rng)
    world = burn(
        plan,
        chosen,
        crs=CRS.from_epsg(epsg),
        west=float(west),
        north=float(north),
        gsd_m=WORLD_GSD_M,
        rng=rng,
    )
    return City(world=world, plan=plan, style=style, seed=seed)
