"""Which patches a prior holds, and how much it weighs each: exact, patch by patch.

The engine narrows a search down by `selection`; what it cannot decide is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import shapely
from mercantile import LngLat
from numpy.typing import ArrayLike, NDArray
from shapely.geometry import MultiPolygon

from spatial_index.corridor import distances_to_line_m
from spatial_index.geodesy import Floats, distance_outside_m, distances_m, parts_of
from spatial_index.priors import (
    AllOf,
    AnyOf,
    CirclePrior,
    CorridorPrior,
    PolygonPrior,
    Prior,
    PriorMode,
    RegionPrior,
    TimePrior,
)
from spatial_index.records import PatchHit

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Places:
    """N patches, or positions, as priors see them."""

    lngs: Floats
    """(N,)"""
    lats: Floats
    """(N,)"""
    regions: Sequence[str | None]
    """None: unknown, in no region."""
    captured_at: Sequence[datetime | None]
    """None: unknown, in no time range."""


def places_at(lngs: ArrayLike, lats: ArrayLike) -> Places:
    """Bare positions, of unknown region and capture time."""
    lngs = np.atleast_1d(np.asarray(lngs, dtype=np.float64))
    lats = np.atleast_1d(np.asarray(lats, dtype=np.float64))
    unknown = [None] * len(lngs)
    return Places(lngs=lngs, lats=lats, regions=unknown, captured_at=unknown)


def places_of(hits: Sequence[PatchHit]) -> Places:
    """The places of patches found."""
    return Places(
        lngs=np.array([hit.location.lng for hit in hits], dtype=np.float64),
        lats=np.array([hit.location.lat for hit in hits], dtype=np.float64),
        regions=[hit.region for hit in hits],
        captured_at=[hit.captured_at for hit in hits],
    )


def contains(prior: Prior, places: Places) -> Flags:
    """Which places lie inside the prior itself (not its search area), (N,) bool. Rims are inside."""
    return _members(prior, places, wide=False)


def searched(prior: Prior, places: Places) -> Flags:
    """Which places a search looks at, (N,) bool: the prior when HARD, a wider area where it is SOFT."""
    return _members(prior, places, wide=True)


def log_weights(prior: Prior, places: Places) -> Floats:
    """Natural log of the prior's weight at each place, (N,); 0 at its best, -inf outside a HARD one.

    SOFT circle: a round Gaussian with the circle's quantile. SOFT polygon and corridor: flat inside, Gaussian
    outside. All of several: their sum; any of several: the greatest.
    """
    match prior:
        case AllOf():
            return np.asarray(np.sum([log_weights(part, places) for part in prior.priors], axis=0))
        case AnyOf():
            return np.asarray(np.max([log_weights(part, places) for part in prior.priors], axis=0))
        case _ if prior.mode is PriorMode.HARD:
            return np.where(contains(prior, places), 0.0, -np.inf)
        case CirclePrior():
            away_m = distances_m(prior.centre, places.lngs, places.lats)
            return np.asarray(-0.5 * (away_m / prior.sigma_m) ** 2)
        case PolygonPrior():
            area = MultiPolygon(parts_of(prior.polygon))
            pairs = zip(places.lngs.tolist(), places.lats.tolist(), strict=True)
            away_m = np.array([distance_outside_m(area, lng, lat) for lng, lat in pairs])
            return np.asarray(-0.5 * (away_m / prior.falloff_m) ** 2)
        case CorridorPrior():
            away_m = distances_to_line_m(prior.line, places.lngs, places.lats) - prior.half_width_m
            return np.asarray(-0.5 * (np.maximum(away_m, 0.0) / prior.falloff_m) ** 2)
        case _:
            raise TypeError(f"unknown kind of prior: {type(prior).__name__}")


def log_weight(prior: Prior, position: LngLat) -> float:
    """`log_weights` of one bare position."""
    return float(log_weights(prior, places_at(position.lng, position.lat))[0])


def _members(prior: Prior, places: Places, *, wide: bool) -> Flags:  # noqa: PLR0911  one for each kind
    match prior:
        case CirclePrior():
            radius_m = prior.search_radius_m if wide else prior.radius_m
            return distances_m(prior.centre, places.lngs, places.lats) <= radius_m
        case PolygonPrior():
            area = prior.search_polygon if wide else prior.polygon
            return np.atleast_1d(shapely.intersects_xy(area, places.lngs, places.lats))
        case CorridorPrior():
            half_width_m = prior.search_half_width_m if wide else prior.half_width_m
            return distances_to_line_m(prior.line, places.lngs, places.lats) <= half_width_m
        case RegionPrior():
            return _flags(region in prior.names for region in places.regions)
        case TimePrior():
            return _flags(_captured_within(prior, moment) for moment in places.captured_at)
        case AllOf():
            return np.asarray(np.all([_members(part, places, wide=wide) for part in prior.priors], axis=0))
        case AnyOf():
            return np.asarray(np.any([_members(part, places, wide=wide) for part in prior.priors], axis=0))
        case _:
            raise TypeError(f"unknown kind of prior: {type(prior).__name__}")


def _captured_within(prior: TimePrior, moment: datetime | None) -> bool:
    if moment is None:
        return False
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # as `PatchRecord` reads it
    return (prior.start is None or prior.start <= aware) and (prior.end is None or aware < prior.end)


def _flags(values: Any) -> Flags:
    return np.fromiter(values, dtype=np.bool_)
