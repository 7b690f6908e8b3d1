"""Bad input: each file that cannot be used is refused by name, with a remedy."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from tiling.errors import (
    MissingCrs,
    NoSheets,
    NotAnOrthophoto,
    SheetError,
    TilingError,
    UnreadableSheet,
)
from tiling.grid import GridSpec, plan_blocks
from tiling.ortho import cut, open_ortho

WriteSheet = Callable[..., Path]
RGB = np.full((3, 512, 512), 120, np.uint8)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NoSheets, match="does not exist; name"):
        open_ortho([tmp_path / "nowhere"])


def test_a_folder_without_geotiffs(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(NoSheets, match=r"holds no \*\.tif.*; name the folder"):
        open_ortho([tmp_path])


def test_a_sheet_without_crs(write_sheet: WriteSheet) -> None:
    with pytest.raises(MissingCrs, match=r"sheet\.tif: has no coordinate reference system; .*gdal_edit"):
        open_ortho([write_sheet(RGB, crs=None)])


def test_a_sheet_without_geotransform(write_sheet: WriteSheet) -> None:
    with pytest.raises(MissingCrs, match=r"sheet\.tif: has no geotransform"):
        open_ortho([write_sheet(RGB, transform=Affine.identity())])


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.tif"
    path.write_text("this is not a picture")
    with pytest.raises(UnreadableSheet, match=r"notes\.tif: cannot be read .*; fetch"):
        open_ortho([path])


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.tif"
    path.touch()
    with pytest.raises(UnreadableSheet, match=r"empty\.tif"):
        open_ortho([path])


def test_a_truncated_file(write_sheet: WriteSheet) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), np.uint8)
    path = write_sheet(noise, compress="deflate")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableSheet, match=r"sheet\.tif"):
        open_ortho([path])


def test_damage_in_the_middle_is_found_when_reading(write_sheet: WriteSheet) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), np.uint8)
    path = write_sheet(noise, compress="deflate")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 50_000] = bytes(50_000)
    path.write_bytes(data)
    ortho = open_ortho([path])
    with pytest.raises(UnreadableSheet, match=r"sheet\.tif: cannot be read"):
        for block in plan_blocks(ortho.footprint, GridSpec()):
            list(cut(ortho, block, size_px=64))


def test_a_height_model(write_sheet: WriteSheet) -> None:
    with pytest.raises(NotAnOrthophoto, match=r"looks like a height model \(1 band of float32\)"):
        open_ortho([write_sheet(np.full((1, 512, 512), 431.5, np.float32))])


def test_a_height_model_of_whole_metres(write_sheet: WriteSheet) -> None:
    with pytest.raises(NotAnOrthophoto, match=r"looks like a height model \(1 band of int16\)"):
        open_ortho([write_sheet(np.full((1, 512, 512), 431, np.int16))])


def test_numbers_that_are_no_colours(write_sheet: WriteSheet) -> None:
    with pytest.raises(NotAnOrthophoto, match=r"not 8-bit or 16-bit imagery \(3 bands of uint32\)"):
        open_ortho([write_sheet(np.full((3, 512, 512), 4000, np.uint32))])


@pytest.mark.parametrize("count", [2, 5, 8])
def test_bands_without_a_meaning(count: int, write_sheet: WriteSheet) -> None:
    path = write_sheet(np.full((count, 512, 512), 90, np.uint8), photometric="MINISBLACK")
    with pytest.raises(NotAnOrthophoto, match=rf"has {count} bands and does not say .*gdal_edit"):
        open_ortho([path])


@pytest.mark.parametrize("pixel_m", [0.0001, 30.0, 5000.0])
def test_an_absurd_scale(pixel_m: float, write_sheet: WriteSheet) -> None:
    transform = Affine(pixel_m, 0, 2_642_000, 0, -pixel_m, 1_130_000)
    with pytest.raises(NotAnOrthophoto, match=r"m of ground per pixel, outside 0\.005 to 5\.0 m"):
        open_ortho([write_sheet(RGB, transform=transform)])


def test_coordinates_off_the_earth(write_sheet: WriteSheet) -> None:
    with pytest.raises(SheetError, match=r"sheet\.tif: .*; check its geotransform"):
        open_ortho([write_sheet(RGB, crs="EPSG:4326", transform=Affine(1e-6, 0, 8, 0, -1e-6, 400))])


def test_another_planet(write_sheet: WriteSheet) -> None:
    mars = "+proj=eqc +R=3396190 +units=m +type=crs"
    with pytest.raises(NotAnOrthophoto, match="another body"):
        open_ortho([write_sheet(RGB, crs=mars, transform=Affine(0.25, 0, 0, 0, -0.25, 0))])


def test_a_single_pixel_covers_no_ground(write_sheet: WriteSheet) -> None:
    with pytest.raises(UnreadableSheet, match="covers no ground"):
        open_ortho([write_sheet(RGB[:, :1, :1], tiled=False, blockxsize=1, blockysize=1)])


def test_skip_leaves_bad_sheets_out_and_lists_them(write_sheet: WriteSheet) -> None:
    good = write_sheet(RGB, name="good.tif")
    bad = write_sheet(RGB, name="bad.tif", crs=None)
    ortho = open_ortho([good, bad], on_error="skip")
    assert [sheet.name for sheet in ortho.sheets] == ["good.tif"]
    assert [error.path for error in ortho.rejected] == [str(bad)]


def test_skipping_everything_is_an_error(write_sheet: WriteSheet) -> None:
    with pytest.raises(NoSheets, match=r"none of 1 sheets is usable"):
        open_ortho([write_sheet(RGB, crs=None)], on_error="skip")


def test_a_folder_means_its_geotiffs_in_order_of_name(write_sheet: WriteSheet, tmp_path: Path) -> None:
    for name in ("sheets/b.TIF", "sheets/a.tif", "sheets/c.tiff"):
        write_sheet(RGB, name=name)
    (tmp_path / "sheets" / "a.tif.aux.xml").write_text("<PAMDataset/>")
    names = [sheet.name for sheet in open_ortho([tmp_path / "sheets"]).sheets]
    assert names == ["a.tif", "b.TIF", "c.tiff"]


def test_errors_survive_the_way_back_from_a_worker(write_sheet: WriteSheet) -> None:
    with pytest.raises(MissingCrs) as caught:
        open_ortho([write_sheet(RGB, crs=None)])
    again: TilingError = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
