"""What the caller already knows about the position, as checked values.

A HARD prior is a filter: nothing outside it is ever returned. A SOFT prior is a weight: the search looks in
a wider area, and `weights.log_weights` lets distant candidates lose instead of vanish. Everything invalid is
refused here, because the engine would answer it with silence. Knows nothing of how filters are executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import shapely
from mercantile import LngLat
from shapely.geometry import LineString, MultiPolygon, Polygon

from spatial_index.errors import BadPrior
from spatial_index.geodesy import widened
from spatial_index.outlines import (
    MAX_VERTICES,
    check_lat,
    check_lng,
    check_vertex_count,
    checked_line,
    checked_polygon,
)
from spatial_index.records import NAME_RULE

MAX_RADIUS_M = 20_000_000.0
MAX_HALF_WIDTH_M = 100_000.0
MAX_REGIONS = 100
MAX_DEPTH = 4  # AllOf((circle, polygon)) has depth 1
MAX_LEAVES = 64
SOFT_WIDENING = 3.0  # a SOFT circle is searched out to this many radii: 7.3 σ at a confidence level of 0.95
FALLOFF_M = 100.0


class PriorMode(Enum):
    """Whether a prior excludes or only weighs."""

    HARD = "hard"
    SOFT = "soft"


@dataclass(frozen=True, kw_only=True, slots=True)
class CirclePrior:
    """Within `radius_m` of `centre` with probability `confidence_level`.

    Raises:
        BadPrior: NaN, a position that is not on Earth, or a radius or confidence level out of range.
    """

    centre: LngLat
    radius_m: float
    confidence_level: float = 0.95
    mode: PriorMode = PriorMode.HARD

    def __post_init__(self) -> None:
        check_lng("circle.centre", self.centre.lng)
        check_lat("circle.centre", self.centre.lat)
        remedy = "leave the prior out to search everywhere"
        _check_metres("circle.radius_m", self.radius_m, MAX_RADIUS_M, remedy)
        if not 0.0 < self.confidence_level < 1.0:
            raise BadPrior(
                "circle.confidence_level",
                self.confidence_level,
                "between 0 and 1, both excluded",
                "phones report 0.68, most maps 0.95",
            )

    @property
    def sigma_m(self) -> float:
        """Standard deviation per axis of the round 2-D Gaussian with this radius (Rayleigh quantile)."""
        return self.radius_m / math.sqrt(-2.0 * math.log1p(-self.confidence_level))

    @property
    def search_radius_m(self) -> float:
        """How far the search looks: the radius itself when HARD, widened when SOFT."""
        if self.mode is PriorMode.HARD:
            return self.radius_m
        return min(self.radius_m * SOFT_WIDENING, MAX_RADIUS_M)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolygonPrior:
    """Inside an area, given as a shapely Polygon or MultiPolygon in WGS84 (x = lng, y = lat).

    Edges are straight in longitude and latitude; an edge that jumps by more than 180° of longitude crosses
    the antimeridian, and `polygon` then holds the two halves (RFC 7946, sections 3.1.1 and 3.1.9).

    Raises:
        BadPrior: NaN, a vertex that is not on Earth, self-intersection, no area, too many vertices, or a ring
            around a pole.
    """

    polygon: Polygon | MultiPolygon
    mode: PriorMode = PriorMode.HARD
    falloff_m: float = FALLOFF_M
    """SOFT only: standard deviation of the weight's fall outside the area."""

    def __post_init__(self) -> None:
        _check_metres("polygon.falloff_m", self.falloff_m, MAX_RADIUS_M, "the default is 100")
        object.__setattr__(self, "polygon", checked_polygon(self.polygon))

    @property
    def search_polygon(self) -> MultiPolygon:
        """Where the search looks: the area itself when HARD, widened by 3 falloffs when SOFT."""
        assert isinstance(self.polygon, MultiPolygon)  # __post_init__ made it one
        if self.mode is PriorMode.HARD:
            return self.polygon
        return widened(self.polygon, SOFT_WIDENING * self.falloff_m)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorridorPrior:
    """Within `half_width_m` metres of a shapely LineString in WGS84 (x = lng, y = lat), its ends rounded.

    Edges are straight in longitude and latitude and take the short way across the antimeridian, as in
    RFC 7946; the width is the geodesic distance to the nearest place on the line.

    Raises:
        BadPrior: NaN, a position that is not on Earth, too many of them, no two that differ, or a half-width
            out of range.
    """

    line: LineString
    half_width_m: float
    mode: PriorMode = PriorMode.HARD
    falloff_m: float = FALLOFF_M
    """SOFT only: standard deviation of the weight's fall beyond the half-width."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", checked_line(self.line))
        remedy = "use a polygon for anything wider"
        _check_metres("corridor.half_width_m", self.half_width_m, MAX_HALF_WIDTH_M, remedy)
        _check_metres("corridor.falloff_m", self.falloff_m, MAX_HALF_WIDTH_M, "the default is 100")

    @property
    def search_half_width_m(self) -> float:
        """How far the search looks: the half-width itself when HARD, 3 falloffs more when SOFT."""
        extra_m = 0.0 if self.mode is PriorMode.HARD else SOFT_WIDENING * self.falloff_m
        return self.half_width_m + extra_m


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionPrior:
    """In one of the regions named. Always HARD; a name that is not live is refused by the search.

    Raises:
        BadPrior: no name, too many, or one outside the naming rule.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not 1 <= len(self.names) <= MAX_REGIONS:
            limit = f"1 to {MAX_REGIONS}"
            raise BadPrior(
                "regions.names", len(self.names), limit, "leave the prior out to search everywhere"
            )
        for index, name in enumerate(self.names):
            if not isinstance(name, str) or not NAME_RULE.fullmatch(name):
                rule = "1 to 63 of a-z, 0-9 and '-'"
                raise BadPrior(f"regions.names[{index}]", name, rule, "name a live region")

    @property
    def mode(self) -> PriorMode:
        """A patch is in a region or not."""
        return PriorMode.HARD


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePrior:
    """Imagery taken at `start` or later and before `end`; None leaves that side open. Always HARD.

    The interval is half-open, so that years and days tile without overlap. A time without a zone is UTC. A
    patch whose capture time is unknown never passes, even with one side open.

    Raises:
        BadPrior: neither side given, no moment, or an end that is not after the start.
    """

    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _utc("time_range.start_time", self.start))
        object.__setattr__(self, "end", _utc("time_range.end_time", self.end))
        if self.start is None and self.end is None:
            raise BadPrior("time_range", "empty", "a start, an end or both", "leave it out for any time")
        if self.start is not None and self.end is not None and self.end <= self.start:
            after = f"after the start, {self.start.isoformat()}"
            remedy = "the end is not part of the range: for one day give the next one"
            raise BadPrior("time_range.end_time", self.end.isoformat(), after, remedy)

    @property
    def mode(self) -> PriorMode:
        """Imagery is of that time or not."""
        return PriorMode.HARD


