"""The orthophoto: its sheets as one picture, from which patches are cut block by block.

A block is read once, at twice the resolution of the patches, and every patch in it is a crop of that window
averaged 2×2. Crops start on whole pixels of the fine window: a patch sits up to a quarter of its own pixel
off centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.errors import RasterioError
from shapely.geometry.base import BaseGeometry

from tiling.bands import OPAQUE, Rgba, common_levels
from tiling.errors import NoSheets, SheetError
from tiling.grid import Block, Bounds, Patch, ground_scale
from tiling.mosaic import SOURCE_STEP, Mosaic, read_mosaic
from tiling.sheets import Sheet, find_sheets, open_sheet, unreadable
from tiling.source import digest_of

OnError = Literal["fail", "skip"]

CUT_VERSION = 2  # raise it when the same sheets give other pixels, so that vectors of old ones are not kept
OVERSAMPLING = 2
MAX_WINDOW_PX = 4096  # per side: 64 MiB of RGBA; larger blocks are read in quarters


@dataclass(frozen=True, kw_only=True)
class Ortho:
    """One or many sheets seen as one picture. Holds no open files, so it travels to workers as it is.

    Earlier sheets win where sheets overlap. `rejected` are the sheets left out under `on_error="skip"`.
    """

    sheets: tuple[Sheet, ...]
    rejected: tuple[SheetError, ...] = ()

    @cached_property
    def footprint(self) -> BaseGeometry:
        """The ground under the sheets in WGS84, nodata included."""
        return shapely.union_all([sheet.footprint for sheet in self.sheets], grid_size=1e-9)

    @property
    def gsd_m(self) -> float:
        """Ground sample distance of the coarsest sheet."""
        return max(sheet.gsd_m for sheet in self.sheets)

    def digests(self) -> tuple[str, ...]:
        """Identity of each sheet's pixels, in reading order: SHA-256 over its files, all of which are read.

        Raises:
            UnreadableSheet: a file cannot be read any more.
        """
        return tuple(map(_digest, self.sheets))

    def sheets_under(self, block: Block) -> list[int]:
        """Indices of the sheets that patches of a block may show, in reading order."""
        west, south, east, north = block.reach
        mid_west, low, mid_east, high = self._sheet_bounds.T
        inside = (low <= north) & (high >= south)
        beside = [(mid_west + turn <= east) & (mid_east + turn >= west) for turn in (-360.0, 0.0, 360.0)]
        return np.flatnonzero(inside & np.any(beside, axis=0)).tolist()

    @cached_property
    def _sheet_bounds(self) -> npt.NDArray[np.float64]:
        return np.array([sheet.bounds for sheet in self.sheets])  # (N, 4)

    def without(self, path: str) -> Ortho:
        """The same picture with one sheet less."""
        return Ortho(
            sheets=tuple(sheet for sheet in self.sheets if sheet.path != path), rejected=self.rejected
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchImage:
    """A patch with its pixels (S, S, 3), north up. `valid_fraction` is the share that shows imagery, 0 to 1.

    `sheet` is the one that the pixel at the centre comes from, or, where that is nodata, the one that most of
    the patch comes from; None without imagery.
    """

    patch: Patch
    pixels: npt.NDArray[np.uint8]
    valid_fraction: float
    sheet: Sheet | None

    @property
    def source(self) -> str:
        """File name of the sheet; empty without one."""
        return self.sheet.name if self.sheet else ""

    @property
    def captured_at(self) -> datetime | None:
        """When the sheet was taken, if it says so."""
        return self.sheet.captured_at if self.sheet else None


def open_ortho(paths: Sequence[str | Path], *, on_error: OnError = "fail") -> Ortho:
    """Open files, URLs or folders of *.tif, *.tiff (or *.vrt) in any mix of coordinate reference systems.

    Sheets are read in the order given, those of a folder by name. 16-bit and float sheets share one range of
    values, taken from all of them.

    Args:
        on_error: "fail" raises at the first bad sheet, "skip" leaves it out and lists it in `Ortho.rejected`.

    Raises:
        NoSheets: nothing there, or every sheet was rejected.
        SheetError: a bad sheet, when failing on errors.
    """
    sheets: list[Sheet] = []
    rejected: list[SheetError] = []
    for path in find_sheets(paths):
        try:
            sheets.append(open_sheet(path))
        except SheetError as error:
            if on_error == "fail":
                raise
            rejected.append(error)
    if not sheets:
        raise NoSheets(f"none of {len(rejected)} sheets is usable; the first: {rejected[0]}")
    return Ortho(sheets=_levelled(sheets), rejected=tuple(rejected))


def _digest(sheet: Sheet) -> str:
    try:
        return digest_of(sheet.path)
    except (RasterioError, OSError) as exc:
        raise unreadable(sheet.path, exc) from exc


def _levelled(sheets: Sequence[Sheet]) -> tuple[Sheet, ...]:
    levels = common_levels([sheet.bands.levels for sheet in sheets if sheet.bands.levels])
    return tuple(
        replace(sheet, bands=replace(sheet.bands, levels=levels)) if sheet.bands.deep else sheet
        for sheet in sheets
    )


def cut(ortho: Ortho, block: Block, *, size_px: int) -> Iterator[PatchImage]:
    """The patches of a block in quadkey order, `size_px` pixels wide, from one warped read.

    Raises:
        UnreadableSheet: a sheet under the block fails to decode.
    """
    patches = block.patches
    view = _View.over(patches, size_px)
    if max(view.width, view.height) > MAX_WINDOW_PX and len(patches) > 1:
        for quarter in block.split():
            yield from cut(ortho, quarter, size_px=size_px)
        return
    mosaic = read_mosaic(ortho.sheets, view.bounds, view.width, view.height)
    halves = _Halves(mosaic.pixels)
    for patch in patches:
        corner = view.corner_of(patch)
        pixels, valid_fraction = halves.crop(*corner, size_px)
        number = _source_of(mosaic, *corner, size_px)
        yield PatchImage(
            patch=patch,
            pixels=pixels,
            valid_fraction=valid_fraction,
            sheet=ortho.sheets[number - 1] if number else None,
        )


def read_window(
    ortho: Ortho, bounds_mercator: Bounds, size_px: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Any EPSG:3857 window, north up, longer side `size_px`: pixels (H, W, 3), alpha (H, W).

    Raises:
        UnreadableSheet: a sheet under the window fails to decode.
    """
    west, south, east, north = bounds_mercator
    scale = size_px / max(east - west, north - south)
    width, height = (max(1, round(extent * scale)) for extent in (east - west, north - south))
    rgba = read_mosaic(ortho.sheets, bounds_mercator, width, height).pixels
    return np.ascontiguousarray(np.moveaxis(rgba[:3], 0, -1)), rgba[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """A window in EPSG:3857 and its fine pixels, square on the ground rather than in Mercator metres."""

    west: float
    north: float
    pixel_x: float  # Mercator metres
    pixel_y: float
    width: int
    height: int
    size_px: int

    @classmethod
    def over(cls, patches: Sequence[Patch], size_px: int) -> _View:
        squares = np.array([patch.mercator_bounds for patch in patches])
        west, south = squares[:, :2].min(axis=0)
        east, north = squares[:, 2:].max(axis=0)
        middle = patches[len(patches) // 2]
        pixel_m = middle.side_m / (OVERSAMPLING * size_px)
        east_scale, north_scale = ground_scale(middle.centre.lat)
        pixel_x, pixel_y = pixel_m / east_scale, pixel_m / north_scale
        return cls(
            west=float(west),
            north=float(north),
            pixel_x=pixel_x,
            pixel_y=pixel_y,
            width=int(np.ceil((east - west) / pixel_x))
            + 1,  # +1: a crop starting on the last rounded-up pixel fits
            height=int(np.ceil((north - south) / pixel_y)) + 1,
            size_px=size_px,
        )

    @property
    def bounds(self) -> Bounds:
        return (
            self.west,
            self.north - self.height * self.pixel_y,
            self.west + self.width * self.pixel_x,
            self.north,
        )

    def corner_of(self, patch: Patch) -> tuple[int, int]:
        """Top-left fine pixel (column, row) of a patch; its centre is off by at most half a fine pixel."""
        x, y = patch.centre_mercator
        column = round((x - self.west) / self.pixel_x - self.size_px)
        row = round((self.north - y) / self.pixel_y - self.size_px)
        limit_x, limit_y = (size - OVERSAMPLING * self.size_px for size in (self.width, self.height))
        return min(max(column, 0), limit_x), min(max(row, 0), limit_y)


class _Halves:
    """The fine window averaged 2×2 from each of the four starting pixels that a crop can need, once."""

    def __init__(self, fine: Rgba) -> None:
        self._fine = fine
        self._opaque = bool(fine[3].min() == OPAQUE)
        self._empty = not fine[3].any()
        self._made: dict[tuple[int, int], tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]] = {}

    def crop(self, column: int, row: int, size_px: int) -> tuple[npt.NDArray[np.uint8], float]:
        """Pixels (S, S, 3) of the crop starting at a fine pixel, and the share of them that shows imagery."""
        if self._empty:
            return np.zeros((size_px, size_px, 3), np.uint8), 0.0
        start = row % 2, column % 2
        if start not in self._made:
            self._made[start] = self._halve(*start)
        colours, alpha = self._made[start]
        inside = np.s_[row // 2 : row // 2 + size_px, column // 2 : column // 2 + size_px]
        valid_fraction = 1.0 if self._opaque else float(alpha[inside].mean(dtype=np.float64)) / OPAQUE
        return colours[inside].copy(), valid_fraction

    def _halve(self, row: int, column: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Colours (H // 2, W // 2, 3), weighted so that nodata darkens no edge; alpha (H // 2, W // 2)."""
        height, width = (
            (size - start) // 2 for size, start in zip(self._fine.shape[1:], (row, column), strict=True)
        )
        fine = self._fine[:, row : row + 2 * height, column : column + 2 * width]
        if self._opaque:
            colours, alpha = (_sum_2x2(fine[:3]) + 2) >> 2, np.empty((0, 0), np.uint8)
        else:
            weight = _sum_2x2(fine[3])
            weighted = _sum_2x2(fine[:3] * fine[3].astype(np.uint16), np.uint32)
            colours, alpha = (
                (weighted + weight // 2) // np.maximum(weight, 1),
                ((weight + 2) >> 2).astype(np.uint8),
            )
        return np.ascontiguousarray(np.moveaxis(colours.astype(np.uint8), 0, -1)), alpha


def _sum_2x2(fine: npt.NDArray[Any], dtype: type[np.unsignedinteger[Any]] = np.uint16) -> npt.NDArray[Any]:
    rows = np.add(fine[..., ::2, :], fine[..., 1::2, :], dtype=dtype)
    return np.asarray(rows[..., ::2] + rows[..., 1::2])


def _source_of(mosaic: Mosaic, column: int, row: int, size_px: int) -> int:
    """Number of the sheet at the centre of a crop, else of the most frequent one in it; 0 without imagery."""
    number = int(mosaic.sources[(row + size_px) // SOURCE_STEP, (column + size_px) // SOURCE_STEP])
    if number:
        return number
    rows, columns = (
        slice(start // SOURCE_STEP, (start + OVERSAMPLING * size_px - 1) // SOURCE_STEP + 1)
        for start in (row, column)
    )
    shown = mosaic.sources[rows, columns]
    numbers, counts = np.unique(shown[shown > 0], return_counts=True)
    return int(numbers[counts.argmax()]) if len(numbers) else 0
