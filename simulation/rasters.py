"""Writes what an operator would receive of a city: orthophoto sheets and a surface model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from simulation.errors import BadSurface
from simulation.world import CROWN_UNIT_M, World


def write_sheets(folder: Path, world: World, pixels: NDArray[np.uint8], sheet_m: float) -> None:
    """Cloud-optimised GeoTIFF sheets of sheet_m metres; the last row and column may be smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    side = round(sheet_m / world.gsd_m)
    rows, columns = world.shape
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            tile = pixels[top : top + side, left : left + side]
            west, north = world.west + left * world.gsd_m, world.north - top * world.gsd_m
            with rasterio.open(
                folder / f"sheet_{left // side:02d}_{top // side:02d}.tif",
                "w",
                driver="COG",
                count=3,
                dtype="uint8",
                height=tile.shape[0],
                width=tile.shape[1],
                crs=world.crs,
                transform=from_origin(west, north, world.gsd_m, world.gsd_m),
                compress="JPEG",
                quality=90,
                blocksize=256,
            ) as sheet:
                sheet.update_tags(TIFFTAG_DATETIME="2024:06:18 10:30:00")
                sheet.write(np.moveaxis(tile, 2, 0))


def write_dsm(path: Path, world: World) -> None:
    """Height of the top surface (ground, roofs, crowns) at twice the world's cell size, to 5 cm."""
    surface = world.terrain_m + np.maximum(world.solid_m, world.crown_top * np.float32(CROWN_UNIT_M))
    coarse = (np.round(surface[::2, ::2] * 20) / 20).astype(np.float32)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        dtype="float32",
        height=coarse.shape[0],
        width=coarse.shape[1],
        crs=world.crs,
        transform=from_origin(world.west, world.north, world.gsd_m * 2, world.gsd_m * 2),
        compress="DEFLATE",
        predictor=3,
        zlevel=1,
        tiled=True,
    ) as dsm:
        dsm.write(coarse, 1)


def link_sheets(folder: Path, files: Sequence[Path]) -> None:
    """A folder of links to sheets that lie elsewhere; links of an earlier run are replaced, files never.

    Raises:
        BadSurface: another file of that name is in the way, or two sheets have one name.
    """
    named: dict[str, Path] = {}
    for file in files:
        if named.setdefault(file.name, file).resolve() != file.resolve():
            raise BadSurface(f"{named[file.name]} and {file} have one name; rename one of them")
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / file.name
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            if link.samefile(file):
                continue
            raise BadSurface(f"{link} is in the way; choose another --out folder")
        link.symlink_to(file.resolve())
