"""The patch grid: which square of ground a patch shows and what it is called.

Patch centres are the centres of Web Mercator tiles (zoom sets the stride), footprints are squares in true
ground metres (`side_m` sets what the model sees), so a patch looks the same size in Oslo and in Singapore.
Knows nothing of imagery.

"True" is the WGS84 ellipsoid. EPSG:3857 projects it with the formulas of a sphere, so a Mercator metre is
worth cos φ · N/a metres eastwards but cos φ · M/a metres northwards (N, M: radii of curvature; Snyder 1987,
p. 24); with the plain cos φ the north-south side would be 0.67 % short at the equator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import asinh, atan, cos, degrees, isfinite, pi, radians, sin, sinh, sqrt, tan

import mercantile
import numpy as np
import numpy.typing as npt
import shapely
from mercantile import LngLat, Tile
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from tiling.antimeridian import split_antimeridian
from tiling.errors import BadArea, BadGrid

__all__ = [
    "Block",
    "GridSpec",
    "LngLat",
    "Patch",
    "Tile",
    "check_area",
    "ground_scale",
    "lnglat_at",
    "mercator_at",
    "mercators_at",
    "patch_at",
    "patches_over",
    "plan_blocks",
    "stride_m",
    "tile_of",
]

Bounds = tuple[float, float, float, float]  # west, south, east, north

EARTH_RADIUS_M = 6_378_137.0  # WGS84 semi-major axis, also the sphere of EPSG:3857
ECCENTRICITY_SQUARED = 0.006_694_379_990_14  # WGS84
WORLD_M = 2 * pi * EARTH_RADIUS_M  # the width of EPSG:3857
MAX_LATITUDE_DEG = degrees(atan(sinh(pi)))  # 85.0511: where the Mercator square ends
ZOOM_LIMITS = (10, 24)
SIDE_LIMITS_M = (1.0, 5_000.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class GridSpec:
    """Where patches lie: tiles of `zoom`, each seen through a square of `side_m` ground metres.

    Raises:
        BadGrid: zoom or side outside the supported range.
    """

    zoom: int = 20
    side_m: float = 70.0

    def __post_init__(self) -> None:
        if not ZOOM_LIMITS[0] <= self.zoom <= ZOOM_LIMITS[1]:
            raise BadGrid(
                f"zoom {self.zoom} is outside {ZOOM_LIMITS[0]} to {ZOOM_LIMITS[1]}; 20 suits streets"
            )
        if not (isfinite(self.side_m) and SIDE_LIMITS_M[0] <= self.side_m <= SIDE_LIMITS_M[1]):
            low, high = SIDE_LIMITS_M
            raise BadGrid(f"side_m {self.side_m} is outside {low:g} to {high:g} metres; 70 suits streets")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A square of ground, `side_m` true metres wide, around the centre of a Mercator tile; north is up."""

    tile: Tile
    side_m: float

    @property
    def quadkey(self) -> str:
        """The name of the patch: one digit per zoom level."""
        return str(mercantile.quadkey(self.tile))

    @property
    def centre_mercator(self) -> tuple[float, float]:
        """Centre in EPSG:3857 metres (east, north)."""
        tile_m = WORLD_M / 2**self.tile.z
        return (self.tile.x + 0.5) * tile_m - WORLD_M / 2, WORLD_M / 2 - (self.tile.y + 0.5) * tile_m

    @property
    def centre(self) -> LngLat:
        """Centre in WGS84."""
        return lnglat_at(*self.centre_mercator)

    @property
    def mercator_bounds(self) -> Bounds:
        """West, south, east, north in EPSG:3857 metres; may reach beyond ±180° of longitude."""
        x, y = self.centre_mercator
        east_scale, north_scale = ground_scale(self.centre.lat)
        half_x, half_y = self.side_m / 2 / east_scale, self.side_m / 2 / north_scale
        return x - half_x, y - half_y, x + half_x, y + half_y

    @property
    def footprint(self) -> BaseGeometry:
        """The square in WGS84; two parts where it crosses the antimeridian (RFC 7946, section 3.1.9)."""
        west, south, east, north = self.mercator_bounds
        low, high = lnglat_at(west, south), lnglat_at(east, north)
        return split_antimeridian(box(low.lng, low.lat, high.lng, high.lat))

    @property
    def tile_footprint(self) -> BaseGeometry:
        """The tile itself in WGS84: the cell that this patch answers for, without overlap."""
        return box(*mercantile.bounds(self.tile))


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Neighbouring patches that share one read: the chosen tiles under one parent tile.

    `members` has one bit per tile in quadkey order, so that a block stays small wherever it travels.
    """

    tile: Tile
    grid: GridSpec
    members: bytes

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The patches in quadkey order."""
        columns, rows = _tiles_under(self.tile, self.grid.zoom)
        chosen = self._mask(len(columns))
        return tuple(
            Patch(tile=Tile(x, y, self.grid.zoom), side_m=self.grid.side_m)
            for x, y in zip(columns[chosen].tolist(), rows[chosen].tolist(), strict=True)
        )

    @property
    def reach(self) -> Bounds:
        """West, south, east, north in WGS84: all that patches of this tile can show, and a quarter side more.

        Longitudes may pass ±180°.
        """
        west, south, east, north = mercantile.bounds(self.tile)
        scale = min(min(ground_scale(latitude)) for latitude in (south, north))
        margin_m = 0.75 * self.grid.side_m / scale
        (left, bottom), (right, top) = (
            mercator_at(LngLat(*corner)) for corner in ((west, south), (east, north))
        )
        low, high = lnglat_at(left - margin_m, bottom - margin_m), lnglat_at(right + margin_m, top + margin_m)
        return low.lng, low.lat, high.lng, high.lat

    def __len__(self) -> int:
        return int(np.unpackbits(np.frombuffer(self.members, np.uint8)).sum())

    def split(self) -> tuple[Block, ...]:
        """The non-empty quarters of the block, in quadkey order."""
        quarters = np.split(self._mask(4 ** (self.grid.zoom - self.tile.z)), 4)
        children = _quarters(self.tile)
        return tuple(
            Block(tile=child, grid=self.grid, members=np.packbits(mask).tobytes())
            for child, mask in zip(children, quarters, strict=True)
            if mask.any()
        )

    def _mask(self, count: int) -> npt.NDArray[np.bool_]:
        return np.unpackbits(np.frombuffer(self.members, np.uint8), count=count).astype(bool)


