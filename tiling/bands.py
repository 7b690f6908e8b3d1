"""What the bands of a sheet mean, and decoding a window of them to 8-bit red, green, blue and alpha."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.windows import Window

from tiling.errors import NotAnOrthophoto

Rgba = npt.NDArray[np.uint8]  # (4, H, W)

OPAQUE = 255
DEEP_DTYPES = ("uint16", "int16", "float32", "float64")  # brought to 8 bits by levels
LEVEL_PERCENTILES = (0.5, 99.5)  # of the valid values: a glint or a dead pixel must not darken the rest
SAMPLES = 5  # windows per axis, where there is no overview to look at
SAMPLE_PX = 48
OVERVIEW_PX = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Bands:
    """How to make colours from a file's bands.

    `indexes` are the 1-based red, green, blue, or one grey band, or the one band of a palette. `levels` are
    the values that become black and white; None for 8-bit bands and for a sheet without a valid value.
    """

    indexes: tuple[int, ...]
    dtype: str
    palette: tuple[tuple[int, int, int, int], ...] | None = None
    levels: tuple[float, float] | None = None

    @property
    def deep(self) -> bool:
        """Whether values need `levels` to become 8 bits."""
        return self.dtype in DEEP_DTYPES


def find_bands(path: str, dataset: Any) -> Bands:
    """Find out which bands hold colours, and their range where they are not 8-bit.

    Raises:
        NotAnOrthophoto: not imagery, or it does not say which bands are red, green and blue.
    """
    dtype = dataset.dtypes[0]
    _check_dtype(path, dataset, dtype)
    if dataset.colorinterp[0] is ColorInterp.palette:
        return Bands(indexes=(1,), dtype=dtype, palette=_palette(path, dataset))
    indexes = _colour_bands(path, dataset)
    levels = _sampled_levels(dataset, indexes) if dtype in DEEP_DTYPES else None
    return Bands(indexes=indexes, dtype=dtype, levels=levels)


def decode(dataset: Any, bands: Bands, window: Window, factor: int) -> Rgba:
    """A window at 1/`factor` of its resolution (GDAL picks overviews); a part cell at its end is a pixel."""
    if bands.palette is not None:
        return _decode_palette(dataset, bands.palette, window, factor)
    shape = ceil(window.height / factor), ceil(window.width / factor)
    resampling = Resampling.average if factor > 1 else Resampling.nearest
    pixels = np.zeros((4, *shape), np.uint8)
    if MaskFlags.all_valid in dataset.mask_flag_enums[0]:
        pixels[3] = OPAQUE
    else:
        pixels[3] = dataset.dataset_mask(window=window, out_shape=shape, resampling=resampling)
    if pixels[3].any():  # colours are the costly part
        out_shape = (len(bands.indexes), *shape)
        values = dataset.read(list(bands.indexes), window=window, out_shape=out_shape, resampling=resampling)
        pixels[:3] = to_8_bits(values, bands.levels) if bands.deep else values
        if values.dtype.kind == "f":  # NaN is no imagery, whether or not a tag says so
            pixels[3][~np.isfinite(values).all(axis=0)] = 0
    return pixels


def to_8_bits(values: npt.NDArray[Any], levels: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
    """Values between black and white as 0 to 255."""
    black, white = levels or (0.0, 1.0)
    scaled = (values.astype(np.float32) - black) * (OPAQUE / (white - black))
    return np.asarray(np.clip(np.nan_to_num(scaled), 0, OPAQUE).round(), np.uint8)


def common_levels(found: list[tuple[float, float]]) -> tuple[float, float] | None:
    """One range for all sheets, or neighbours would differ in brightness."""
    if not found:
        return None
    return min(black for black, _ in found), max(white for _, white in found)


def _check_dtype(path: str, dataset: Any, dtype: str) -> None:
    kind = f"{dataset.count} band{'s' if dataset.count > 1 else ''} of {dtype}"
    if dtype not in ("uint8", *DEEP_DTYPES):
        raise NotAnOrthophoto(
            path, f"is not 8-bit or 16-bit imagery ({kind})", "convert it: gdal_translate -ot Byte -scale"
        )
    if dtype in DEEP_DTYPES[1:] and dataset.count <= 2:
        raise NotAnOrthophoto(
            path, f"looks like a height model ({kind})", "name the folder of the imagery alone"
        )


def _colour_bands(path: str, dataset: Any) -> tuple[int, ...]:
    colours = dataset.colorinterp
    order = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(colour in colours for colour in order):
        return tuple(colours.index(colour) + 1 for colour in order)
    plain = [index + 1 for index, colour in enumerate(colours) if colour != ColorInterp.alpha]
    if len(plain) not in (1, 3, 4):
        raise NotAnOrthophoto(
            path,
            f"has {dataset.count} bands and does not say which are red, green and blue",
            "say so: gdal_edit.py -colorinterp_<band> red|green|blue, or keep three: gdal_translate -b",
        )
    return tuple(plain[:3]) if len(plain) >= 3 else (plain[0],)


def _palette(path: str, dataset: Any) -> tuple[tuple[int, int, int, int], ...]:
    if dataset.dtypes[0] != "uint8":
        raise NotAnOrthophoto(path, "has a colour table of 16 bits", "expand it: gdal_translate -expand rgb")
    try:
        table = dataset.colormap(1)
    except ValueError as exc:
        raise NotAnOrthophoto(
            path, "has lost its colour table", "expand it: gdal_translate -expand rgb"
        ) from exc
    return tuple(tuple(table.get(index, (0, 0, 0, 0))) for index in range(256))


def _decode_palette(
    dataset: Any, palette: tuple[tuple[int, int, int, int], ...], window: Window, factor: int
) -> Rgba:
    """Colours are averaged after the look-up: the mean of two indices is a third colour."""
    indices = dataset.read(1, window=window)  # (H, W)
    fine = np.moveaxis(np.array(palette, np.uint8)[indices], -1, 0)  # (4, H, W)
    valid = dataset.dataset_mask(window=window) > 0
    alpha = np.where(valid, fine[3], 0).astype(np.float32)
    weight = _cell_sums(alpha[None], factor)
    colours = _cell_sums(fine[:3] * alpha, factor) / np.maximum(weight, 1)
    cells = np.maximum(_cell_sums(np.ones_like(alpha)[None], factor), 1)
    return np.concatenate([colours, weight / cells]).round().astype(np.uint8)


def _cell_sums(values: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    rows = np.add.reduceat(values, np.arange(0, values.shape[1], factor), axis=1)
    return np.add.reduceat(rows, np.arange(0, values.shape[2], factor), axis=2)


def _sampled_levels(dataset: Any, indexes: tuple[int, ...]) -> tuple[float, float] | None:
    """Black and white of a sheet, from its overview or from windows all over it."""
    values = np.concatenate([_valid_values(dataset, indexes, window) for window in _sample_windows(dataset)])
    if not len(values):
        return None
    black, white = (float(value) for value in np.percentile(values, LEVEL_PERCENTILES))
    return black, max(white, black + 1e-6)


def _sample_windows(dataset: Any) -> list[Window]:
    if dataset.overviews(1):
        return [Window(0, 0, dataset.width, dataset.height)]
    width, height = min(SAMPLE_PX, dataset.width), min(SAMPLE_PX, dataset.height)
    return [
        Window(int(left), int(top), width, height)
        for top in np.linspace(0, dataset.height - height, SAMPLES)
        for left in np.linspace(0, dataset.width - width, SAMPLES)
    ]


def _valid_values(dataset: Any, indexes: tuple[int, ...], window: Window) -> npt.NDArray[np.float64]:
    scale = max(1.0, max(window.width, window.height) / OVERVIEW_PX)
    shape = max(1, round(window.height / scale)), max(1, round(window.width / scale))
    values = dataset.read(list(indexes), window=window, out_shape=(len(indexes), *shape)).astype(np.float64)
    valid = dataset.dataset_mask(window=window, out_shape=shape) > 0
    chosen = values[:, valid]
    return np.asarray(chosen[np.isfinite(chosen)])
