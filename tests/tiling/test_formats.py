"""Any GeoTIFF: the same ground, stored in every way that orthophotos come in, gives the same patches."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling

from tiling.errors import MissingCrs, NoSheets, UnreadableSheet
from tiling.grid import GridSpec, plan_blocks
from tiling.ortho import Ortho, PatchImage, cut, open_ortho
from tiling.source import digest_of, location_of

Pixels = npt.NDArray[np.uint8]
WriteSheet = Callable[..., Path]
Noise = Callable[..., Pixels]

GSD_M = 0.25
SIZE = 800  # 200 m
PLACED = Affine(GSD_M, 0, 2_642_000, 0, -GSD_M, 1_130_000)


def cut_all(ortho: Ortho, *, size_px: int = 64) -> dict[str, PatchImage]:
    """Every patch of an orthophoto by quadkey."""
    blocks = plan_blocks(ortho.footprint, GridSpec())
    images = (image for block in blocks for image in cut(ortho, block, size_px=size_px))
    return {image.patch.quadkey: image for image in images}


def typical_difference(one: dict[str, PatchImage], other: dict[str, PatchImage]) -> float:
    """99th percentile of the differences of all pixels that show imagery in both."""
    shared = [
        key for key in one if key in other and min(one[key].valid_fraction, other[key].valid_fraction) == 1
    ]
    assert len(shared) > 5
    pairs = [(one[key].pixels.astype(int), other[key].pixels.astype(int)) for key in shared]
    return float(np.percentile(np.abs([first - second for first, second in pairs]), 99))


@pytest.fixture
def pixels(noise: Noise) -> Pixels:
    return np.maximum(noise(SIZE, SIZE), 1)


@pytest.fixture
def plain(pixels: Pixels, write_sheet: WriteSheet) -> dict[str, PatchImage]:
    """The patches of the same ground as plain 8-bit RGB."""
    return cut_all(open_ortho([write_sheet(pixels, name="plain.tif", transform=PLACED)]))


@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "jpeg", "photometric": "YCBCR", "jpeg_quality": 95},
        {"compress": "lzw", "predictor": 2},
        {"compress": "webp", "webp_lossless": True},
        {"tiled": False, "blockxsize": SIZE, "blockysize": 1},
        {"interleave": "pixel", "compress": "zstd"},
        {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
    ],
    ids=lambda profile: "-".join(map(str, profile.values())),
)
def test_every_encoding_gives_the_same_patches(
    profile: dict[str, Any], pixels: Pixels, plain: dict[str, PatchImage], write_sheet: WriteSheet
) -> None:
    found = cut_all(open_ortho([write_sheet(pixels, transform=PLACED, **profile)]))
    assert typical_difference(found, plain) <= (20 if profile.get("compress") == "jpeg" else 0)


@pytest.mark.parametrize("levels", [[], [2, 4, 8]])
def test_with_and_without_overviews(
    levels: list[int], pixels: Pixels, plain: dict[str, PatchImage], write_sheet: WriteSheet
) -> None:
    path = write_sheet(pixels, transform=PLACED)
    with rasterio.open(path, "r+") as dataset:
        if levels:
            dataset.build_overviews(levels, Resampling.average)
    assert typical_difference(cut_all(open_ortho([path])), plain) <= 2
    coarse = [cut_all(open_ortho([each]), size_px=16) for each in (path, path.with_name("plain.tif"))]
    assert typical_difference(*coarse) <= 2


def test_a_palette_is_looked_up_before_it_is_averaged(noise: Noise, write_sheet: WriteSheet) -> None:
    indices = (noise(SIZE, SIZE)[0] // 32).astype(np.uint8)  # 8 colours
    dice = np.random.default_rng(3)
    table = {index: (*dice.integers(0, 256, 3).tolist(), 255) for index in range(256)}
    rgb = np.moveaxis(np.array([table[index][:3] for index in range(256)], np.uint8)[indices], -1, 0)
    path = write_sheet(indices[None], name="palette.tif", transform=PLACED, photometric="PALETTE")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, table)
    plain = write_sheet(rgb, name="rgb.tif", transform=PLACED)
    for size_px in (16, 64):
        found, expected = (cut_all(open_ortho([each]), size_px=size_px) for each in (path, plain))
        assert typical_difference(found, expected) <= 2


def test_nodata_of_a_palette(write_sheet: WriteSheet) -> None:
    indices = np.full((1, SIZE, SIZE), 5, np.uint8)
    indices[:, :, : SIZE // 2] = 9
    path = write_sheet(indices, transform=PLACED, photometric="PALETTE", nodata=9)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {5: (10, 200, 30, 255), 9: (255, 255, 255, 255)})
    images = cut_all(open_ortho([path])).values()
    assert {0.0, 1.0} < {image.valid_fraction for image in images}
    for image in images:
        shown = image.pixels[image.pixels.any(axis=2)]
        assert np.all(np.abs(shown.astype(int) - (10, 200, 30)) <= 1)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_deep_values_fill_the_8_bits(
    dtype: str, pixels: Pixels, plain: dict[str, PatchImage], write_sheet: WriteSheet
) -> None:
    deep = (pixels * 11.0 + 300).astype(dtype)  # 311 to 3105: 12 bits, with an offset
    found = cut_all(open_ortho([write_sheet(deep, transform=PLACED)]))
    values = np.concatenate([image.pixels.ravel() for image in found.values()])
    assert np.percentile(values, 5) < 50
    assert np.percentile(values, 95) > 200
    stretched, expected = (
        np.concatenate([images[key].pixels.ravel() for key in sorted(found)]) for images in (found, plain)
    )
    assert np.corrcoef(stretched, expected)[0, 1] > 0.99


def test_deep_sheets_share_one_range(noise: Noise, write_sheet: WriteSheet) -> None:
    deep = (noise(SIZE, SIZE) * 16.0).astype(np.uint16)
    deep[:, :, SIZE // 2 :] //= 3  # a dark half
    merged = cut_all(open_ortho([write_sheet(deep, name="merged.tif", transform=PLACED)]))
    half = SIZE // 2
    parts = [
        write_sheet(deep[:, :, :half], name="west.tif", transform=PLACED),
        write_sheet(deep[:, :, half:], name="east.tif", transform=PLACED @ Affine.translation(half, 0)),
    ]
    ortho = open_ortho(parts)
    assert len({sheet.bands.levels for sheet in ortho.sheets}) == 1
    assert typical_difference(cut_all(ortho), merged) <= 12


@pytest.mark.parametrize(
    "dtype, nodata, tag",
    [
        ("float32", np.nan, np.nan),
        ("float32", np.nan, None),
        ("float32", np.inf, None),
        ("float32", np.nan, -9999.0),
        ("float32", -9999.0, -9999.0),
        ("uint16", 0, 0),
    ],
)
def test_nodata_of_deep_sheets(
    dtype: str, nodata: float, tag: float | None, pixels: Pixels, write_sheet: WriteSheet
) -> None:
    deep = (pixels * 4.0 + 100).astype(dtype)
    deep[:, :, : SIZE // 2] = nodata
    ortho = open_ortho([write_sheet(deep, transform=PLACED, nodata=tag)])
    west, _, east, _ = ortho.footprint.bounds
    images = cut_all(ortho, size_px=16).values()
    assert {0.0, 1.0} < {image.valid_fraction for image in images}
    for image in images:
        if image.patch.footprint.bounds[2] < (west + east) / 2 - 1e-5:
            assert image.valid_fraction == 0
        if image.valid_fraction == 1:
            assert image.pixels.std() > 10


def test_nan_as_nodata_of_8_bit_bands_means_none(pixels: Pixels, write_sheet: WriteSheet) -> None:
    path = write_sheet(pixels, transform=PLACED)
    with rasterio.open(path, "r+") as dataset:
        dataset.nodata = None
    tags = path.with_suffix(".tif.aux.xml")
    bands = "".join(
        f'<PAMRasterBand band="{n}"><NoDataValue>nan</NoDataValue></PAMRasterBand>' for n in (1, 2, 3)
    )
    tags.write_text(f"<PAMDataset>{bands}</PAMDataset>")
    assert max(image.valid_fraction for image in cut_all(open_ortho([path])).values()) == 1


def test_ground_control_points_place_a_sheet(
    pixels: Pixels, plain: dict[str, PatchImage], write_sheet: WriteSheet
) -> None:
    path = write_sheet(pixels, crs=None, transform=Affine.identity())
    corners = [(0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE)]
    points = [
        GroundControlPoint(row=row, col=column, x=PLACED.c + GSD_M * column, y=PLACED.f - GSD_M * row)
        for row, column in corners
    ]
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, "EPSG:2056"
    assert typical_difference(cut_all(open_ortho([path])), plain) <= 12
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, rasterio.crs.CRS()
    with pytest.raises(MissingCrs, match="coordinate reference system"):
        open_ortho([path])


def write_vrt(path: Path, sources: list[Path], nodata: bool = False) -> Path:
    """Two sheets of SIZE / 2 columns side by side."""
    half = SIZE // 2
    bands = ""
    for band, colour in enumerate(("Red", "Green", "Blue"), start=1):
        parts = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{source.name}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{half}" ySize="{SIZE}"/>'
            f'<DstRect xOff="{half * number}" yOff="0" xSize="{half}" ySize="{SIZE}"/></SimpleSource>'
            for number, source in enumerate(sources)
        )
        interpretation = f"<ColorInterp>{colour}</ColorInterp>"
        bands += f'<VRTRasterBand dataType="Byte" band="{band}">{interpretation}{parts}</VRTRasterBand>'
    place = ", ".join(map(str, PLACED.to_gdal()))
    path.write_text(
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><SRS>EPSG:2056</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
    )
    return path


@pytest.fixture
def halves(pixels: Pixels, write_sheet: WriteSheet) -> list[Path]:
    half = SIZE // 2
    east = PLACED @ Affine.translation(half, 0)
    return [
        write_sheet(pixels[:, :, :half], name="west.tif", transform=PLACED),
        write_sheet(pixels[:, :, half:], name="east.tif", transform=east),
    ]


def test_a_vrt_is_one_sheet_and_its_parts_are_its_content(
    halves: list[Path], plain: dict[str, PatchImage], tmp_path: Path
) -> None:
    ortho = open_ortho([write_vrt(tmp_path / "all.vrt", halves)])
    assert [sheet.name for sheet in ortho.sheets] == ["all.vrt"]
    assert typical_difference(cut_all(ortho), plain) == 0
    before = ortho.digests()
    with rasterio.open(halves[1], "r+") as dataset:
        dataset.write(np.full((3, 5, 5), 7, np.uint8), window=((10, 15), (10, 15)))
    assert ortho.digests() != before


def test_a_vrt_that_lost_a_part_says_so(halves: list[Path], tmp_path: Path) -> None:
    path = write_vrt(tmp_path / "all.vrt", halves)
    halves[1].unlink()
    with pytest.raises(UnreadableSheet, match=r"all\.vrt"):
        ortho = open_ortho([path])
        cut_all(ortho)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """An HTTP server with byte ranges for the test's folder."""
    spec = importlib.util.spec_from_file_location("http_server", Path(__file__).with_name("http_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    with module.serve_folder(tmp_path) as served:
        yield served


def write_cog(write_sheet: WriteSheet, pixels: Pixels, name: str) -> Path:
    """A cloud-optimised GeoTIFF."""
    path = write_sheet(pixels, name=f"{name}.raw", transform=PLACED)
    with rasterio.open(path) as raw:
        profile = {key: raw.profile[key] for key in ("count", "dtype", "crs", "transform", "width", "height")}
        with rasterio.open(
            path.with_suffix(""), "w", driver="COG", blocksize=128, compress="deflate", **profile
        ) as cog:
            cog.write(raw.read())
    return path.with_suffix("")


def test_a_remote_cog_is_read_by_ranges(
    server: Any, pixels: Pixels, plain: dict[str, PatchImage], write_sheet: WriteSheet
) -> None:
    path = write_cog(write_sheet, pixels, "remote.tif")
    ortho = open_ortho([f"{server.url}/remote.tif"])
    block = next(plan_blocks(ortho.footprint, GridSpec(), tiles_per_side=1))
    assert list(cut(ortho, block, size_px=16))
    assert 0 < server.sent_bytes < 0.6 * path.stat().st_size
    assert typical_difference(cut_all(ortho), plain) <= 4  # the overview's own averaging
    assert not any(name in line for line in server.asked for name in (".aux.xml", ".msk", ".ovr"))
    assert ortho.sheets[0].name == "remote.tif"


def test_a_bucket_is_read_the_same_way(
    server: Any,
    pixels: Pixels,
    plain: dict[str, PatchImage],
    write_sheet: WriteSheet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_cog(write_sheet, pixels, "bucket/city/sheet.tif")
    use_bucket(server, monkeypatch)
    ortho = open_ortho(["s3://bucket/city/sheet.tif"])
    assert typical_difference(cut_all(ortho), plain) <= 4


@pytest.mark.parametrize("etags", [True, False])
def test_a_sheet_in_a_bucket_goes_by_its_etag(
    etags: bool, server: Any, pixels: Pixels, write_sheet: WriteSheet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pixel that no thumbnail shows is noticed; without an ETag it is not."""
    server.etags = etags
    use_bucket(server, monkeypatch)
    digests = []
    for value in (0, 0, 255):
        pixels[:, 401, 401] = value
        write_sheet(pixels, name="bucket/sheet.tif", transform=PLACED)
        digests.append(digest_of(location_of("s3://bucket/sheet.tif")))
    assert digests[0] == digests[1]
    assert (digests[0] != digests[2]) is etags


def use_bucket(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make s3:// mean the test's server."""
    monkeypatch.setenv("AWS_S3_ENDPOINT", server.url.removeprefix("http://"))
    monkeypatch.setenv("AWS_HTTPS", "NO")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTING", "FALSE")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")


@pytest.mark.parametrize("etags", [True, False])
def test_a_remote_sheet_that_changed_is_noticed(
    etags: bool, server: Any, pixels: Pixels, write_sheet: WriteSheet
) -> None:
    server.etags = etags
    write_cog(write_sheet, pixels, "one.tif")
    changed = pixels.copy()
    changed[:, 400:480, 400:480] //= 2
    write_cog(write_sheet, changed, "two.tif")
    first, second = (open_ortho([f"{server.url}/{name}.tif"]).digests() for name in ("one", "two"))
    assert open_ortho([f"{server.url}/one.tif"]).digests() == first
    assert first != second


def test_a_remote_sheet_that_is_not_there(server: Any) -> None:
    with pytest.raises(UnreadableSheet, match=r"nowhere\.tif: cannot be read"):
        open_ortho([f"{server.url}/nowhere.tif"])
    with pytest.raises(NoSheets, match=r"none of 1 sheets"):
        open_ortho([f"{server.url}/nowhere.tif"], on_error="skip")
