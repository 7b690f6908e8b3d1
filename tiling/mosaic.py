"""Reading a Web Mercator window from many sheets: one decode per sheet, one warp per pixel grid.

Sheets of one delivery usually share a CRS and a pixel grid. Their pixels are laid side by side in that grid first and
warped together, so interpolation runs across sheet borders and a seam cannot show. Sheets on other grids are warped on
their own and go underneath. Where sheets overlap, earlier ones win wherever they have valid pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
from affine import Affine
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.transform import from_bounds
from rasterio.warp import reproject
from rasterio.windows import Window

from tiling.grid import Bounds, lnglat_at
from tiling.sheets import Sheet, outline, unreadable

Rgba = npt.NDArray[np.uint8]  # (4, H, W)

OPAQUE = 255
MERCATOR = "EPSG:3857"
MARGIN_PX = 4  # source pixels around the window, for the interpolation kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """A rectangle of pixels in a shared pixel grid; right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def cut_to(self, other: _Span) -> _Span:
        return _Span(
            left=max(self.left, other.left),
            top=max(self.top, other.top),
            right=min(self.right, other.right),
            bottom=min(self.bottom, other.bottom),
        )

    @property
    def is_empty(self) -> bool:
        return self.left >= self.right or self.top >= self.bottom


def read_mosaic(sheets: Sequence[Sheet], bounds: Bounds, width: int, height: int) -> Rgba:
    """Pixels of an EPSG:3857 window, north up, (4, height, width): red, green, blue, alpha (0 where no sheet has data).

    Raises:
        UnreadableSheet: a sheet fails to decode.
    """
    mosaic = np.zeros((4, height, width), np.uint8)
    for group in _by_pixel_grid([sheet for sheet in sheets if _touches(sheet, bounds)]):
        layer = _read_group(group, bounds, width, height)
        if layer is not None:
            mosaic = _under(mosaic, layer)
        if mosaic[3].min() == OPAQUE:
            break
    return mosaic


def _touches(sheet: Sheet, bounds: Bounds) -> bool:
    low, high = lnglat_at(bounds[0], bounds[1]), lnglat_at(bounds[2], bounds[3])
    west, south, east, north = sheet.bounds
    if south > high.lat or north < low.lat:
        return False
    return any(west + turn <= high.lng and east + turn >= low.lng for turn in (-360, 0, 360))


def _by_pixel_grid(sheets: Sequence[Sheet]) -> list[list[Sheet]]:
    """Sheets whose pixels lie on one common grid, groups in the order of their first sheet."""
    groups: dict[tuple[Any, ...], list[Sheet]] = {}
    for sheet in sheets:
        affine = Affine(*sheet.transform)
        column, row = ~_linear(affine) * (affine.c, affine.f)
        phase = tuple(round(value % 1.0, 2) % 1.0 for value in (column, row))
        scale = tuple(f"{value:.9g}" for value in (affine.a, affine.b, affine.d, affine.e))
        groups.setdefault((sheet.crs, scale, phase), []).append(sheet)
    return list(groups.values())


def _linear(affine: Affine) -> Affine:
    return Affine(affine.a, affine.b, 0.0, affine.d, affine.e, 0.0)


