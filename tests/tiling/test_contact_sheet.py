"""The picture for the operator's eye, on sheets that are awkward to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from PIL import Image

from tiling.contact_sheet import write_contact_sheet
from tiling.grid import GridSpec
from tiling.ortho import open_ortho

SIZE = 800
FIJI = "EPSG:3460"


def plain(value: int) -> npt.NDArray[np.uint8]:
    return np.full((3, SIZE, SIZE), value, np.uint8)


def test_sheets_of_one_name_are_told_apart(write_sheet: Callable[..., Path], tmp_path: Path) -> None:
    west = Affine(0.25, 0, 2_642_000, 0, -0.25, 1_130_000)
    paths = [
        write_sheet(plain(60), name="a/1.tif", transform=west),
        write_sheet(plain(200), name="b/1.tif", transform=west @ Affine.translation(2 * SIZE, 0)),
    ]
    ortho = open_ortho(paths)
    out = tmp_path / "contact.png"
    east = ortho.sheets[1].footprint
    write_contact_sheet(out, ortho, east, GridSpec(), patches=1, size_px=100)
    with Image.open(out) as picture:
        pair = np.asarray(picture.convert("L"))[-100:]
    assert pair[20, 20] == 200
    assert pair[20, 126] == 200  # the same ground, read from the sheet


def test_an_orthophoto_over_the_antimeridian_fills_the_overview(
    write_sheet: Callable[..., Path], tmp_path: Path
) -> None:
    x, y = pyproj.Transformer.from_crs("EPSG:4326", FIJI, always_xy=True).transform(180.0, -16.8)
    transform = Affine(0.25, 0, x - SIZE / 8, 0, -0.25, y + SIZE / 8)
    ortho = open_ortho([write_sheet(plain(200), crs=FIJI, transform=transform)])
    out = tmp_path / "contact.png"
    write_contact_sheet(out, ortho, ortho.footprint, GridSpec(), patches=1, size_px=100)
    with Image.open(out) as picture:
        overview = np.asarray(picture.convert("RGB"))[20:800, 20:800]
    assert (overview == 200).all(axis=2).mean() > 0.9
    yellow = (overview == (255, 255, 0)).all(axis=2)
    assert yellow.any()  # the chosen patch is in the picture
