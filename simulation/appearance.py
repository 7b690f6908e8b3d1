"""How things look on one day: colours of materials and leaves, sun, haze, and how strange the day may be.

The two views of a place are given appearances drawn independently of each other, so that nothing but the
shape and the layout of the place connects them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from simulation.styles import Season

F32 = NDArray[np.float32]


class Difficulty(StrEnum):
    """How far the two views' appearances may disagree, and how much stands in the way."""

    EASY = "easy"
    NORMAL = "normal"
    HARD = "hard"


_STRENGTH = {Difficulty.EASY: 0.35, Difficulty.NORMAL: 0.7, Difficulty.HARD: 1.0}

# sRGB, in the order of simulation.features.Material.
_BASE = (
    (96, 116, 66),  # grass
    (122, 128, 76),  # meadow
    (122, 102, 82),  # soil
    (86, 86, 88),  # asphalt
    (124, 122, 118),  # old asphalt
    (158, 154, 148),  # sidewalk
    (164, 146, 130),  # paving
    (166, 156, 140),  # gravel
    (62, 84, 88),  # water
    (226, 226, 220),  # marking
    (84, 128, 62),  # pitch
    (170, 92, 66),  # clay
    (66, 104, 146),  # court
    (206, 192, 156),  # sand
    (128, 110, 100),  # roof
    (62, 88, 48),  # hedge
    (160, 154, 144),  # wall
    (92, 176, 196),  # pool
    (148, 138, 72),  # crop
    (38, 46, 66),  # solar
)
_PLANTS = (0, 1, 15, 18)

_GRASS_TINT = {
    Season.SPRING: (0.95, 1.08, 0.8),
    Season.SUMMER: (1.0, 1.0, 1.0),
    Season.AUTUMN: (1.18, 1.0, 0.85),
    Season.WINTER: (1.15, 1.02, 1.0),
}
_LEAVES = {
    Season.SPRING: ((104, 134, 62), (86, 118, 58), (132, 146, 84), (64, 92, 54)),
    Season.SUMMER: ((72, 100, 48), (58, 86, 44), (88, 108, 56), (52, 76, 46)),
    Season.AUTUMN: ((168, 120, 50), (150, 86, 44), (118, 112, 52), (70, 88, 50)),
    Season.WINTER: ((108, 96, 84), (120, 108, 98), (98, 88, 80), (54, 74, 50)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """One day.

    palette: (M, 3) colours of the materials, 0..255; leaves: (4, 3), the last one evergreen; leaf_cover:
    share of a deciduous crown that is opaque; facade_tint / roof_tint: (3,) factors; sun azimuth (grid,
    clockwise from north) and elevation; sunshine: 0 overcast .. 1 clear; visibility_m; car_seed and
    car_share: which places are taken; texture: strength of surface grain.
    """

    palette: F32
    leaves: F32
    leaf_cover: float
    facade_tint: F32
    roof_tint: F32
    sun_azimuth_deg: float
    sun_elevation_deg: float
    sunshine: float
    sky: F32
    visibility_m: float
    car_seed: int
    car_share: float
    texture: float


def draw_appearance(
    season: Season, difficulty: Difficulty, rng: np.random.Generator, *, from_above: bool
) -> Appearance:
    """A day in a season. Orthophotos are flown in sun or thin cloud; street images are taken on any day."""
    k = _STRENGTH[difficulty]
    palette = np.array(_BASE, np.float32)
    palette *= np.exp(
        rng.normal(0, 0.16 * k, (len(_BASE), 1)) + rng.normal(0, 0.06 * k, (len(_BASE), 3))
    ).astype(np.float32)
    palette[list(_PLANTS)] *= np.array(_GRASS_TINT[season], np.float32)
    leaves = np.array(_LEAVES[season], np.float32) * np.exp(
        rng.normal(0, 0.12 * k, (4, 1)) + rng.normal(0, 0.05 * k, (4, 3))
    ).astype(np.float32)
    sunshine = float(rng.uniform(0.6, 1.0) if from_above else rng.choice([0.0, 0.25, 0.7, 1.0]))
    warm = float(rng.uniform(-0.12, 0.12)) * k
    return Appearance(
        palette=np.clip(palette, 4, 250),
        leaves=np.clip(leaves, 4, 250),
        leaf_cover=0.3 if season is Season.WINTER else 0.78,
        facade_tint=np.exp(rng.normal(0, 0.12 * k, 3)).astype(np.float32),
        roof_tint=np.exp(rng.normal(0, 0.10 * k, 3)).astype(np.float32),
        sun_azimuth_deg=float(rng.uniform(120, 240) if from_above else rng.uniform(70, 290)),
        sun_elevation_deg=float(rng.uniform(28, 58) if from_above else rng.uniform(12, 60)),
        sunshine=sunshine,
        sky=np.array([0.72 + warm, 0.82, 0.95 - warm], np.float32) * 235
        if sunshine > 0.5
        else np.array([0.85 + warm, 0.88, 0.9 - warm], np.float32) * 225,
        visibility_m=float(np.exp(rng.uniform(np.log(250), np.log(4000)))),
        car_seed=int(rng.integers(1 << 30)),
        car_share=float(rng.uniform(0.25, 0.85)),
        texture=float(rng.uniform(0.05, 0.16)),
    )


def draw_season(season: Season, difficulty: Difficulty, rng: np.random.Generator) -> Season:
    """The season of a street image: the orthophoto's own, or any other when the level is hard enough."""
    if rng.random() < {Difficulty.EASY: 0.0, Difficulty.NORMAL: 0.4, Difficulty.HARD: 0.7}[difficulty]:
        return list(Season)[int(rng.integers(len(Season)))]
    return season


def sun_vector(appearance: Appearance) -> tuple[float, float, float]:
    """Unit vector to the sun as (column, row, up) steps of the raster: east, south, up."""
    az, el = np.radians(appearance.sun_azimuth_deg), np.radians(appearance.sun_elevation_deg)
    return float(np.sin(az) * np.cos(el)), float(-np.cos(az) * np.cos(el)), float(np.sin(el))
