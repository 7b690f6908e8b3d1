"""From a prior to shapes that the engine can filter by, and to the positions that need a second look.

The engine measures circles by haversine on a sphere; people mean metres on the ground, which differ by up to
0.56 %. So a circle becomes a disc that surely holds it, plus a thin rim in which every position is checked on
the ellipsoid. Polygons are planar in (lng, lat) on both sides and need no rim, but the engine leaves their
outline out, so they grow by 0.1 mm. Knows no Qdrant package.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from mercantile import LngLat
from shapely.geometry import MultiPolygon, Polygon, box

from spatial_index.geodesy import areas_in, boxes_around, distances_m, geodesic_per_haversine
from spatial_index.priors import CirclePrior, PolygonPrior, Prior

ENGINE_SPHERE_M = 6_371_008.8  # mean Earth radius of Rust's geo crate, which Qdrant measures with


@dataclass(frozen=True, kw_only=True, slots=True)
class Disc:
    """All positions within `radius_m` of `centre`, by haversine on the engine's sphere."""

    centre: LngLat
    radius_m: float

    @property
    def boxes(self) -> tuple[Polygon, ...]:
        """Rectangles that hold the disc.

        The engine's own lookup of a circle loses points at the borders of its geo cells (qdrant-edge 0.9: in
        26 of 6,000 circles of 1 to 20,000 km among 40,000 points). So the lookup goes by these boxes, and the
        circle is only checked point by point, which is exact.
        """
        boxes = boxes_around(self.centre, min(self.radius_m / ENGINE_SPHERE_M, math.pi))
        return _with_outline(MultiPolygon(boxes))


Shape = Disc | Polygon

# The engine's polygon filter leaves out its own outline, and answers a polygon with a corner at ±180°, ±90°
# with almost nothing (qdrant-edge 0.9: 315 of 2,031 points). So shapes stop just short of the map's edge,
# outlines grow by OUTLINE_DEG (0.1 mm), and positions are kept inside MAX_LNG and MAX_LAT when stored.
OUTLINE_DEG = 1e-9
MAX_LNG = 180.0 - 2e-9
MAX_LAT = 90.0 - 2e-9
_MAP = box(-180.0 + OUTLINE_DEG, -90.0 + OUTLINE_DEG, 180.0 - OUTLINE_DEG, 90.0 - OUTLINE_DEG)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rim:
    """Positions in `outer` and not in `inner` belong to the circle only if a geodesic says so."""

    outer: Disc
    inner: Disc | None
    radius_m: float

    def outside(self, points: Iterable[tuple[uuid.UUID, LngLat]]) -> tuple[uuid.UUID, ...]:
        """The ids whose geodesic distance from the centre is greater than the radius."""
        found = list(points)
        if not found:
            return ()
        metres = distances_m(self.outer.centre, [p.lng for _, p in found], [p.lat for _, p in found])
        return tuple(found[i][0] for i in (metres > self.radius_m).nonzero()[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The union of `shapes`, and the rim to look at twice. No shapes: everything."""

    shapes: tuple[Shape, ...] = ()
    rim: Rim | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Exactly the points that may be returned: in any of `shapes` (none: everywhere), not in `excluded`."""

    shapes: tuple[Shape, ...] = ()
    excluded: tuple[uuid.UUID, ...] = ()

    @property
    def everything(self) -> bool:
        """No filter at all."""
        return not self.shapes and not self.excluded


def select(prior: Prior | None) -> Selection:
    """The filter of a prior's search area."""
    match prior:
        case None:
            return Selection()
        case CirclePrior():
            rim = _rim(prior.centre, prior.search_radius_m)
            return Selection(shapes=(rim.outer,), rim=rim)
        case PolygonPrior():
            return Selection(shapes=_with_outline(prior.search_polygon))
        case _:
            raise TypeError(f"unknown kind of prior: {type(prior).__name__}")


def _with_outline(area: MultiPolygon) -> tuple[Polygon, ...]:
    grown = [part.buffer(OUTLINE_DEG, join_style="mitre").intersection(_MAP) for part in area.geoms]
    return tuple(piece for part in grown for piece in areas_in(part))


def _rim(centre: LngLat, radius_m: float) -> Rim:
    low, high = geodesic_per_haversine(centre, radius_m, ENGINE_SPHERE_M)
    slack_m = 1e-3  # haversine keeps about 1e-4 m of a float64 degree
    inner_m = radius_m / high - slack_m
    inner = Disc(centre=centre, radius_m=inner_m) if inner_m > 0 else None
    return Rim(outer=Disc(centre=centre, radius_m=radius_m / low + slack_m), inner=inner, radius_m=radius_m)