def ground_scale(latitude_deg: float) -> tuple[float, float]:
    """Ground metres per EPSG:3857 metre, eastwards and northwards, on the WGS84 ellipsoid."""
    latitude = radians(latitude_deg)
    flattening = 1 - ECCENTRICITY_SQUARED * sin(latitude) ** 2
    east = cos(latitude) / sqrt(flattening)
    north = cos(latitude) * (1 - ECCENTRICITY_SQUARED) / flattening**1.5
    return east, north


def stride_m(zoom: int, latitude_deg: float) -> float:
    """Ground metres between neighbouring patch centres: mean of both axes, which differ by under 0.7 %."""
    east, north = ground_scale(latitude_deg)
    return WORLD_M / (1 << zoom) * sqrt(east * north)


def lnglat_at(x_m: float, y_m: float) -> LngLat:
    """WGS84 position of EPSG:3857 metres; longitudes are not wrapped."""
    return LngLat(lng=degrees(x_m / EARTH_RADIUS_M), lat=degrees(atan(sinh(y_m / EARTH_RADIUS_M))))


def mercator_at(position: LngLat) -> tuple[float, float]:
    """EPSG:3857 metres (east, north) of a WGS84 position."""
    return radians(position.lng) * EARTH_RADIUS_M, asinh(tan(radians(position.lat))) * EARTH_RADIUS_M