def _read_group(group: Sequence[Sheet], bounds: Bounds, width: int, height: int) -> Rgba | None:
    anchor = Affine(*group[0].transform)
    wanted, ratio = _source_span(group[0].crs, anchor, bounds, width, height)
    factor = 2 ** max(0, floor(np.log2(max(ratio, 1.0))))
    spans = [_sheet_span(sheet, anchor) for sheet in group]
    window = _snap(_hull(spans).cut_to(wanted), factor)
    if window.is_empty:
        return None
    source = np.zeros((4, (window.bottom - window.top) // factor, (window.right - window.left) // factor), np.uint8)
    for sheet, span in zip(group, spans, strict=True):
        overlap = span.cut_to(window)
        if not overlap.is_empty:
            _paste_sheet(source, sheet, span, overlap, window, factor)
    if not source[3].any():
        return None
    transform = anchor @ Affine.translation(window.left, window.top) @ Affine.scale(factor)
    return _warp(source, transform, group[0].crs, bounds, width, height)


def _source_span(crs: str, anchor: Affine, bounds: Bounds, width: int, height: int) -> tuple[_Span, float]:
    """The part of the pixel grid that a window needs, and how many source pixels go into one pixel of the window."""
    ring_x, ring_y = outline(bounds[0], bounds[3], bounds[2], bounds[1])
    columns, rows = ~anchor * _from_mercator(crs).transform(ring_x, ring_y)
    area_px = 0.5 * abs(float(np.dot(columns, np.roll(rows, 1)) - np.dot(rows, np.roll(columns, 1))))
    ratio = sqrt(area_px / (width * height))
    margin = ceil(MARGIN_PX * max(ratio, 1.0))
    span = _Span(
        left=floor(columns.min()) - margin,
        top=floor(rows.min()) - margin,
        right=ceil(columns.max()) + margin,
        bottom=ceil(rows.max()) + margin,
    )
    return span, ratio


@lru_cache(maxsize=64)
def _from_mercator(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(MERCATOR, pyproj.CRS.from_wkt(crs), always_xy=True)


def _sheet_span(sheet: Sheet, anchor: Affine) -> _Span:
    column, row = ~anchor * (sheet.transform[2], sheet.transform[5])
    left, top = round(column), round(row)
    return _Span(left=left, top=top, right=left + sheet.width, bottom=top + sheet.height)


def _hull(spans: Sequence[_Span]) -> _Span:
    return _Span(
        left=min(span.left for span in spans),
        top=min(span.top for span in spans),
        right=max(span.right for span in spans),
        bottom=max(span.bottom for span in spans),
    )


def _snap(span: _Span, factor: int) -> _Span:
    """Grow to multiples of the reduction factor, so that all sheets reduce on the same cells."""
    return _Span(
        left=span.left // factor * factor,
        top=span.top // factor * factor,
        right=-(-span.right // factor) * factor,
        bottom=-(-span.bottom // factor) * factor,
    )


def _paste_sheet(source: Rgba, sheet: Sheet, span: _Span, overlap: _Span, window: _Span, factor: int) -> None:
    """Decode the overlap at the reduced resolution (GDAL picks overviews) into the free pixels of `source`."""
    try:
        with rasterio.open(sheet.path) as dataset:
            for top, bottom in _cells(overlap.top, overlap.bottom, factor):
                for left, right in _cells(overlap.left, overlap.right, factor):
                    piece = Window(left - span.left, top - span.top, right - left, bottom - top)
                    pixels = _decode(dataset, sheet.bands, piece, factor)
                    row, column = (top - window.top) // factor, (left - window.left) // factor
                    target = source[:, row : row + pixels.shape[1], column : column + pixels.shape[2]]
                    _fill_free(target, pixels)
    except RasterioError as exc:
        raise unreadable(sheet.path, exc) from exc


def _cells(start: int, stop: int, factor: int) -> Iterator[tuple[int, int]]:
    """Split a span at the first and last multiple of `factor`: whole cells in the middle, part cells at sheet edges."""
    first, last = -(-start // factor) * factor, stop // factor * factor
    if first > last:
        yield start, stop
        return
    for low, high in ((start, first), (first, last), (last, stop)):
        if low < high:
            yield low, high


def _decode(dataset: Any, bands: tuple[int, ...], window: Window, factor: int) -> Rgba:
    shape = ceil(window.height / factor), ceil(window.width / factor)
    resampling = Resampling.average if factor > 1 else Resampling.nearest
    pixels = np.empty((4, *shape), np.uint8)
    pixels[:3] = dataset.read(list(bands), window=window, out_shape=(len(bands), *shape), resampling=resampling)
    if MaskFlags.all_valid in dataset.mask_flag_enums[0]:
        pixels[3] = OPAQUE
    else:
        pixels[3] = dataset.dataset_mask(window=window, out_shape=shape, resampling=resampling)
    return pixels


def _fill_free(target: Rgba, pixels: Rgba) -> None:
    if not target[3].any():
        target[:] = pixels
        return
    free = target[3] == 0
    target[:, free] = pixels[:, free]


def _warp(source: Rgba, transform: Affine, crs: str, bounds: Bounds, width: int, height: int) -> Rgba:
    """Bilinear warp; GDAL widens its kernel when it shrinks, and keeps colours under alpha 0 out of the result."""
    layer = np.zeros((4, height, width), np.uint8)
    reproject(
        source,
        layer,
        src_transform=transform,
        src_crs=crs,
        dst_transform=from_bounds(*bounds, width, height),
        dst_crs=MERCATOR,
        resampling=Resampling.bilinear,
        src_alpha=4,
        dst_alpha=4,
        num_threads=1,  # workers are parallel already
    )
    return layer


def _under(top: Rgba, below: Rgba) -> Rgba:
    """`below` shows through where `top` is not opaque (Porter and Duff 1984, "over", straight alpha)."""
    if not top[3].any():
        return below
    alpha = top[3].astype(np.uint16)
    rest = below[3].astype(np.uint16) * (OPAQUE - alpha) // OPAQUE
    total = np.maximum(alpha + rest, 1)
    colours = (top[:3] * alpha.astype(np.uint32) + below[:3] * rest.astype(np.uint32) + total // 2) // total
    return np.concatenate([colours, (alpha + rest)[None]]).astype(np.uint8)
