"""What the caller already knows about the position, as checked values.

A HARD prior is a filter: nothing outside it is ever returned. A SOFT prior is a weight: the search looks in
a wider area, and `log_weight` lets distant candidates lose instead of vanish. Everything invalid is refused
here, because the engine would answer it with silence. Knows nothing of how filters are executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import shapely
from mercantile import LngLat
from numpy.typing import ArrayLike
from shapely.geometry import MultiPolygon, Polygon
from shapely.validation import explain_validity

from spatial_index.errors import BadPrior
from spatial_index.geodesy import (
    EnclosesPole,
    Floats,
    distance_outside_m,
    distances_m,
    parts_of,
    split_at_antimeridian,
    unwrapped,
    widened,
)

MAX_RADIUS_M = 20_000_000.0
MAX_VERTICES = 10_000
SOFT_WIDENING = 3.0  # a SOFT circle is searched out to this many radii: 7.3 σ at a confidence level of 0.95
_ORDER = "the order is (lng, lat) in WGS84 degrees; were they swapped?"


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
        _check_position("circle.centre", *self.centre)
        if not (math.isfinite(self.radius_m) and 0.0 < self.radius_m <= MAX_RADIUS_M):
            raise BadPrior(
                "circle.radius_m",
                self.radius_m,
                f"greater than 0 and at most {MAX_RADIUS_M:.0f} metres",
                "leave the prior out to search everywhere",
            )
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
    falloff_m: float = 100.0
    """SOFT only: standard deviation of the weight's fall outside the area."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.falloff_m) and 0.0 < self.falloff_m <= MAX_RADIUS_M):
            raise BadPrior("polygon.falloff_m", self.falloff_m, "greater than 0 metres", "the default is 100")
        object.__setattr__(self, "polygon", _checked_polygon(self.polygon))

    @property
    def search_polygon(self) -> MultiPolygon:
        """Where the search looks: the area itself when HARD, widened by 3 falloffs when SOFT."""
        assert isinstance(self.polygon, MultiPolygon)  # __post_init__ made it one
        if self.mode is PriorMode.HARD:
            return self.polygon
        return widened(self.polygon, SOFT_WIDENING * self.falloff_m)


Prior = CirclePrior | PolygonPrior


def from_geojson(
    value: str | Mapping[str, Any],
    *,
    mode: PriorMode = PriorMode.HARD,
    max_vertices: int = MAX_VERTICES,
) -> PolygonPrior:
    """A polygon prior from a GeoJSON Polygon, MultiPolygon, or Feature of one (RFC 7946).

    Raises:
        BadPrior: not such an object, an unclosed ring, or anything that PolygonPrior refuses.
    """
    geometry = _geometry_of(value)
    rings_of_parts = _rings_of_parts(geometry)
    _check_vertex_count(sum(_length(ring) for part in rings_of_parts for ring in part), max_vertices)
    parts = [[_checked_ring(ring) for ring in part] for part in rings_of_parts]
    polygons = [Polygon(rings[0], rings[1:]) for rings in parts]
    return PolygonPrior(polygon=polygons[0] if len(polygons) == 1 else MultiPolygon(polygons), mode=mode)