def mercators_at(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """EPSG:3857 metres (N, 2), east and north, of (N, 2) WGS84 longitudes and latitudes."""
    lngs, lats = np.radians(positions).T
    return np.column_stack([lngs, np.arcsinh(np.tan(lats))]) * EARTH_RADIUS_M


def patch_at(position: LngLat, grid: GridSpec) -> Patch:
    """The patch whose tile contains the position.

    Raises:
        BadArea: the position is not on the Mercator map.
    """
    if not (abs(position.lng) <= 180 and abs(position.lat) <= MAX_LATITUDE_DEG):
        raise BadArea(
            f"position lng={position.lng} lat={position.lat} is off the map; "
            f"give longitude within ±180 and latitude within ±{MAX_LATITUDE_DEG:.2f} degrees"
        )
    return Patch(tile=mercantile.tile(position.lng, position.lat, grid.zoom), side_m=grid.side_m)


def tile_of(quadkey: str) -> Tile:
    """The tile of that name."""
    return mercantile.quadkey_to_tile(quadkey)


def patches_over(area: BaseGeometry, grid: GridSpec) -> Iterator[Patch]:
    """Every patch whose centre lies inside the area (border included), once, in quadkey order.

    Lazy: memory does not grow with the area.

    Raises:
        BadArea: the area is not polygonal WGS84.
    """
    for block in plan_blocks(area, grid):
        yield from block.patches


def plan_blocks(area: BaseGeometry, grid: GridSpec, *, tiles_per_side: int = 16) -> Iterator[Block]:
    """The same patches as `patches_over`, grouped under parent tiles of up to `tiles_per_side`² patches.

    Raises:
        BadArea: the area is not polygonal WGS84.
        BadGrid: `tiles_per_side` is not a power of two up to 256.
    """
    levels = tiles_per_side.bit_length() - 1
    if tiles_per_side != 2**levels or not 0 <= levels <= 8:
        raise BadGrid(f"tiles_per_side {tiles_per_side} is not a power of two from 1 to 256; use 16")
    check_area(area)
    return _blocks_under(Tile(0, 0, 0), area, grid, grid.zoom - levels)


def check_area(area: BaseGeometry) -> None:
    """Prepare an area for many questions.

    Raises:
        BadArea: it is not polygonal, not valid, or not in WGS84.
    """
    if area.is_empty:
        return
    if area.geom_type not in {"Polygon", "MultiPolygon"}:
        raise BadArea(f"the area is a {area.geom_type}; give a Polygon or MultiPolygon in WGS84")
    west, south, east, north = area.bounds
    if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise BadArea(
            f"the area spans longitudes {west:g} to {east:g} and latitudes {south:g} to {north:g}; give "
            "WGS84 degrees (lng, lat), split at the antimeridian"
        )
    if not area.is_valid:
        raise BadArea(
            f"the area is invalid ({shapely.is_valid_reason(area)}); repair it, e.g. with ST_MakeValid"
        )
    shapely.prepare(area)


def _blocks_under(tile: Tile, area: BaseGeometry, grid: GridSpec, block_zoom: int) -> Iterator[Block]:
    if not area.intersects(box(*mercantile.bounds(tile))):
        return
    if tile.z < block_zoom:
        for child in _quarters(tile):
            yield from _blocks_under(child, area, grid, block_zoom)
        return
    columns, rows = _tiles_under(tile, grid.zoom)
    lng, lat = _tile_centres(columns, rows, grid.zoom)
    inside = shapely.intersects_xy(area, lng, lat)
    if inside.any():
        yield Block(tile=tile, grid=grid, members=np.packbits(inside).tobytes())


def _quarters(tile: Tile) -> tuple[Tile, ...]:
    """Children in quadkey order (mercantile's own order walks around the parent instead)."""
    return tuple(
        Tile(2 * tile.x + east, 2 * tile.y + south, tile.z + 1) for south in (0, 1) for east in (0, 1)
    )


def _tiles_under(tile: Tile, zoom: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Columns and rows of all tiles of `zoom` below `tile`, in quadkey order."""
    levels = zoom - tile.z
    columns, rows = _z_curve(levels)
    return columns + (tile.x << levels), rows + (tile.y << levels)


@lru_cache(maxsize=16)
def _z_curve(levels: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """De-interleave 0 … 4^levels - 1: even bits are the column, odd bits the row."""
    index = np.arange(4**levels, dtype=np.int64)
    columns, rows = np.zeros_like(index), np.zeros_like(index)
    for bit in range(levels):
        columns |= ((index >> (2 * bit)) & 1) << bit
        rows |= ((index >> (2 * bit + 1)) & 1) << bit
    return columns, rows


def _tile_centres(
    columns: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], zoom: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    tile_turn = 2 * pi / 2**zoom
    lng = np.degrees((columns + 0.5) * tile_turn - pi)
    lat = np.degrees(np.arctan(np.sinh(pi - (rows + 0.5) * tile_turn)))
    return lng, lat
