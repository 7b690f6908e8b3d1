"""The dry run: right counts, no side effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine

from tiling.grid import GridSpec, patches_over
from tiling.ortho import Ortho, open_ortho
from workers.estimate import estimate


def test_counts_follow_grid_and_mask(ortho: Ortho, load_thumbnail: Any) -> None:
    found = estimate("town", ortho, load=load_thumbnail)
    assert found.planned == sum(1 for _ in patches_over(ortho.footprint, GridSpec()))
    assert found.expected == pytest.approx(0.75 * found.planned, rel=0.1)
    assert found.area_km2 == pytest.approx(0.32**2, rel=0.01)
    assert found.disk_mb > 0
    assert found.wall_s > 0


def test_over_the_antimeridian_all_patches_are_expected(tmp_path: Path, load_thumbnail: Any) -> None:
    crs, side = "EPSG:3460", 400
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180.0, -16.8)
    transform = Affine(0.5, 0, x - 100, 0, -0.5, y + 100)
    path = tmp_path / "fiji.tif"
    shape = {"width": side, "height": side, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape) as dataset:
        dataset.write(np.random.default_rng(0).integers(1, 256, (3, side, side), np.uint8))
    found = estimate("fiji", open_ortho([path]), load=load_thumbnail)
    assert found.planned > 30
    assert found.expected == pytest.approx(found.planned, rel=0.05)
