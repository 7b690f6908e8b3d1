"""From a prior to conditions that the engine can filter by, and to the patches that need a second look.

The engine measures circles by haversine on a sphere; people mean metres on the ground, which differ by up to
0.56 %. A corridor becomes polygons, a few per cent off. So an area becomes two conditions: `outer` surely
holds it, `inner` surely lies within it, and the patches between the two are checked one by one (`weights`).
Since and/or never turn a yes into a no, the same two conditions of composed priors are composed of the
parts'. Polygons are planar in (lng, lat) on both sides and need no second look, but the engine leaves their
outline out, so they grow by 0.1 mm. Knows no Qdrant package.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from mercantile import LngLat
from shapely.geometry import Polygon, box

from spatial_index.corridor import areas_around
from spatial_index.geodesy import areas_in, boxes_around, geodesic_per_haversine
from spatial_index.priors import (
    AllOf,
    AnyOf,
    CirclePrior,
    CorridorPrior,
    PolygonPrior,
    Prior,
    RegionPrior,
    TimePrior,
)

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
        return _with_outline(boxes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Captured:
    """Taken at `start` or later and before `end`, both UTC; never one of unknown time."""

    start: datetime | None
    end: datetime | None

    @property
    def seconds(self) -> tuple[float, float]:
        """Since 1970; infinite where there is no bound."""
        return (
            self.start.timestamp() if self.start else -math.inf,
            self.end.timestamp() if self.end else math.inf,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class InRegions:
    """In a region of one of these names. Decided by region, never sent to the engine."""

    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class InCells:
    """In one of these cells; see `spatial_index.cells`."""

    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Every:
    """All parts hold; of none: always."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Some:
    """A part holds; of none: never."""

    parts: tuple[Condition, ...] = ()


Shape = Disc | Polygon
Leaf = Shape | Captured | InRegions | InCells
Condition = Leaf | Every | Some
EVERYTHING = Every()
NOTHING = Some()

# The engine's polygon filter leaves out its own outline, and answers a polygon with a corner at ±180°, ±90°
# with almost nothing (qdrant-edge 0.9: 315 of 2,031 points). So shapes stop just short of the map's edge,
# outlines grow by OUTLINE_DEG (0.1 mm), and positions are kept inside MAX_LNG and MAX_LAT when stored.
OUTLINE_DEG = 1e-9
MAX_LNG = 180.0 - 2e-9
MAX_LAT = 90.0 - 2e-9
_MAP = box(-180.0 + OUTLINE_DEG, -90.0 + OUTLINE_DEG, 180.0 - OUTLINE_DEG, 90.0 - OUTLINE_DEG)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What passes `outer` and not `inner` belongs to the prior's search area only if `weights` says so."""

    outer: Condition = EVERYTHING
    inner: Condition = EVERYTHING

    @property
    def is_exact(self) -> bool:
        """Nothing lies between the two."""
        return self.outer == self.inner

    def where(self, known: Callable[[Leaf], bool | None]) -> Selection:
        """The same where some leaves are known to hold everywhere (True) or nowhere (False)."""
        outer = folded(self.outer, known)
        return Selection(outer=outer, inner=folded(self.inner, known) if outer != NOTHING else NOTHING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """Where and when a patch was taken."""

    id: uuid.UUID
    location: LngLat
    captured_at: datetime | None
    cells: tuple[str, ...] = ()
    """See `spatial_index.cells`; none: written by an earlier version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Exactly the patches that may be returned: they pass `condition` and are not in `excluded`."""

    condition: Condition = EVERYTHING
    excluded: tuple[uuid.UUID, ...] = ()

    @property
    def everything(self) -> bool:
        """No filter at all."""
        return self.condition == EVERYTHING and not self.excluded


def select(prior: Prior | None) -> Selection:  # noqa: PLR0911  one return for each kind of prior
    """The filter of a prior's search area."""
    match prior:
        case None:
            return Selection()
        case CirclePrior():
            return _around_centre(prior.centre, prior.search_radius_m)
        case PolygonPrior():
            return _exactly(Some(parts=_with_outline(prior.search_polygon.geoms)))
        case CorridorPrior():
            outer, inner = areas_around(prior.line, prior.search_half_width_m)
            return Selection(outer=Some(parts=_with_outline(outer)), inner=Some(parts=_with_outline(inner)))
        case RegionPrior():
            return _exactly(InRegions(names=prior.names))
        case TimePrior():
            return _exactly(Captured(start=prior.start, end=prior.end))
        case AllOf():
            parts = [select(part) for part in prior.priors]
            return Selection(outer=Every(parts=_outers(parts)), inner=Every(parts=_inners(parts)))
        case AnyOf():
            parts = [select(part) for part in prior.priors]
            return Selection(outer=Some(parts=_outers(parts)), inner=Some(parts=_inners(parts)))
        case _:
            raise TypeError(f"unknown kind of prior: {type(prior).__name__}")


def folded(condition: Condition, known: Callable[[Leaf], bool | None]) -> Condition:
    """The condition without the leaves whose outcome is known; EVERYTHING or NOTHING only as a whole."""
    if not isinstance(condition, (Every, Some)):
        outcome = known(condition)
        return condition if outcome is None else EVERYTHING if outcome else NOTHING
    decides, says_nothing = (NOTHING, EVERYTHING) if isinstance(condition, Every) else (EVERYTHING, NOTHING)
    open_parts = []
    for part in condition.parts:
        left = folded(part, known)
        if left == decides:
            return decides
        if left != says_nothing:
            open_parts.append(left)
    return open_parts[0] if len(open_parts) == 1 else type(condition)(parts=tuple(open_parts))


def leaves(condition: Condition) -> Iterator[Leaf]:
    """All leaves of a condition."""
    if not isinstance(condition, (Every, Some)):
        yield condition
        return
    for part in condition.parts:
        yield from leaves(part)


def _exactly(condition: Condition) -> Selection:
    return Selection(outer=condition, inner=condition)


def _outers(selections: list[Selection]) -> tuple[Condition, ...]:
    return tuple(selection.outer for selection in selections)


def _inners(selections: list[Selection]) -> tuple[Condition, ...]:
    return tuple(selection.inner for selection in selections)


def _with_outline(areas: Iterable[Polygon]) -> tuple[Polygon, ...]:
    grown = [part.buffer(OUTLINE_DEG, join_style="mitre").intersection(_MAP) for part in areas]
    return tuple(piece for part in grown for piece in areas_in(part))


def _around_centre(centre: LngLat, radius_m: float) -> Selection:
    low, high = geodesic_per_haversine(centre, radius_m, ENGINE_SPHERE_M)
    slack_m = 1e-3  # haversine keeps about 1e-4 m of a float64 degree
    inner_m = radius_m / high - slack_m
    return Selection(
        outer=Disc(centre=centre, radius_m=radius_m / low + slack_m),
        inner=Disc(centre=centre, radius_m=inner_m) if inner_m > 0 else NOTHING,
    )
