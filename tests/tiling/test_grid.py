"""The patch grid: true ground sizes, completeness, order, laziness."""

from __future__ import annotations

import itertools
from time import perf_counter

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from tiling.errors import BadArea, BadGrid
from tiling.grid import (
    GridSpec,
    LngLat,
    Patch,
    Tile,
    lnglat_at,
    mercator_at,
    mercators_at,
    patch_at,
    patches_over,
    plan_blocks,
    stride_m,
)

GEOD = pyproj.Geod(ellps="WGS84")
zooms = st.integers(16, 21)
latitudes = st.floats(-75, 75)
longitudes = st.floats(-180, 180)


def sides_m(patch: Patch) -> tuple[float, float]:
    """Geodesic width and height through the patch centre."""
    west, south, east, north = patch.mercator_bounds
    centre = patch.centre
    low, high = lnglat_at(west, south), lnglat_at(east, north)
    width = GEOD.inv(low.lng, centre.lat, high.lng, centre.lat)[2]
    height = GEOD.inv(centre.lng, low.lat, centre.lng, high.lat)[2]
    return width, height


@given(longitudes, latitudes, zooms, st.floats(20, 200))
def test_side_is_true_ground_metres(lng: float, lat: float, zoom: int, side_m: float) -> None:
    patch = patch_at(LngLat(lng=lng, lat=lat), GridSpec(zoom=zoom, side_m=side_m))
    assert sides_m(patch) == pytest.approx((side_m, side_m), rel=1e-4)


@given(st.floats(-0.002, 0.002), latitudes, zooms, st.floats(20, 200))
def test_side_is_true_across_the_antimeridian(beyond: float, lat: float, zoom: int, side_m: float) -> None:
    lng = 180 - abs(beyond) if beyond < 0 else -180 + beyond
    patch = patch_at(LngLat(lng=lng, lat=lat), GridSpec(zoom=zoom, side_m=side_m))
    assert sides_m(patch) == pytest.approx((side_m, side_m), rel=1e-4)
    area_m2 = abs(GEOD.geometry_area_perimeter(patch.footprint)[0])
    assert area_m2 == pytest.approx(side_m**2, rel=1e-3)
    west, south, east, north = patch.footprint.bounds
    assert -180 <= west < east <= 180
    assert south < patch.centre.lat < north


@given(st.lists(st.tuples(longitudes, st.floats(-85, 85)), min_size=1, max_size=5))
def test_many_positions_are_projected_as_one_by_one(places: list[tuple[float, float]]) -> None:
    expected = [mercator_at(LngLat(lng=lng, lat=lat)) for lng, lat in places]
    np.testing.assert_allclose(mercators_at(np.array(places)), expected, rtol=1e-14, atol=1e-6)


@given(longitudes, latitudes, zooms)
def test_patch_at_a_place_is_the_nearest_centre(lng: float, lat: float, zoom: int) -> None:
    patch = patch_at(LngLat(lng=lng, lat=lat), GridSpec(zoom=zoom))
    x, y = mercator_at(LngLat(lng=lng, lat=lat))
    centre_x, centre_y = patch.centre_mercator
    half_tile = 20_037_508.342789244 / 2**zoom
    assert abs(x - centre_x) <= half_tile * 1.000001
    assert abs(y - centre_y) <= half_tile * 1.000001


@given(longitudes, latitudes)
def test_footprint_area_is_the_side_squared(lng: float, lat: float) -> None:
    footprint = patch_at(LngLat(lng=lng, lat=lat), GridSpec()).footprint
    area_m2 = abs(GEOD.geometry_area_perimeter(footprint)[0])
    assert area_m2 == pytest.approx(70.0**2, rel=1e-3)


@pytest.mark.parametrize("lng", [-179.9999, 179.9999])
def test_footprint_is_split_at_the_antimeridian(lng: float) -> None:
    footprint = patch_at(LngLat(lng=lng, lat=-17.0), GridSpec()).footprint
    assert footprint.geom_type == "MultiPolygon"
    assert footprint.bounds[0] == -180
    assert footprint.bounds[2] == 180


@given(latitudes, zooms)
def test_stride_is_the_distance_between_neighbouring_centres(lat: float, zoom: int) -> None:
    patch = patch_at(LngLat(lng=8.0, lat=lat), GridSpec(zoom=zoom))
    tile = patch.tile
    east = Patch(tile=Tile(tile.x + 1, tile.y, zoom), side_m=70.0).centre
    metres = GEOD.inv(patch.centre.lng, patch.centre.lat, east.lng, east.lat)[2]
    assert stride_m(zoom, patch.centre.lat) == pytest.approx(metres, rel=0.004)


