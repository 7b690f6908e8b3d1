"""A toy world for the network's tests: coloured cylinders on a striped plane, seen from above and from
the street."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clnet_model.checkpoint import save_checkpoint
from clnet_model.data import GeoPairs
from clnet_model.model import CLNet, CLNetConfig
from clnet_model.preprocess import CanvasSpec

GSD_M = 70.0 / 128


def render_toy(
    *,
    seed: int,
    size_m: float = 300.0,
    streets: int = 200,
    stride_m: float = 24.0,
    canvas: CanvasSpec | None = None,
    patch_px: int = 128,
    margin_px: int = 0,
) -> GeoPairs:
    """A city of `size_m` squared with `streets` panoramas and patches on a regular grid."""
    spec = canvas or CanvasSpec()
    rng = np.random.default_rng(seed)
    gsd_m = 70.0 / patch_px
    pad_m = 45.0 + margin_px * gsd_m
    side_px = int((size_m + 2 * pad_m) / gsd_m)
    objects = int((size_m + 2 * pad_m) ** 2 / 160)
    place = rng.uniform(-pad_m, size_m + pad_m, (objects, 2))
    radius = rng.uniform(1.0, 4.5, objects)
    height = rng.uniform(2.0, 12.0, objects)
    colour = rng.uniform(30, 250, (objects, 3))
    world = np.repeat(
        np.repeat(rng.uniform(70, 180, (side_px // 16 + 1, side_px // 16 + 1, 3)), 16, 0), 16, 1
    )
    world = world[:side_px, :side_px]
    for (x, y), r, c in zip(place, radius, colour, strict=True):
        col, row = (x + pad_m) / gsd_m, side_px - (y + pad_m) / gsd_m
        reach = int(r / gsd_m) + 1
        r0, r1, c0, c1 = int(row) - reach, int(row) + reach + 1, int(col) - reach, int(col) + reach + 1
        r0, c0 = max(r0, 0), max(c0, 0)
        yy, xx = np.mgrid[r0 : min(r1, side_px), c0 : min(c1, side_px)]
        inside = np.hypot(yy - row, xx - col) * gsd_m <= r
        world[r0:r1, c0:c1][inside] = c
    world = world.astype(np.uint8)
    street = rng.uniform(12, size_m - 12, (streets, 2))
    canvases = np.stack(
        [_panorama(xy, world, gsd_m, pad_m, place, radius, height, colour, spec) for xy in street]
    )
    centres = np.arange(stride_m / 2, size_m, stride_m)
    patch_xy = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    half = patch_px // 2 + margin_px
    patches = []
    for x, y in patch_xy:
        col, row = int((x + pad_m) / gsd_m), side_px - int((y + pad_m) / gsd_m)
        patches.append(world[row - half : row + half, col - half : col + half])
    return GeoPairs(
        city=f"toy-{seed}",
        canvases=canvases,
        street_xy_m=street,
        hfov_deg=np.full(streets, 360.0, np.float32),
        patches=np.stack(patches),
        patch_xy_m=patch_xy,
        margin_px=margin_px,
        gsd_m=gsd_m,
    )


def _panorama(
    xy: NDArray[np.float64],
    world: NDArray[np.uint8],
    gsd_m: float,
    pad_m: float,
    place: NDArray[np.float64],
    radius: NDArray[np.float64],
    height: NDArray[np.float64],
    colour: NDArray[np.float64],
    spec: CanvasSpec,
) -> NDArray[np.uint8]:
    azimuth = np.radians((np.arange(spec.width_px) + 0.5) * 360 / spec.width_px - 180)
    elevation = np.radians(
        spec.elevation_max_deg - (np.arange(spec.height_px) + 0.5) * spec.elevation_span_deg / spec.height_px
    )
    canvas = np.full((spec.height_px, spec.width_px, 4), (170, 200, 230, 255), np.uint8)
    down = elevation < np.radians(-2)
    distance = np.minimum(2.5 / np.tan(-elevation[down]), 40)[:, None]
    col = ((xy[0] + distance * np.sin(azimuth) + pad_m) / gsd_m).astype(int)
    row = (len(world) - (xy[1] + distance * np.cos(azimuth) + pad_m) / gsd_m).astype(int)
    canvas[down, :, :3] = world[row.clip(0, len(world) - 1), col.clip(0, len(world) - 1)]
    offset = place - xy
    reach = np.hypot(*offset.T)
    for i in np.argsort(-reach):
        if not radius[i] + 0.5 < reach[i] < 45:
            continue
        turn = np.angle(np.exp(1j * (azimuth - np.arctan2(offset[i, 0], offset[i, 1]))))
        columns = np.abs(turn) <= np.arcsin(radius[i] / reach[i])
        top, bottom = np.arctan2(height[i] - 2.5, reach[i]), np.arctan2(-2.5, reach[i])
        rows = (elevation <= top) & (elevation >= bottom)
        canvas[np.ix_(rows, columns, [0, 1, 2])] = colour[i]
    return canvas


@pytest.fixture(scope="session")
def toy_city() -> Callable[..., GeoPairs]:
    return render_toy


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, tiny: Callable[..., CLNetConfig]) -> Path:
    """A random tiny checkpoint on disk."""
    folder = tmp_path / "tiny"
    save_checkpoint(folder, CLNet(tiny()), provenance={"seed": 0})
    return folder
