"""Overlapping sheets: which one shows, and which one a patch says it shows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from shapely.geometry import box

from tiling.grid import GridSpec, plan_blocks
from tiling.ortho import Ortho, PatchImage, cut, open_ortho

WriteSheet = Callable[..., Path]

GSD_M = 0.25
SIZE = 1200  # 300 m
GRID_1 = Affine(GSD_M, 0, 2_642_000, 0, -GSD_M, 1_130_000)
GRID_2 = GRID_1 @ Affine.translation(0.5, 0.5)


def plain(value: int, width: int = SIZE) -> npt.NDArray[np.uint8]:
    return np.full((3, SIZE, width), value, np.uint8)


def flown(year: int) -> dict[str, Any]:
    return {"name": f"{year}.tif", "tags": {"TIFFTAG_DATETIME": f"{year}:06:21 10:30:00"}}


def cut_all(ortho: Ortho) -> list[PatchImage]:
    blocks = plan_blocks(ortho.footprint, GridSpec())
    return [image for block in blocks for image in cut(ortho, block, size_px=64)]


def halves_of(ortho: Ortho, images: list[PatchImage]) -> tuple[list[PatchImage], list[PatchImage]]:
    """The patches that lie in the western and in the eastern half alone."""
    west, south, east, north = ortho.footprint.bounds
    middle = (west + east) / 2
    sides = box(west, south, middle - 1e-5, north), box(middle + 1e-5, south, east, north)
    western, eastern = ([image for image in images if image.patch.footprint.within(side)] for side in sides)
    assert western
    assert eastern
    return western, eastern


def check_years(old: Path, new: Path) -> None:
    """An old flight with nodata in its east, over a new one that is whole."""
    ortho = open_ortho([old, new])
    images = cut_all(ortho)
    western, eastern = halves_of(ortho, images)
    for side, year, value in ((western, 2018, 50), (eastern, 2024, 200)):
        for image in side:
            assert set(np.unique(image.pixels)) == {value}
            assert image.source == f"{year}.tif"
            assert image.captured_at == datetime(year, 6, 21, 10, 30, tzinfo=UTC)
    for image in images:  # along the border, what shows at the centre
        value = int(image.pixels[32, 32, 0])
        if value in (50, 200) and image.valid_fraction == 1:
            shown = image.pixels[28:36, 28:36]
            assert len(np.unique(shown)) > 1 or image.source == {50: "2018.tif", 200: "2024.tif"}[value]


def half_masked(width: int = SIZE) -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIZE, width), bool)
    mask[:, : width // 2] = True
    return mask


def test_nodata_is_no_source_on_one_pixel_grid(write_sheet: WriteSheet) -> None:
    old = write_sheet(plain(50), transform=GRID_1, mask=half_masked(), **flown(2018))
    check_years(old, write_sheet(plain(200), transform=GRID_1, **flown(2024)))


def test_nodata_is_no_source_on_another_pixel_grid(write_sheet: WriteSheet) -> None:
    old = write_sheet(plain(50), transform=GRID_1, mask=half_masked(), **flown(2018))
    check_years(old, write_sheet(plain(200), transform=GRID_2, **flown(2024)))


@pytest.mark.parametrize("start, stop, source", [(520, 700, "2018.tif"), (480, 660, "2024.tif")])
def test_around_a_hole_the_source_is_that_of_most_pixels(
    start: int, stop: int, source: str, write_sheet: WriteSheet
) -> None:
    """45 m of nothing between the old flight and the new one, nearer to one of them."""
    old, new = np.ones((2, SIZE, SIZE), bool)
    old[:, start:] = False
    new[:, :stop] = False
    paths = [
        write_sheet(plain(50), transform=GRID_1, mask=old, **flown(2018)),
        write_sheet(plain(200), transform=GRID_1, mask=new, **flown(2024)),
    ]
    images = cut_all(open_ortho(paths))
    around = [image for image in images if not image.pixels[28:36, 28:36].any() and image.valid_fraction]
    assert len(around) > 4
    assert {image.source for image in around} == {source}


def test_earlier_sheets_win_whatever_their_pixel_grids(write_sheet: WriteSheet) -> None:
    """A on grid 1 in the west, over B on grid 2, over C on grid 1: C never shows."""
    a = write_sheet(plain(50, 400), transform=GRID_1, name="a.tif")
    b = write_sheet(plain(100), transform=GRID_2, name="b.tif")
    c = write_sheet(plain(200), transform=GRID_1, name="c.tif")
    ortho = open_ortho([a, b, c])
    _, eastern = halves_of(ortho, cut_all(ortho))
    assert {int(image.pixels[32, 32, 0]) for image in eastern} == {100}
    assert {image.source for image in eastern} == {"b.tif"}
