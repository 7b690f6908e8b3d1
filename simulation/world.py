"""The world as rasters: what both cameras, the one in the sky and the one in the street, look at.

Row 0 is the north edge, column 0 the west edge. Shapes are (H, W) with square cells of `gsd_m` metres in a
projected CRS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Proj, Transformer

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

CROWN_UNIT_M = 0.2  # crown heights are stored in fifths of a metre in one byte: up to 51 m
CAR_UNIT_M = 0.02  # car heights in fiftieths: up to 5.1 m


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildingTable:
    """One row per building id (row 0 is 'no building')."""

    angle_rad: F32  # direction of the long side, from east, counter-clockwise
    storey_m: F32
    bay_m: F32
    eave_m: F32
    roof_rgb: U8  # (B, 3)
    facade_rgb: U8  # (B, 3)
    look: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Rasters of one city.

    terrain_m: ground height; solid_m: height of buildings, hedges, walls, poles above ground; crown_base /
    crown_top: tree crowns in units of CROWN_UNIT_M (0 = none); tree: id of the tree; car: id of a place where
    a car may stand, car_top in units of CAR_UNIT_M; material: simulation.features.Material of the top
    surface; building: row of `buildings`; albedo: (H, W, 3) true colours where the world comes from a real
    orthophoto, else None.
    """

    crs: CRS
    west: float
    north: float
    gsd_m: float
    terrain_m: F32
    solid_m: F32
    crown_base: U8
    crown_top: U8
    tree: NDArray[np.uint16]
    car: NDArray[np.uint16]
    car_top: U8
    material: U8
    building: NDArray[np.int32]
    buildings: BuildingTable
    albedo: U8 | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.terrain_m.shape
        return rows, columns

    def cell_of(self, easting: float, northing: float) -> tuple[float, float]:
        """(column, row) of a projected position, fractional; cell centres are at .5."""
        return (easting - self.west) / self.gsd_m, (self.north - northing) / self.gsd_m

    def to_lnglat(
        self, easting: NDArray[np.float64], northing: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Projected metres to WGS84 (longitude, latitude) in degrees."""
        lng, lat = _to_wgs84(self.crs).transform(easting, northing)
        return np.asarray(lng), np.asarray(lat)

    def convergence_deg(self, easting: float, northing: float) -> float:
        """Meridian convergence: true azimuth = grid azimuth + convergence."""
        lng, lat = self.to_lnglat(np.array([easting]), np.array([northing]))
        return float(_projection(self.crs).get_factors(lng[0], lat[0]).meridian_convergence)


@lru_cache(maxsize=8)
def _to_wgs84(crs: CRS) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


@lru_cache(maxsize=8)
def _projection(crs: CRS) -> Proj:
    return Proj(crs)
