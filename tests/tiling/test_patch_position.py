"""Ground truth: a marker painted at a known place appears at the right pixel of the right patch."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
from affine import Affine
from shapely.geometry import Point

from tiling.antimeridian import split_antimeridian
from tiling.grid import GridSpec, LngLat, Patch, patch_at, plan_blocks
from tiling.ortho import Ortho, PatchImage, cut, open_ortho

Pixels = npt.NDArray[np.uint8]
RED = (250, 20, 20)
BLUE = (20, 20, 250)
SIZE_PX = 128

# CRS, a place in it, and what makes it hard
PLACES = {
    "swiss": ("EPSG:2056", LngLat(lng=7.98, lat=46.32)),
    "utm-convergence-2.4-deg": ("EPSG:32632", LngLat(lng=12.2, lat=52.5)),
    "utm-south": ("EPSG:32756", LngLat(lng=151.2, lat=-33.87)),
    "far-north": ("EPSG:3067", LngLat(lng=21.0, lat=69.0)),
    "mercator": ("EPSG:3857", LngLat(lng=-0.1, lat=51.5)),
    "geographic": ("EPSG:4326", LngLat(lng=103.85, lat=1.29)),
    "us-feet": ("EPSG:2263", LngLat(lng=-73.98, lat=40.75)),
    "dateline": ("EPSG:3460", LngLat(lng=180.0, lat=-16.8)),
}


def paint_disc(pixels: Pixels, crs: str, transform: Affine, at: LngLat, colour: tuple[int, int, int]) -> None:
    """A disc of 1.5 m radius around a WGS84 position, drawn in the sheet's own pixels."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(at.lng, at.lat)
    column, row = ~transform @ (x, y)
    geod = pyproj.Geod(ellps="WGS84")
    to_wgs84 = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    side_x_m, side_y_m = (
        geod.inv(at.lng, at.lat, *to_wgs84.transform(*(transform @ place)))[2]
        for place in ((column + 1, row), (column, row + 1))
    )
    rows, columns = np.mgrid[0 : pixels.shape[1], 0 : pixels.shape[2]] + 0.5
    inside = ((columns - column) * side_x_m) ** 2 + ((rows - row) * side_y_m) ** 2 < 1.5**2
    for band, value in zip(pixels, colour, strict=True):
        band[inside] = value


def walk(start: LngLat, azimuth_deg: float, distance_m: float) -> LngLat:
    """The position reached on the ellipsoid."""
    lng, lat, _ = pyproj.Geod(ellps="WGS84").fwd(start.lng, start.lat, azimuth_deg, distance_m)
    return LngLat(lng=lng, lat=lat)


def expected_pixel(azimuth_deg: float, distance_m: float, side_m: float, size_px: int) -> tuple[float, float]:
    """Where a place seen from the patch centre appears, (column, row), north up."""
    scale = size_px / side_m
    east_m, north_m = distance_m * sin(radians(azimuth_deg)), distance_m * cos(radians(azimuth_deg))
    return size_px / 2 + east_m * scale, size_px / 2 - north_m * scale