def contains(prior: Prior, lngs: ArrayLike, lats: ArrayLike) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which positions lie inside the prior itself (not its search area), (N,) bool. Rims are inside."""
    match prior:
        case CirclePrior():
            return distances_m(prior.centre, lngs, lats) <= prior.radius_m
        case PolygonPrior():
            inside = shapely.intersects_xy(prior.polygon, np.asarray(lngs), np.asarray(lats))
            return np.atleast_1d(inside)
        case _:
            raise TypeError(f"unknown kind of prior: {type(prior).__name__}")


def log_weights(prior: Prior, lngs: ArrayLike, lats: ArrayLike) -> Floats:
    """Natural log of the prior's weight at each position, (N,); 0 at its best, -inf outside a HARD one.

    SOFT circle: a round Gaussian with the circle's quantile. SOFT polygon: flat inside, Gaussian outside.
    """
    if prior.mode is PriorMode.HARD:
        return np.where(contains(prior, lngs, lats), 0.0, -np.inf)
    match prior:
        case CirclePrior():
            return -0.5 * (distances_m(prior.centre, lngs, lats) / prior.sigma_m) ** 2
        case PolygonPrior():
            area = MultiPolygon(parts_of(prior.polygon))
            pairs = zip(np.atleast_1d(lngs), np.atleast_1d(lats), strict=True)
            away_m = np.array([distance_outside_m(area, float(lng), float(lat)) for lng, lat in pairs])
            return -0.5 * (away_m / prior.falloff_m) ** 2
        case _:
            raise TypeError(f"unknown kind of prior: {type(prior).__name__}")


def log_weight(prior: Prior, position: LngLat) -> float:
    """`log_weights` of one position."""
    return float(log_weights(prior, position.lng, position.lat)[0])


def _check_position(field: str, lng: float, lat: float) -> None:
    if not (math.isfinite(lng) and -180.0 <= lng <= 180.0):
        raise BadPrior(f"{field}.lng", lng, "-180 to 180", _ORDER)
    if not (math.isfinite(lat) and -90.0 <= lat <= 90.0):
        raise BadPrior(f"{field}.lat", lat, "-90 to 90", _ORDER)


def _check_vertex_count(count: int, limit: int) -> None:
    if count > limit:
        raise BadPrior("polygon.vertices", count, f"at most {limit}", "simplify the outline")


def _checked_polygon(polygon: Polygon | MultiPolygon) -> MultiPolygon:
    if not isinstance(polygon, (Polygon, MultiPolygon)) or polygon.is_empty:
        kind = getattr(polygon, "geom_type", type(polygon).__name__)
        raise BadPrior("polygon", kind, "a non-empty Polygon or MultiPolygon", "give an outline with an area")
    coordinates = shapely.get_coordinates(polygon)  # (V, 2)
    _check_vertex_count(len(coordinates), MAX_VERTICES)
    _check_coordinates(coordinates)
    try:
        whole = MultiPolygon([unwrapped(part) for part in parts_of(polygon)])
        _check_valid(whole)
        return split_at_antimeridian(polygon)
    except EnclosesPole:
        raise BadPrior(
            "polygon", "a ring around a pole", "a ring that does not wind around the Earth",
            "cut it along the antimeridian and close it over the pole at latitude ±90",
        ) from None  # fmt: skip


def _check_coordinates(coordinates: Floats) -> None:
    bad = ~(np.isfinite(coordinates) & (np.abs(coordinates) <= [180.0, 90.0])).all(axis=1)
    if bad.any():
        index = int(np.argmax(bad))
        _check_position(f"polygon.vertices[{index}]", *map(float, coordinates[index]))


def _check_valid(polygon: MultiPolygon) -> None:
    if not polygon.is_valid:
        raise BadPrior(
            "polygon",
            explain_validity(polygon),
            "simple rings that do not cross",
            "redraw it or repair the outline",
        )
    if not polygon.area > 0.0:
        raise BadPrior("polygon.area", polygon.area, "greater than 0", "give an outline with an area")


def _geometry_of(value: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as exc:
            raise BadPrior("geojson", str(exc), "a JSON object", "send one GeoJSON geometry") from exc
    if isinstance(value, Mapping) and value.get("type") == "Feature":
        value = value.get("geometry") or {}
    if not isinstance(value, Mapping):
        raise BadPrior("geojson", type(value).__name__, "a JSON object", "send one GeoJSON geometry")
    return value


def _rings_of_parts(geometry: Mapping[str, Any]) -> list[Sequence[Any]]:
    coordinates: Any = geometry.get("coordinates")
    match geometry.get("type"):
        case "Polygon":
            parts = [coordinates]
        case "MultiPolygon" if isinstance(coordinates, Sequence):
            parts = list(coordinates)
        case other:
            raise BadPrior("geojson.type", other, "Polygon or MultiPolygon", "send the outline of an area")
    for part in parts:
        if isinstance(part, str) or not isinstance(part, Sequence) or not part:
            raise BadPrior("geojson.coordinates", part, "a list of rings", "see RFC 7946, section 3.1.6")
    if not parts:
        raise BadPrior("geojson.coordinates", parts, "at least one polygon", "give an outline with an area")
    return parts


def _length(ring: object) -> int:
    if isinstance(ring, str) or not isinstance(ring, Sequence):
        raise BadPrior("geojson.coordinates", ring, "a list of rings", "see RFC 7946, section 3.1.6")
    return len(ring)


def _checked_ring(ring: Sequence[Any]) -> Floats:
    try:
        points = np.array([[float(lng), float(lat)] for lng, lat, *_ in ring], dtype=np.float64)  # (V, 2)
    except (TypeError, ValueError) as exc:
        raise BadPrior(
            "geojson.coordinates", ring, "a list of [lng, lat]", "see RFC 7946, section 3.1.1"
        ) from exc
    if len(points) < 4:
        raise BadPrior(
            "polygon.ring", f"{len(points)} positions", "4 or more", "repeat the first position at the end"
        )
    _check_coordinates(points)
    if not np.array_equal(points[0], points[-1]):
        raise BadPrior("polygon.ring", "not closed", "closed", "repeat the first position at the end")
    return points
