"""Joint geometry of both views, and what a batch holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clnet_model.augment import AugmentConfig, Augmenter, WorldTurn, noise_field
from clnet_model.data import GeoPairs
from clnet_model.preprocess import CanvasSpec
from clnet_model.sampling import BatchRows

SPEC = CanvasSpec()


def world_with_object(azimuth_deg: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A canvas with a bright column and a patch with a bright spot, both at one azimuth from the centre."""
    canvas = np.zeros((64, 256, 4), np.uint8)
    canvas[..., 3] = 255
    canvas[:, round((azimuth_deg + 180) / 360 * 256) % 256, :3] = 255
    patch = np.zeros((128, 128, 3), np.uint8)
    column = round(63.5 + 40 * np.sin(np.radians(azimuth_deg)))
    row = round(63.5 - 40 * np.cos(np.radians(azimuth_deg)))
    patch[row - 1 : row + 2, column - 1 : column + 2] = 255
    return canvas, patch


def canvas_azimuth(canvas: NDArray[np.uint8]) -> float:
    column = canvas[..., 0].astype(float).sum(axis=0).argmax()
    return float((column + 0.5) * 360 / 256 - 180)


def patch_azimuth(patch: NDArray[np.uint8]) -> float:
    rows, columns = np.nonzero(patch[..., 0])
    return float(np.degrees(np.arctan2(columns.mean() - 63.5, 63.5 - rows.mean())))


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_an_object_in_the_east_stays_at_one_azimuth_in_both_views(quarters: int, mirror: bool) -> None:
    canvas, patch = world_with_object(90.0)
    turn = WorldTurn(quarters=quarters, mirror=mirror)
    seen, from_above = canvas_azimuth(turn.canvas(canvas)), patch_azimuth(turn.patch(patch))
    assert abs((seen - from_above + 180) % 360 - 180) < 2.5
    expected = (-90.0 if mirror else 90.0) - 90.0 * quarters
    assert abs((seen - expected + 180) % 360 - 180) < 2.5


def one_place(toy_city: Callable[..., GeoPairs]) -> tuple[GeoPairs, BatchRows]:
    city = toy_city(seed=0, size_m=96, streets=6, margin_px=16)
    return city, BatchRows(city=0, street=np.arange(6), patches=np.arange(9))


def test_without_augmentation_images_stay_as_they_are(toy_city: Callable[..., GeoPairs]) -> None:
    city, rows = one_place(toy_city)
    batch = Augmenter(AugmentConfig.off(), SPEC, seed=0)(city, rows)
    assert np.array_equal(batch.canvases.numpy().transpose(0, 2, 3, 1), city.canvases)
    assert np.array_equal(batch.patches.numpy().transpose(0, 2, 3, 1), city.centre_patches(rows.patches))


def test_moved_patches_report_their_moved_distance(toy_city: Callable[..., GeoPairs]) -> None:
    city, rows = one_place(toy_city)
    config = replace(AugmentConfig.off(), shift_patches=True)
    moved = Augmenter(config, SPEC, seed=0)(city, rows).distance_m
    still = Augmenter(AugmentConfig.off(), SPEC, seed=0)(city, rows).distance_m
    assert 0 < float((moved - still).abs().max()) <= np.hypot(16, 16) * city.gsd_m + 1e-3


def test_values_stay_in_range_and_masks_hide_pixels(toy_city: Callable[..., GeoPairs]) -> None:
    city, rows = one_place(toy_city)
    config = replace(AugmentConfig(), limited_fov_share=1.0)
    batch = Augmenter(config, SPEC, seed=1)(city, rows)
    assert float(batch.canvases.min()) >= 0
    assert float(batch.canvases.max()) <= 255
    hidden = batch.canvases[:, 3:] == 0
    assert 0.1 < float(hidden.float().mean()) < 0.95
    assert float((batch.canvases[:, :3] * hidden).abs().max()) == 0


def test_same_seed_gives_the_same_batch(toy_city: Callable[..., GeoPairs]) -> None:
    city, rows = one_place(toy_city)
    first, second = (Augmenter(AugmentConfig(), SPEC, seed=3)(city, rows) for _ in range(2))
    assert first.canvases.equal(second.canvases)
    assert first.patches.equal(second.patches)


def test_scaling_weakens_appearance_and_keeps_geometry() -> None:
    half = AugmentConfig().scaled(0.5)
    assert half.colour_mix == AugmentConfig().colour_mix / 2
    assert half.turns


def test_batches_of_a_run_may_share_one_field_of_noise(toy_city: Callable[..., GeoPairs]) -> None:
    city, rows = one_place(toy_city)
    field = noise_field(3, torch.device("cpu"), canvas=SPEC, patch_px=128)
    own, shared = (
        Augmenter(AugmentConfig(), SPEC, seed=3, noise=noise)(city, rows) for noise in (None, field)
    )
    assert own.patches.equal(shared.patches)


@pytest.mark.parametrize(("spec", "patch_px"), [(SPEC, 420), (CanvasSpec(height_px=256, width_px=1024), 64)])
def test_large_images_get_noise_too(spec: CanvasSpec, patch_px: int) -> None:
    city = GeoPairs(
        city="grey",
        canvases=np.full((1, spec.height_px, spec.width_px, 4), 128, np.uint8),
        street_xy_m=np.zeros((1, 2)),
        hfov_deg=np.full(1, 360.0, np.float32),
        patches=np.full((1, patch_px, patch_px, 3), 128, np.uint8),
        patch_xy_m=np.zeros((1, 2)),
    )
    rows = BatchRows(city=0, street=np.arange(1), patches=np.arange(1))
    batch = Augmenter(replace(AugmentConfig.off(), noise_max=10.0), spec, seed=0)(city, rows)
    assert float(batch.patches.std()) > 0
    assert float(batch.canvases[:, :3].std()) > 0