@dataclass(frozen=True, kw_only=True, slots=True)
class AllOf:
    """Where every one of `priors` holds; weights multiply.

    Raises:
        BadPrior: no prior, or together too many, too many vertices or too deeply nested.
    """

    priors: tuple[Prior, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "priors", tuple(self.priors))
        _check_parts("all_of", self.priors)

    @property
    def mode(self) -> PriorMode:
        """SOFT if any part is."""
        return _mode_of(self.priors)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyOf:
    """Where at least one of `priors` holds; the greatest weight counts.

    Raises:
        BadPrior: no prior, or together too many, too many vertices or too deeply nested.
    """

    priors: tuple[Prior, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "priors", tuple(self.priors))
        _check_parts("any_of", self.priors)

    @property
    def mode(self) -> PriorMode:
        """SOFT if any part is."""
        return _mode_of(self.priors)


Prior = CirclePrior | PolygonPrior | CorridorPrior | RegionPrior | TimePrior | AllOf | AnyOf


def hard_part(prior: Prior | None) -> Prior | None:
    """What still excludes when every SOFT prior is taken to be wrong; None excludes nothing."""
    match prior:
        case AllOf():
            parts = tuple(part for part in map(hard_part, prior.priors) if part is not None)
            return AllOf(priors=parts) if parts else None
        case AnyOf():
            found = tuple(map(hard_part, prior.priors))
            kept = tuple(part for part in found if part is not None)
            return AnyOf(priors=kept) if len(kept) == len(found) else None
        case None:
            return None
        case _:
            return prior if prior.mode is PriorMode.HARD else None


def leaves_of(prior: Prior) -> Iterator[Prior]:
    """The priors that a prior is composed of; a plain one is its own only leaf."""
    if not isinstance(prior, (AllOf, AnyOf)):
        yield prior
        return
    for part in prior.priors:
        yield from leaves_of(part)


def _check_metres(field: str, metres: float, most: float, remedy: str) -> None:
    if not (math.isfinite(metres) and 0.0 < metres <= most):
        raise BadPrior(field, metres, f"greater than 0 and at most {most:.0f} metres", remedy)


def _utc(field: str, moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise BadPrior(field, moment, "a date with time", "give a datetime")
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC)


def _check_parts(field: str, priors: tuple[Prior, ...]) -> None:
    if not priors:
        raise BadPrior(f"{field}.priors", "empty", "1 prior or more", "leave it out to search everywhere")
    depth = 1 + max(_depth(prior) for prior in priors)
    if depth > MAX_DEPTH:
        raise BadPrior(field, f"nested {depth} deep", f"at most {MAX_DEPTH} deep", "join what is alike")
    leaves = [leaf for prior in priors for leaf in leaves_of(prior)]
    if len(leaves) > MAX_LEAVES:
        limit = f"at most {MAX_LEAVES} in all"
        raise BadPrior(f"{field}.priors", f"{len(leaves)} priors", limit, "join areas into one polygon")
    check_vertex_count(f"{field}.vertices", sum(_vertices(leaf) for leaf in leaves), MAX_VERTICES)


def _depth(prior: Prior) -> int:
    return 1 + max(map(_depth, prior.priors)) if isinstance(prior, (AllOf, AnyOf)) else 0


def _vertices(leaf: Prior) -> int:
    match leaf:
        case PolygonPrior():
            return int(shapely.get_num_coordinates(leaf.polygon))
        case CorridorPrior():
            return int(shapely.get_num_coordinates(leaf.line))
        case _:
            return 0


def _mode_of(priors: tuple[Prior, ...]) -> PriorMode:
    soft = any(prior.mode is PriorMode.SOFT for prior in priors)
    return PriorMode.SOFT if soft else PriorMode.HARD