@settings(max_examples=50)
@given(
    st.floats(-179, 178),
    st.floats(-74, 73),
    st.floats(0.0005, 0.008),
    st.floats(0.0005, 0.008),
    st.integers(16, 20),
)
def test_patches_are_exactly_those_with_their_centre_inside(
    west: float, south: float, width: float, height: float, zoom: int
) -> None:
    area = box(west, south, west + width, south + height)
    grid = GridSpec(zoom=zoom)
    found = [patch.tile for patch in patches_over(area, grid)]
    low = patch_at(LngLat(lng=west, lat=south + height), grid).tile
    high = patch_at(LngLat(lng=west + width, lat=south), grid).tile
    around = itertools.product(range(low.x - 1, high.x + 2), range(low.y - 1, high.y + 2))
    tiles = [Tile(x, y, zoom) for x, y in around]
    inside = {tile for tile in tiles if area.intersects(Point(Patch(tile=tile, side_m=70.0).centre))}
    assert len(found) == len(set(found))
    assert set(found) == inside


def test_neighbouring_areas_share_no_patch_and_miss_none() -> None:
    whole = box(7.98, 46.31, 8.00, 46.33)
    parts = [box(7.98, 46.31, 7.9901234, 46.33), box(7.9901234, 46.31, 8.00, 46.33)]
    together = [patch.quadkey for part in parts for patch in patches_over(part, GridSpec())]
    assert sorted(together) == [patch.quadkey for patch in patches_over(whole, GridSpec())]


def test_patches_come_in_quadkey_order() -> None:
    triangle = Polygon([(7.98, 46.31), (8.0, 46.31), (7.99, 46.33)])
    quadkeys = [patch.quadkey for patch in patches_over(triangle, GridSpec())]
    assert quadkeys == sorted(quadkeys)


def test_a_continent_is_enumerated_lazily() -> None:
    start_s = perf_counter()
    first = list(itertools.islice(patches_over(box(-10, 36, 30, 60), GridSpec()), 1000))
    assert len(first) == 1000
    assert perf_counter() - start_s < 2.0


def test_holes_and_islands_are_respected() -> None:
    with_hole = box(0, 0, 0.01, 0.01).difference(box(0.003, 0.003, 0.007, 0.007))
    area = MultiPolygon([with_hole, box(0.02, 0, 0.021, 0.001)])
    centres = [Point(patch.centre) for patch in patches_over(area, GridSpec())]
    assert all(area.intersects(centre) for centre in centres)
    assert any(centre.x > 0.02 for centre in centres)


@pytest.mark.parametrize("tiles_per_side", [1, 4, 16, 64])
def test_blocks_hold_the_same_patches(tiles_per_side: int) -> None:
    area = Point(7.99, 46.32).buffer(0.004)
    blocks = list(plan_blocks(area, GridSpec(), tiles_per_side=tiles_per_side))
    assert all(0 < len(block) <= tiles_per_side**2 for block in blocks)
    assert [len(block) for block in blocks] == [len(block.patches) for block in blocks]
    joined = [patch for block in blocks for patch in block.patches]
    assert joined == list(patches_over(area, GridSpec()))


def test_quarters_of_a_block_hold_its_patches_in_order() -> None:
    block = next(plan_blocks(Point(7.99, 46.32).buffer(0.004), GridSpec()))
    assert tuple(patch for quarter in block.split() for patch in quarter.patches) == block.patches


@pytest.mark.parametrize("zoom,side_m", [(5, 70.0), (30, 70.0), (20, 0.0), (20, float("nan")), (20, 1e6)])
def test_grid_settings_out_of_range_are_refused(zoom: int, side_m: float) -> None:
    with pytest.raises(BadGrid, match=r"outside"):
        GridSpec(zoom=zoom, side_m=side_m)


@pytest.mark.parametrize(
    "area",
    [Point(8, 46), box(170, 0, 190, 1), box(2_600_000, 1_100_000, 2_601_000, 1_101_000),
     Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])],
)  # fmt: skip
def test_areas_that_mean_no_ground_are_refused(area: Polygon) -> None:
    with pytest.raises(BadArea, match=r"give|repair"):
        list(patches_over(area, GridSpec()))


def test_block_side_must_be_a_power_of_two() -> None:
    with pytest.raises(BadGrid, match="12"):
        plan_blocks(box(0, 0, 1, 1), GridSpec(), tiles_per_side=12)
