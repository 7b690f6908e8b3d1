"""A tiny town for the tests of commands: a random network and textured ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from clnet_model.checkpoint import save_checkpoint
from clnet_model.model import BackboneConfig, CLNet, CLNetConfig
from clnet_model.preprocess import CanvasSpec


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `tiny`, a `sheet.tif` of 200 m and a `large.tif` of 400 m."""
    root = tmp_path_factory.mktemp("town")
    config = CLNetConfig(
        backbone=BackboneConfig(hidden_sizes=(8, 16, 24), depths=(1, 1, 1)),
        canvas=CanvasSpec(height_px=32, width_px=128),
        patch_px=64,
        token_dim=16,
        latent_azimuths=16,
        latent_ranges=2,
        azimuth_channels=4,
    )
    save_checkpoint(root / "tiny", CLNet(config), provenance={"seed": 0})
    for name, cells in (("sheet.tif", 50), ("large.tif", 100)):
        coarse = np.random.default_rng(0).integers(1, 256, (3, cells, cells), np.uint8)
        with rasterio.open(
            root / name, "w", driver="GTiff", width=8 * cells, height=8 * cells, count=3, dtype="uint8",
            crs="EPSG:2056", transform=from_origin(2_642_000, 1_130_000, 0.5, 0.5),
        ) as file:  # fmt: skip
            file.write(coarse.repeat(8, axis=1).repeat(8, axis=2))
    return root
