"""What the index holds of an area, told before any image is sent. Pure: regions in, areas out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from pyproj import Geod
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from serving.errors import InvalidRequest
from spatial_index.errors import UnknownRegion
from spatial_index.geodesy import areas_in
from spatial_index.priors import CirclePrior, PolygonPrior
from spatial_index.records import RegionInfo
from tiling.coverage import area_km2

CIRCLE_VERTICES = 128  # the polygon is 0.04 % smaller than the disc
MAX_CIRCLE_M = 1_000_000.0
WGS84 = Geod(ellps="WGS84")


@dataclass(frozen=True, kw_only=True, slots=True)
class Covered:
    """One region's part of an area."""

    info: RegionInfo
    searchable: bool
    """False: the region was embedded by another model than the one that serves."""
    area: BaseGeometry
    area_km2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Regions that touch an area, by name, and what of it none of them covers."""

    regions: tuple[Covered, ...]
    gaps: BaseGeometry
    covered_fraction: float | None
    """None when no area was asked about."""


def survey(
    regions: Iterable[RegionInfo],
    *,
    area: BaseGeometry | None,
    names: tuple[str, ...] = (),
    model_digest: str,
) -> Coverage:
    """What the named regions (none named: all) hold of an area (None: everything).

    Raises:
        UnknownRegion: a name that is not live.
    """
    live = {region.name: region for region in regions}
    for name in names:
        if name not in live:
            raise UnknownRegion(name, sorted(live))
    asked = [live[name] for name in sorted(set(names) or live)]
    covered = [_part_of(region, area, model_digest) for region in asked]
    ground = shapely.union_all([part.area for part in covered if part.searchable])
    return Coverage(
        regions=tuple(part for part in covered if part.area_km2 > 0.0),
        gaps=holes_in(ground) if area is None else _areal(area.difference(ground)),
        covered_fraction=None if area is None else min(1.0, area_km2(ground) / area_km2(area)),
    )


def holes_in(area: BaseGeometry) -> MultiPolygon:
    """The holes of an area's parts."""
    return MultiPolygon([Polygon(ring) for part in areas_in(area) for ring in part.interiors])


def area_of(prior: CirclePrior | PolygonPrior) -> BaseGeometry:
    """The ground that a circle or polygon means; a circle becomes a polygon of geodesic radius.

    Raises:
        InvalidRequest: a circle above 1,000 km.
        spatial_index.errors.BadPrior: a circle around a pole.
    """
    if isinstance(prior, PolygonPrior):
        return prior.polygon
    if prior.radius_m > MAX_CIRCLE_M:
        raise InvalidRequest(
            "circle.radius_m", f"is {prior.radius_m:g}", f"give at most {MAX_CIRCLE_M:,.0f} metres"
        )
    azimuths = np.arange(CIRCLE_VERTICES) * 360.0 / CIRCLE_VERTICES
    ones = np.ones(CIRCLE_VERTICES)
    lngs, lats, _ = WGS84.fwd(
        prior.centre.lng * ones, prior.centre.lat * ones, azimuths, prior.radius_m * ones
    )
    return PolygonPrior(polygon=Polygon(np.column_stack([lngs, lats])[::-1])).polygon


def _part_of(region: RegionInfo, area: BaseGeometry | None, model_digest: str) -> Covered:
    part = region.coverage if area is None else _areal(region.coverage.intersection(area))
    return Covered(
        info=region,
        searchable=region.model_digest == model_digest,
        area=part,
        area_km2=0.0 if part.is_empty else area_km2(part),
    )


def _areal(geometry: BaseGeometry) -> MultiPolygon:
    """What of a geometry has an area."""
    return MultiPolygon(areas_in(geometry))
