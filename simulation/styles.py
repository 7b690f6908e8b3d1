"""City styles: street pattern, building stock, vegetation, palette and season, as plain data.

Training uses TRAIN_STYLES only. A held-out style shares no street pattern, no dominant building stock, no
palette and no season with any of them, so that a figure measured on it speaks of a city unlike those trained
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from simulation.errors import UnknownStyle

Rgb = tuple[int, int, int]


class Pattern(StrEnum):
    """How the streets are laid out."""

    GRID = "grid"
    WARPED = "warped"
    ORGANIC = "organic"
    SUPERBLOCK = "superblock"
    CRESCENT = "crescent"
    RADIAL = "radial"


class Season(StrEnum):
    """Decides foliage and the colour of the grass."""

    SPRING = "spring"
    SUMMER = "summer"
    AUTUMN = "autumn"
    WINTER = "winter"


class LandUse(StrEnum):
    """What a block is built as."""

    DETACHED = "detached"
    ROW = "row"
    PERIMETER = "perimeter"
    SLAB = "slab"
    COURT = "court"
    INDUSTRY = "industry"
    CIVIC = "civic"
    PARK = "park"
    SPORT = "sport"
    PARKING = "parking"
    FIELD = "field"


@dataclass(frozen=True, slots=True, kw_only=True)
class CityStyle:
    """One kind of city.

    block_m: typical block side; mix: relative frequency of land uses; roofs, facades: base colours (sRGB);
    street_trees: share of streets lined with trees; river_width_m: 0 for none; relief_m: height range of the
    terrain.
    """

    pattern: Pattern
    block_m: float
    mix: Mapping[LandUse, float]
    roofs: tuple[Rgb, ...]
    facades: tuple[Rgb, ...]
    season: Season
    flat_roof_share: float
    storeys: tuple[int, int]
    street_trees: float
    river_width_m: float
    relief_m: float


_GREY_ROOFS: tuple[Rgb, ...] = ((118, 116, 112), (92, 90, 92), (150, 146, 140), (70, 72, 78))
_RED_ROOFS: tuple[Rgb, ...] = ((150, 84, 62), (128, 72, 58), (104, 66, 58), (168, 104, 76))
_MIXED_ROOFS: tuple[Rgb, ...] = ((132, 80, 66), (96, 94, 94), (74, 70, 72), (158, 150, 138), (112, 98, 80))
_PALE_ROOFS: tuple[Rgb, ...] = ((196, 190, 180), (172, 168, 160), (214, 210, 204), (138, 134, 128))
_SLATE_ROOFS: tuple[Rgb, ...] = ((84, 92, 108), (102, 112, 124), (66, 72, 84), (122, 124, 132))
_OCHRE_ROOFS: tuple[Rgb, ...] = (
    (176, 132, 84),
    (150, 118, 86),
    (118, 92, 70),
    (98, 108, 92),
    (142, 128, 112),
)

_PLASTER: tuple[Rgb, ...] = (
    (214, 204, 184),
    (196, 178, 150),
    (226, 220, 208),
    (182, 164, 148),
    (204, 190, 160),
)
_BRICK: tuple[Rgb, ...] = ((140, 86, 70), (120, 76, 64), (158, 112, 90), (174, 150, 128), (102, 78, 70))
_CONCRETE: tuple[Rgb, ...] = (
    (168, 166, 160),
    (146, 146, 146),
    (190, 188, 182),
    (132, 140, 148),
    (206, 206, 200),
)
_PASTEL: tuple[Rgb, ...] = (
    (206, 196, 170),
    (186, 198, 196),
    (210, 184, 172),
    (222, 212, 176),
    (180, 190, 170),
)
_TIMBER: tuple[Rgb, ...] = ((124, 98, 76), (150, 124, 96), (196, 190, 180), (96, 80, 70), (168, 152, 132))
_CREAM: tuple[Rgb, ...] = (
    (232, 214, 160),
    (224, 190, 130),
    (214, 168, 120),
    (200, 206, 190),
    (236, 226, 204),
)

STYLES: Mapping[str, CityStyle] = MappingProxyType(
    {
        "grid-brick": CityStyle(
            pattern=Pattern.GRID,
            block_m=92.0,
            mix={
                LandUse.ROW: 5,
                LandUse.PERIMETER: 2,
                LandUse.COURT: 1,
                LandUse.PARK: 0.8,
                LandUse.PARKING: 0.7,
                LandUse.CIVIC: 0.6,
                LandUse.SPORT: 0.5,
            },
            roofs=_GREY_ROOFS,
            facades=_BRICK,
            season=Season.SUMMER,
            flat_roof_share=0.6,
            storeys=(2, 6),
            street_trees=0.5,
            river_width_m=0.0,
            relief_m=6.0,
        ),
        "warped-oldtown": CityStyle(
            pattern=Pattern.WARPED,
            block_m=70.0,
            mix={
                LandUse.ROW: 3,
                LandUse.COURT: 3,
                LandUse.PERIMETER: 1,
                LandUse.CIVIC: 0.8,
                LandUse.PARK: 0.6,
                LandUse.PARKING: 0.4,
            },
            roofs=_RED_ROOFS,
            facades=_PLASTER,
            season=Season.SUMMER,
            flat_roof_share=0.1,
            storeys=(2, 4),
            street_trees=0.25,
            river_width_m=34.0,
            relief_m=14.0,
        ),
        "organic-village": CityStyle(
            pattern=Pattern.ORGANIC,
            block_m=105.0,
            mix={
                LandUse.DETACHED: 6,
                LandUse.ROW: 1,
                LandUse.FIELD: 1,
                LandUse.PARK: 0.6,
                LandUse.SPORT: 0.6,
                LandUse.CIVIC: 0.5,
                LandUse.INDUSTRY: 0.5,
            },
            roofs=_MIXED_ROOFS,
            facades=_TIMBER,
            season=Season.SPRING,
            flat_roof_share=0.1,
            storeys=(1, 3),
            street_trees=0.3,
            river_width_m=14.0,
            relief_m=18.0,
        ),
        "superblock-slabs": CityStyle(
            pattern=Pattern.SUPERBLOCK,
            block_m=150.0,
            mix={
                LandUse.SLAB: 5,
                LandUse.COURT: 1,
                LandUse.PARK: 1,
                LandUse.SPORT: 1,
                LandUse.PARKING: 1,
                LandUse.CIVIC: 1,
                LandUse.INDUSTRY: 0.6,
            },
            roofs=_PALE_ROOFS,
            facades=_CONCRETE,
            season=Season.SPRING,
            flat_roof_share=0.95,
            storeys=(4, 12),
            street_trees=0.6,
            river_width_m=0.0,
            relief_m=5.0,
        ),
        "crescent-suburb": CityStyle(
            pattern=Pattern.CRESCENT,
            block_m=95.0,
            mix={
                LandUse.DETACHED: 5,
                LandUse.ROW: 2,
                LandUse.SLAB: 0.6,
                LandUse.PARK: 0.8,
                LandUse.SPORT: 0.7,
                LandUse.CIVIC: 0.5,
                LandUse.PARKING: 0.4,
            },
            roofs=_SLATE_ROOFS,
            facades=_PASTEL,
            season=Season.WINTER,
            flat_roof_share=0.2,
            storeys=(1, 3),
            street_trees=0.45,
            river_width_m=0.0,
            relief_m=12.0,
        ),
        "grid-mixed": CityStyle(
            pattern=Pattern.GRID,
            block_m=120.0,
            mix={
                LandUse.DETACHED: 2,
                LandUse.SLAB: 2,
                LandUse.INDUSTRY: 2,
                LandUse.PARKING: 1,
                LandUse.ROW: 2,
                LandUse.PARK: 0.7,
                LandUse.FIELD: 0.5,
            },
            roofs=_PALE_ROOFS + _GREY_ROOFS,
            facades=_PASTEL + _CONCRETE,
            season=Season.WINTER,
            flat_roof_share=0.6,
            storeys=(1, 7),
            street_trees=0.35,
            river_width_m=22.0,
            relief_m=8.0,
        ),
        "radial-residence": CityStyle(
            pattern=Pattern.RADIAL,
            block_m=88.0,
            mix={
                LandUse.PERIMETER: 5,
                LandUse.DETACHED: 2,
                LandUse.PARK: 1.2,
                LandUse.SLAB: 0.8,
                LandUse.CIVIC: 0.8,
                LandUse.SPORT: 0.6,
                LandUse.PARKING: 0.5,
            },
            roofs=_OCHRE_ROOFS,
            facades=_CREAM,
            season=Season.AUTUMN,
            flat_roof_share=0.3,
            storeys=(2, 6),
            street_trees=0.45,
            river_width_m=26.0,
            relief_m=10.0,
        ),
    }
)

HELD_OUT_STYLES: tuple[str, ...] = ("radial-residence",)
TRAIN_STYLES: tuple[str, ...] = tuple(name for name in STYLES if name not in HELD_OUT_STYLES)


def style_named(name: str) -> CityStyle:
    """The style of that name.

    Raises:
        UnknownStyle: there is none.
    """
    try:
        return STYLES[name]
    except KeyError:
        raise UnknownStyle(f"city style {name!r} is unknown; choose one of: {', '.join(STYLES)}") from None
