"""What a city is made of, as vectors in local metres (x east, y north)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from shapely import get_parts
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from simulation.streets import Street


class Material(IntEnum):
    """What the ground, or the top of a thing, is made of; index into every palette."""

    GRASS = 0
    MEADOW = 1
    SOIL = 2
    ASPHALT = 3
    ASPHALT_OLD = 4
    SIDEWALK = 5
    PAVING = 6
    GRAVEL = 7
    WATER = 8
    MARKING = 9
    PITCH = 10
    CLAY = 11
    COURT_BLUE = 12
    SAND = 13
    ROOF = 14
    HEDGE = 15
    WALL = 16
    POOL = 17
    CROP = 18
    SOLAR = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """A footprint and what stands on it. ridge_m = 0 is a flat roof; colours index the style's lists."""

    footprint: Polygon
    eave_m: float
    ridge_m: float
    storey_m: float
    bay_m: float
    roof: int
    facade: int
    look: int


@dataclass(slots=True)
class Plan:
    """Everything that stands or lies in one city; lists are painted in order, later over earlier."""

    size_m: float
    streets: list[Street]
    surfaces: list[tuple[BaseGeometry, Material]] = field(default_factory=list)
    marks: list[tuple[BaseGeometry, Material]] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    trees: list[tuple[float, float, float, float, float]] = field(
        default_factory=list
    )  # x, y, radius, top, crown base
    hedges: list[tuple[BaseGeometry, float]] = field(default_factory=list)
    cars: list[Polygon] = field(default_factory=list)
    poles: list[tuple[float, float]] = field(default_factory=list)


def polygons(geometry: BaseGeometry) -> list[Polygon]:
    """The polygons of any geometry, lines and points left out."""
    if isinstance(geometry, Polygon):
        return [] if geometry.is_empty else [geometry]
    if isinstance(geometry, MultiPolygon):
        return list(geometry.geoms)
    return [p for p in get_parts(geometry) if isinstance(p, Polygon)]