def centroid(pixels: Pixels, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Centre of gravity (column, row) of what looks like a colour in (S, S, 3) on grey ground."""
    distance = np.abs(pixels.astype(float) - np.array(colour)).sum(axis=2)
    weight = np.clip(120 - distance, 0, None)
    rows, columns = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]] + 0.5
    return float((columns * weight).sum() / weight.sum()), float((rows * weight).sum() / weight.sum())


def sheet_around(
    crs: str, place: LngLat, *, gsd_m: float = 0.25, half_m: float = 100.0, turn_deg: float = 0.0
) -> Affine:
    """A geotransform of 2·half_m / gsd_m pixels a side, centred on a place, optionally turned in its CRS."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(place.lng, place.lat)
    geographic = pyproj.CRS(crs).is_geographic
    unit_m = 111_320.0 if geographic else pyproj.CRS(crs).axis_info[0].unit_conversion_factor
    pixel = gsd_m / unit_m
    half = half_m / gsd_m
    turn = Affine.translation(x, y) @ Affine.rotation(turn_deg)
    return turn @ Affine.scale(pixel, -pixel) @ Affine.translation(-half, -half)


def image_of(ortho: Ortho, patch: Patch, size_px: int = SIZE_PX) -> PatchImage:
    """One patch, cut within a block of its neighbours."""
    grid = GridSpec(zoom=patch.tile.z, side_m=patch.side_m)
    area = split_antimeridian(Point(patch.centre).buffer(1e-5))
    images = [image for block in plan_blocks(area, grid) for image in cut(ortho, block, size_px=size_px)]
    return next(image for image in images if image.patch == patch)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("azimuth_deg,distance_m", [(0.0, 0.0), (0.0, 25.0), (90.0, 25.0), (217.0, 20.0)])
def test_marker_appears_where_it_stands(
    name: str, azimuth_deg: float, distance_m: float, write_sheet: Callable[..., Path]
) -> None:
    crs, place = PLACES[name]
    patch = patch_at(place, GridSpec())
    transform = sheet_around(crs, patch.centre)
    pixels = np.full((3, 800, 800), 128, np.uint8)
    paint_disc(pixels, crs, transform, walk(patch.centre, azimuth_deg, distance_m), RED)
    ortho = open_ortho([write_sheet(pixels, crs=crs, transform=transform)])
    found = centroid(image_of(ortho, patch).pixels, RED)
    expected = expected_pixel(azimuth_deg, distance_m, patch.side_m, SIZE_PX)
    assert found == pytest.approx(expected, abs=0.5)  # 0.27 m


@pytest.mark.parametrize("turn_deg", [30.0, 90.0, -135.0])
def test_rotated_geotransform_is_turned_back(turn_deg: float, write_sheet: Callable[..., Path]) -> None:
    crs, place = PLACES["swiss"]
    patch = patch_at(place, GridSpec())
    transform = sheet_around(crs, patch.centre, turn_deg=turn_deg)
    pixels = np.full((3, 800, 800), 128, np.uint8)
    paint_disc(pixels, crs, transform, walk(patch.centre, 0.0, 25.0), RED)
    paint_disc(pixels, crs, transform, walk(patch.centre, 90.0, 25.0), BLUE)
    image = image_of(open_ortho([write_sheet(pixels, crs=crs, transform=transform)]), patch)
    assert centroid(image.pixels, RED) == pytest.approx(expected_pixel(0, 25, 70, SIZE_PX), abs=0.5)
    assert centroid(image.pixels, BLUE) == pytest.approx(expected_pixel(90, 25, 70, SIZE_PX), abs=0.5)


@pytest.mark.parametrize("size_px", [64, 128, 384])
@pytest.mark.parametrize("gsd_m", [0.08, 0.3, 0.6])
def test_scale_holds_at_every_resolution(
    gsd_m: float, size_px: int, write_sheet: Callable[..., Path]
) -> None:
    crs, place = PLACES["swiss"]
    patch = patch_at(place, GridSpec())
    transform = sheet_around(crs, patch.centre, gsd_m=gsd_m, half_m=60)
    size = round(120 / gsd_m)
    pixels = np.full((3, size, size), 128, np.uint8)
    paint_disc(pixels, crs, transform, walk(patch.centre, 300.0, 28.0), RED)
    image = image_of(open_ortho([write_sheet(pixels, crs=crs, transform=transform)]), patch, size_px)
    expected = expected_pixel(300.0, 28.0, patch.side_m, size_px)
    assert centroid(image.pixels, RED) == pytest.approx(expected, abs=max(0.5, 0.3 * size_px / 70))


def test_every_patch_of_a_block_sees_the_marker_in_its_own_place(write_sheet: Callable[..., Path]) -> None:
    crs, place = PLACES["utm-convergence-2.4-deg"]
    transform = sheet_around(crs, place, half_m=200)
    pixels = np.full((3, 1600, 1600), 128, np.uint8)
    paint_disc(pixels, crs, transform, place, RED)
    ortho = open_ortho([write_sheet(pixels, crs=crs, transform=transform)])
    grid = GridSpec(zoom=20)
    seen = 0
    for block in plan_blocks(Point(place).buffer(4e-4), grid):
        for image in cut(ortho, block, size_px=SIZE_PX):
            centre = image.patch.centre
            azimuth_deg, _, metres = pyproj.Geod(ellps="WGS84").inv(centre.lng, centre.lat, *place)
            column, row = expected_pixel(azimuth_deg, metres, 70, SIZE_PX)
            if max(abs(column - 64), abs(row - 64)) < 60:
                assert centroid(image.pixels, RED) == pytest.approx((column, row), abs=0.5)
                seen += 1
    assert seen >= 6
