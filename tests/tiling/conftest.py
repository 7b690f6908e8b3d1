"""Synthetic sheets: small GeoTIFFs with known colours at known places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine

Pixels = npt.NDArray[np.uint8]
WriteSheet = Callable[..., Path]


@pytest.fixture
def write_sheet(tmp_path: Path) -> WriteSheet:
    """write_sheet(pixels (bands, H, W), name=, crs=, transform=, mask=, **profile) -> path."""

    def write(
        pixels: npt.NDArray[Any],
        *,
        name: str = "sheet.tif",
        crs: str | None = "EPSG:2056",
        transform: Affine | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
        tags: dict[str, str] | None = None,
        **profile: Any,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        placed = Affine(0.25, 0, 2_642_000, 0, -0.25, 1_130_000) if transform is None else transform
        shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
        profile = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, **profile}
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path, "w", **shape, dtype=pixels.dtype, crs=crs, transform=placed, **profile
            ) as dataset,
        ):
            dataset.write(pixels)
            dataset.update_tags(**(tags or {}))
            if mask is not None:
                dataset.write_mask(mask)
        return path

    return write


@pytest.fixture
def noise() -> Callable[..., Pixels]:
    """noise(height, width, seed=0) -> (3, H, W): every place looks different, no detail under 8 pixels."""
    return smooth_noise


def smooth_noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Random colours on a coarse grid, interpolated."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, height // 8 + 2, width // 8 + 2)).astype(float)
    rows, columns = np.arange(height) / 8, np.arange(width) / 8
    y, x = rows.astype(int), columns.astype(int)
    fy, fx = (rows - y)[:, None], (columns - x)[None]
    top = coarse[:, y][:, :, x] * (1 - fx) + coarse[:, y][:, :, x + 1] * fx
    bottom = coarse[:, y + 1][:, :, x] * (1 - fx) + coarse[:, y + 1][:, :, x + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy, np.uint8)
