"""A tiny town for the tests of commands: a random network and textured ground."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from clnet_model.checkpoint import save_checkpoint
from clnet_model.model import CLNet, CLNetConfig


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., CLNetConfig]) -> Path:
    """A tiny random network."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    save_checkpoint(folder, CLNet(tiny()), provenance={"seed": 0})
    return folder


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A folder with the checkpoint `tiny`, a `sheet.tif` of 200 m and a `large.tif` of 400 m."""
    root = tmp_path_factory.mktemp("town")
    shutil.copytree(checkpoint, root / "tiny")
    for name, cells in (("sheet.tif", 50), ("large.tif", 100)):
        coarse = np.random.default_rng(0).integers(1, 256, (3, cells, cells), np.uint8)
        with rasterio.open(
            root / name, "w", driver="GTiff", width=8 * cells, height=8 * cells, count=3, dtype="uint8",
            crs="EPSG:2056", transform=from_origin(2_642_000, 1_130_000, 0.5, 0.5),
        ) as file:  # fmt: skip
            file.write(coarse.repeat(8, axis=1).repeat(8, axis=2))
    return root
