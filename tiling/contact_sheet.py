"""A picture for the operator's eye: patches beside the same ground read straight from the sheets.

The left half of each pair is the patch as the model will see it. The right half is an independent reading: a
plain, unwarped square of sheet pixels around the projected patch centre, grid north up. Position and scale
must agree; north may differ by the meridian convergence, a degree or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from PIL import Image, ImageDraw
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from tiling.antimeridian import continuous_bounds
from tiling.bands import decode
from tiling.grid import WORLD_M, Block, Bounds, GridSpec, LngLat, Patch, mercator_at, plan_blocks
from tiling.ortho import Ortho, PatchImage, cut, read_window
from tiling.sheets import Sheet
from tiling.source import open_raster

COLUMNS = 5
TRIES = 8  # rounds over all blocks before giving up on finding enough imagery
OVERVIEW_PX = 900
GAP_PX = 6
LABEL_PX = 14


def write_contact_sheet(
    out: Path, ortho: Ortho, area: BaseGeometry, grid: GridSpec, *, patches: int = 50, size_px: int = 160
) -> None:
    """Write a PNG: the orthophoto with numbered squares, then numbered pairs (patch, raw sheet pixels).

    Raises:
        UnreadableSheet: a sheet fails to decode.
    """
    chosen = choose(ortho, area, grid, count=patches, size_px=size_px)
    pairs = [_pair(image, size_px) for image in chosen]
    cell_x, cell_y = 2 * size_px + 3 * GAP_PX, size_px + LABEL_PX + GAP_PX
    rows = -(-len(pairs) // COLUMNS)
    overview = _overview(ortho, [image.patch for image in chosen])
    width = max(overview.width, COLUMNS * cell_x)
    canvas = Image.new("RGB", (width, overview.height + rows * cell_y + GAP_PX), "white")
    canvas.paste(overview, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (pair, image) in enumerate(zip(pairs, chosen, strict=True)):
        x, y = index % COLUMNS * cell_x, overview.height + index // COLUMNS * cell_y
        centre = image.patch.centre
        draw.text(
            (x + 2, y + 1), f"{index + 1}  {centre.lat:.5f} {centre.lng:.5f}  patch | sheet", fill="black"
        )
        canvas.paste(pair, (x, y + LABEL_PX))
    canvas.save(out)


def choose(
    ortho: Ortho, area: BaseGeometry, grid: GridSpec, *, count: int, size_px: int, seed: int = 0
) -> list[PatchImage]:
    """Up to `count` patches full of imagery, spread over the area; the same for the same seed."""
    blocks = list(plan_blocks(area, grid))
    rng = np.random.default_rng(seed)
    chosen: list[PatchImage] = []
    for _ in range(-(-count // len(blocks)) + TRIES):
        for index in rng.permutation(len(blocks)):
            patches = blocks[index].patches
            chosen.extend(_full(ortho, patches[int(rng.integers(len(patches)))], grid, size_px))
            if len(chosen) >= count:
                return chosen
    return chosen


def _full(ortho: Ortho, patch: Patch, grid: GridSpec, size_px: int) -> list[PatchImage]:
    """The patch, if imagery fills it."""
    alone = Block(tile=patch.tile, grid=grid, members=b"\x80")
    return [image for image in cut(ortho, alone, size_px=size_px) if image.valid_fraction == 1.0]


def _pair(image: PatchImage, size_px: int) -> Image.Image:
    pair = Image.new("RGB", (2 * size_px + GAP_PX, size_px), "white")
    pair.paste(Image.fromarray(image.pixels), (0, 0))
    assert image.sheet is not None  # patches full of imagery are chosen
    raw = Image.fromarray(raw_square(image.sheet, image.patch))
    pair.paste(raw.resize((size_px, size_px), Image.Resampling.BOX), (size_px + GAP_PX, 0))
    draw = ImageDraw.Draw(pair)
    for left in (0, size_px + GAP_PX):  # the same cross-hair on both: details under it must agree
        middle_x, middle_y = left + size_px // 2, size_px // 2
        draw.line((middle_x - 6, middle_y, middle_x + 6, middle_y), fill="red")
        draw.line((middle_x, middle_y - 6, middle_x, middle_y + 6), fill="red")
    return pair


def raw_square(sheet: Sheet, patch: Patch) -> npt.NDArray[np.uint8]:
    """Sheet pixels around the patch centre without warping; black beyond the sheet."""
    to_sheet = pyproj.Transformer.from_crs("EPSG:4326", pyproj.CRS.from_wkt(sheet.crs), always_xy=True)
    x, y = to_sheet.transform(patch.centre.lng, patch.centre.lat)
    column, row = (round(value) for value in ~Affine(*sheet.transform) @ (x, y))
    half = round(patch.side_m / sheet.gsd_m / 2)
    square = np.zeros((2 * half, 2 * half, 3), np.uint8)
    left, top = max(column - half, 0), max(row - half, 0)
    right, bottom = min(column + half, sheet.width), min(row + half, sheet.height)
    with open_raster(sheet.path) as dataset:
        pixels = decode(dataset, sheet.bands, Window(left, top, right - left, bottom - top), 1)[:3]
    at_y, at_x = top - row + half, left - column + half
    square[at_y : at_y + pixels.shape[1], at_x : at_x + pixels.shape[2]] = np.moveaxis(pixels, 0, -1)
    return square


def _overview(ortho: Ortho, patches: Sequence[Patch]) -> Image.Image:
    west, south, east, north = continuous_bounds(ortho.footprint)
    bounds = *mercator_at(LngLat(lng=west, lat=south)), *mercator_at(LngLat(lng=east, lat=north))
    pixels, _ = read_window(ortho, bounds, OVERVIEW_PX)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    for index, patch in enumerate(patches):
        left, bottom, right, top = _to_pixels(patch.mercator_bounds, bounds, picture.width)
        draw.rectangle((left, top, right, bottom), outline="yellow")
        draw.text((right + 2, top - 2), str(index + 1), fill="yellow", stroke_width=1, stroke_fill="black")
    return picture


def _to_pixels(square: Bounds, bounds: Bounds, width: int) -> Bounds:
    scale = width / (bounds[2] - bounds[0])
    turn = WORLD_M * round(((bounds[0] + bounds[2]) / 2 - square[0]) / WORLD_M)
    left, right = ((x + turn - bounds[0]) * scale for x in (square[0], square[2]))
    bottom, top = ((bounds[3] - y) * scale for y in (square[1], square[3]))
    return left, bottom, right, top
