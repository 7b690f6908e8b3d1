"""Reading pixels: sheets as one picture, masks, resolutions, windows."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from shapely.geometry import box

from tiling.grid import GridSpec, LngLat, mercator_at, plan_blocks
from tiling.ortho import Ortho, PatchImage, cut, open_ortho, read_window

Pixels = npt.NDArray[np.uint8]
WriteSheet = Callable[..., Path]
Noise = Callable[..., Pixels]

WEST, NORTH, GSD_M = 2_642_000.0, 1_130_000.0, 0.25
SIZE = 1200  # 300 m


def placed(column: int, row: int, gsd_m: float = GSD_M) -> Affine:
    """The geotransform of a sheet whose corner lies at a pixel of the common grid."""
    return Affine(gsd_m, 0, WEST + column * GSD_M, 0, -gsd_m, NORTH - row * GSD_M)


def cut_all(ortho: Ortho, *, grid: GridSpec | None = None, size_px: int = 64) -> dict[str, PatchImage]:
    """Every patch of an orthophoto by quadkey."""
    blocks = plan_blocks(ortho.footprint, grid or GridSpec())
    images = (image for block in blocks for image in cut(ortho, block, size_px=size_px))
    return {image.patch.quadkey: image for image in images}


def differences(one: dict[str, PatchImage], other: dict[str, PatchImage]) -> int:
    """The largest difference of any pixel of any patch of the first in the second."""
    return max(
        int(np.abs(image.pixels.astype(int) - other[key].pixels.astype(int)).max())
        for key, image in one.items()
    )


@pytest.mark.parametrize("border", [600, 603])
@pytest.mark.parametrize("size_px", [32, 64, 128])
def test_a_patch_across_a_sheet_border_equals_that_of_the_merged_sheet(
    border: int, size_px: int, write_sheet: WriteSheet, noise: Noise
) -> None:
    pixels = noise(SIZE, SIZE)
    merged = open_ortho([write_sheet(pixels, name="merged.tif", transform=placed(0, 0))])
    parts = [
        write_sheet(pixels[:, :border, :border], name="nw.tif", transform=placed(0, 0)),
        write_sheet(pixels[:, :border, border:], name="ne.tif", transform=placed(border, 0)),
        write_sheet(pixels[:, border:, :border], name="sw.tif", transform=placed(0, border)),
        write_sheet(pixels[:, border:, border:], name="se.tif", transform=placed(border, border)),
    ]
    assert differences(cut_all(open_ortho(parts), size_px=size_px), cut_all(merged, size_px=size_px)) <= 8


def test_sheets_in_different_crs_join_without_a_gap(write_sheet: WriteSheet) -> None:
    grey = np.full((3, SIZE, SIZE), 100, np.uint8)
    swiss = write_sheet(grey[:, :, :600], name="swiss.tif", transform=placed(0, 0))
    other = write_sheet(grey, name="other.tif", transform=Affine(0.3, 0, 2_642_130.0, 0, -0.3, NORTH))
    ortho = open_ortho([swiss, other])
    inside = [image for image in cut_all(ortho).values() if ortho.footprint.contains(image.patch.footprint)]
    assert inside
    assert all(image.valid_fraction > 0.999 for image in inside)
    assert all(np.abs(image.pixels.astype(int) - 100).max() <= 1 for image in inside)


def test_later_sheets_never_overwrite_valid_pixels_of_earlier_ones(write_sheet: WriteSheet) -> None:
    def plain(value: int) -> Pixels:
        return np.full((3, SIZE, SIZE), value, np.uint8)

    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, :600] = True
    first = write_sheet(plain(50), name="a.tif", transform=placed(0, 0), mask=mask)
    second = write_sheet(plain(200), name="b.tif", transform=placed(0, 0))
    for ortho, west_value in ((open_ortho([first, second]), 50), (open_ortho([second, first]), 200)):
        west, south, east, north = ortho.footprint.bounds
        middle = (west + east) / 2
        for image in cut_all(ortho).values():
            if image.patch.footprint.within(box(west, south, middle - 1e-5, north)):
                assert set(np.unique(image.pixels)) == {west_value}
            if image.patch.footprint.within(box(middle + 1e-5, south, east, north)):
                assert set(np.unique(image.pixels)) == {200}


@pytest.mark.parametrize("kind", ["mask", "nodata", "alpha"])
def test_valid_fraction_counts_imagery_alone(kind: str, write_sheet: WriteSheet) -> None:
    pixels = np.full((3, SIZE, SIZE), 180, np.uint8)
    mask = np.ones((SIZE, SIZE), bool)
    mask[:, 600:] = False
    match kind:
        case "mask":
            path = write_sheet(pixels, mask=mask)
        case "nodata":
            path = write_sheet(np.where(mask, pixels, 0).astype(np.uint8), nodata=0)
        case _:
            rgba = np.concatenate([pixels, mask[None].astype(np.uint8) * 255])
            path = write_sheet(rgba, photometric="RGB", alpha="YES")
    ortho = open_ortho([path])
    half = box(*ortho.footprint.bounds)
    west, south, east, north = half.bounds
    data = box(west, south, (west + east) / 2, north)
    for image in cut_all(ortho).values():
        share = image.patch.footprint.intersection(data).area / image.patch.footprint.area
        assert image.valid_fraction == pytest.approx(share, abs=0.03)
        colours = image.pixels[image.pixels.max(axis=2) > 0]
        assert np.all(np.abs(colours.astype(int) - 180) <= 2)  # nodata bleeds into no colour


def test_the_first_sheet_over_the_centre_is_the_source(write_sheet: WriteSheet) -> None:
    pixels = np.full((3, SIZE, SIZE), 90, np.uint8)
    path = write_sheet(pixels, name="flight.tif", tags={"TIFFTAG_DATETIME": "2023:06:21 10:30:00"})
    image = next(iter(cut_all(open_ortho([path])).values()))
    assert image.source == "flight.tif"
    assert image.captured_at == datetime(2023, 6, 21, 10, 30, tzinfo=UTC)


def test_grey_imagery_becomes_rgb(write_sheet: WriteSheet, noise: Noise) -> None:
    images = cut_all(open_ortho([write_sheet(noise(SIZE, SIZE)[:1])]))
    assert all(np.ptp(image.pixels, axis=2).max() == 0 for image in images.values())


def test_infrared_bands_are_left_out(write_sheet: WriteSheet, noise: Noise) -> None:
    rgb = noise(SIZE, SIZE)
    four = np.concatenate([rgb, np.full((1, SIZE, SIZE), 255, np.uint8)])
    plain = cut_all(open_ortho([write_sheet(rgb, name="rgb.tif")]))
    assert differences(cut_all(open_ortho([write_sheet(four, name="rgbn.tif")])), plain) == 0


@pytest.mark.parametrize("finer", [1.0, 1.45, 1.6, 2.9, 3.1, 7.0])
def test_fine_texture_is_averaged_not_aliased(finer: float, write_sheet: WriteSheet) -> None:
    gsd_m = 70 / 64 / 2 / finer  # `finer` source pixels per pixel of the window
    size = round(110 / gsd_m)
    board = (np.add.outer(np.arange(size), np.arange(size)) % 2 * 255).astype(np.uint8)
    path = write_sheet(np.stack([board] * 3), transform=placed(0, 0, gsd_m))
    inside = [image for image in cut_all(open_ortho([path])).values() if image.valid_fraction == 1.0]
    assert inside
    contrast = max(float(image.pixels.astype(float).std()) for image in inside)
    assert contrast < 32  # a quarter of the checkerboard's 127


def test_a_large_block_is_read_in_quarters_with_the_same_result(
    write_sheet: WriteSheet, noise: Noise
) -> None:
    ortho = open_ortho([write_sheet(noise(SIZE, SIZE))])
    size_px = 512  # 11 tiles of 26 m at 0.07 m per pixel exceed the window limit
    images = cut_all(ortho, size_px=size_px)
    assert len(images) > 50
    alone = [
        block
        for block in plan_blocks(ortho.footprint, GridSpec(), tiles_per_side=1)
        if block.patches[0].quadkey.endswith("33")
    ]
    single = {image.patch.quadkey: image for block in alone for image in cut(ortho, block, size_px=size_px)}
    worst = [
        float(np.abs(image.pixels.astype(int) - images[key].pixels.astype(int)).mean())
        for key, image in single.items()
    ]
    assert max(worst) < 2.0  # half a fine pixel of shift at most


def test_coarse_zoom_reads_only_what_patches_show(write_sheet: WriteSheet, noise: Noise) -> None:
    images = cut_all(open_ortho([write_sheet(noise(SIZE, SIZE))]), grid=GridSpec(zoom=18))
    assert {image.pixels.shape for image in images.values()} == {(64, 64, 3)}


def test_read_window_shows_any_extent(write_sheet: WriteSheet, noise: Noise) -> None:
    ortho = open_ortho([write_sheet(noise(SIZE, SIZE))])
    west, south, east, north = ortho.footprint.bounds
    bounds = *mercator_at(LngLat(lng=west, lat=south)), *mercator_at(LngLat(lng=east, lat=north))
    pixels, alpha = read_window(ortho, bounds, 150)
    assert max(pixels.shape[:2]) == 150
    assert pixels.shape[:2] == alpha.shape
    assert (alpha == 255).mean() > 0.9


def test_outside_all_sheets_nothing_is_valid(write_sheet: WriteSheet, noise: Noise) -> None:
    ortho = open_ortho([write_sheet(noise(SIZE, SIZE))])
    blocks = list(plan_blocks(box(10.0, 50.0, 10.001, 50.001), GridSpec()))
    images = [image for block in blocks for image in cut(ortho, block, size_px=64)]
    assert all(image.valid_fraction == 0 and image.source == "" for image in images)


def test_an_orthophoto_travels_and_still_reads(write_sheet: WriteSheet, noise: Noise) -> None:
    ortho = open_ortho([write_sheet(noise(SIZE, SIZE))])
    assert differences(cut_all(pickle.loads(pickle.dumps(ortho))), cut_all(ortho)) == 0


def test_digest_follows_content(write_sheet: WriteSheet, noise: Noise) -> None:
    pixels = noise(SIZE, SIZE)
    before = open_ortho([write_sheet(pixels)]).digests()
    assert open_ortho([write_sheet(pixels)]).digests() == before
    pixels[0, 600, 600] ^= 255
    assert open_ortho([write_sheet(pixels)]).digests() != before


@pytest.mark.parametrize("tiles_per_side", [1, 16])
def test_sheets_under_a_block_are_all_that_its_patches_show(
    tiles_per_side: int, write_sheet: WriteSheet, noise: Noise
) -> None:
    """Without the others, not one pixel changes."""
    side = 400
    paths = [
        write_sheet(
            noise(side, side, row * 3 + column),
            name=f"{row}{column}.tif",
            transform=placed(column * side, row * side),
        )
        for row in range(3)
        for column in range(3)
    ]
    ortho = open_ortho(paths)
    left_out = 0
    for block in plan_blocks(ortho.footprint, GridSpec(), tiles_per_side=tiles_per_side):
        below = ortho.sheets_under(block)
        left_out += len(paths) - len(below)
        part = open_ortho([paths[index] for index in below])
        for image, same in zip(*(cut(each, block, size_px=32) for each in (ortho, part)), strict=True):
            assert np.array_equal(image.pixels, same.pixels)
            assert (image.valid_fraction, image.source) == (same.valid_fraction, same.source)
    assert left_out > 0
