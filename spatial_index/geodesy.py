"""Distances and the antimeridian: the few pieces of geodesy that priors and their filters share.

Distances are geodesics on the WGS84 ellipsoid (pyproj). Polygons follow RFC 7946: edges are straight lines in
longitude and latitude, and a shape that crosses the antimeridian is stored as two. Knows nothing of priors.
"""

from __future__ import annotations

import math

import numpy as np
from mercantile import LngLat
from numpy.typing import ArrayLike, NDArray
from pyproj import Geod
from shapely.affinity import scale, translate
from shapely.geometry import MultiPolygon, Point, Polygon, box
from shapely.ops import nearest_points, unary_union

from tiling.antimeridian import unwrapped

WGS84 = Geod(ellps="WGS84")
METRES_PER_DEGREE = 110_574.0  # one degree of latitude where it is shortest, at the equator
_MIN_COS_LAT = 0.01  # 89.4° of latitude; a buffer in degrees of longitude stays finite at the poles

Floats = NDArray[np.float64]


def distances_m(origin: LngLat, lngs: ArrayLike, lats: ArrayLike) -> Floats:
    """Geodesic distances from `origin`, in metres, (N,)."""
    lngs = np.atleast_1d(np.asarray(lngs, dtype=np.float64))
    lats = np.atleast_1d(np.asarray(lats, dtype=np.float64))
    _, _, metres = WGS84.inv(np.full_like(lngs, origin.lng), np.full_like(lats, origin.lat), lngs, lats)
    return np.asarray(metres, dtype=np.float64)


def haversine_m(origin: LngLat, lngs: Floats, lats: Floats, sphere_m: float) -> Floats:
    """Distances (N,) from a position on a sphere, metres."""
    lng, lat = np.radians(origin.lng), np.radians(origin.lat)
    other_lng, other_lat = np.radians(lngs), np.radians(lats)
    half = (
        np.sin((other_lat - lat) / 2) ** 2
        + np.cos(lat) * np.cos(other_lat) * np.sin((other_lng - lng) / 2) ** 2
    )
    return np.asarray(2.0 * sphere_m * np.arcsin(np.sqrt(np.minimum(half, 1.0))))


def geodesic_per_haversine(origin: LngLat, radius_m: float, sphere_m: float) -> tuple[float, float]:
    """Bounds of geodesic / haversine distance for all points within `radius_m` of `origin`.

    Both are shortest paths over the same (lng, lat) plane, one with the ellipsoid's metric
    (M dφ)² + (N cos φ dλ)², one with the sphere's; M <= N and both grow with |φ|, so the ratio lies in
    [min M, max N] / R over the latitudes that the paths can reach.
    """
    reach_deg = math.degrees(1.02 * radius_m / 6_335_000.0)
    nearest_equator = max(abs(origin.lat) - reach_deg, 0.0)
    nearest_pole = min(abs(origin.lat) + reach_deg, 90.0)
    low = radii_m(nearest_equator)[0] / sphere_m
    high = radii_m(nearest_pole)[1] / sphere_m
    return low * (1 - 1e-6), high * (1 + 1e-6)  # the engine's own rounding


def boxes_around(centre: LngLat, angle_rad: float) -> list[Polygon]:
    """Rectangles in (lng, lat) that hold every position within an angle of `centre`, with 1 mm to spare.

    The extreme longitudes are those of the tangent meridians, sin Δλ = sin angle / cos φ.
    """
    reach_deg = math.degrees(angle_rad) + 1e-8
    south, north = max(centre.lat - reach_deg, -90.0), min(centre.lat + reach_deg, 90.0)
    if abs(centre.lat) + reach_deg >= 90.0:  # holds a pole, hence every meridian
        return [box(-180.0, south, 180.0, north)]
    half_deg = math.degrees(math.asin(math.sin(angle_rad) / math.cos(math.radians(centre.lat)))) + 1e-8
    return wrapped(box(centre.lng - half_deg, south, centre.lng + half_deg, north))


def split_at_antimeridian(polygon: Polygon | MultiPolygon) -> MultiPolygon:
    """The same area with every part inside ±180° (RFC 7946, section 3.1.9).

    An edge that jumps by more than 180° of longitude is read as the short way across the antimeridian.

    Raises:
        EnclosesPole: a ring winds around a pole.
    """
    parts = [piece for part in parts_of(polygon) for piece in wrapped(unwrapped(part))]
    return MultiPolygon(parts)


def wrapped(polygon: Polygon) -> list[Polygon]:
    """The pieces of a polygon whose longitudes leave ±180° by at most one turn, all inside ±180°."""
    west, _, east, _ = polygon.bounds
    if west >= -180.0 and east <= 180.0:
        return [polygon]
    pieces: list[Polygon] = []
    for turn in (-360.0, 0.0, 360.0):
        inside = polygon.intersection(box(-180.0 + turn, -90.0, 180.0 + turn, 90.0))
        pieces += [translate(piece, xoff=-turn) for piece in areas_in(inside)]
    return pieces


def widened(polygon: MultiPolygon, margin_m: float) -> MultiPolygon:
    """A superset of all points within `margin_m` of the area, a few per cent too wide away from the poles."""
    margin_deg = margin_m / METRES_PER_DEGREE
    wide = [_widened_part(part, margin_deg) for part in polygon.geoms]
    pieces = [piece for part in wide for piece in wrapped(part)]
    return MultiPolygon(areas_in(unary_union(pieces)))


def distance_outside_m(polygon: MultiPolygon, lng: float, lat: float) -> float:
    """Metres from a position to the nearest point of the area; 0 inside.

    The nearest point is found in a local plane (longitudes shrunk by cos φ), its distance on the ellipsoid.
    """
    shrink = max(math.cos(math.radians(lat)), _MIN_COS_LAT)
    flat = scale(polygon, xfact=shrink, yfact=1.0, origin=(0.0, 0.0))
    best = math.inf
    for turn in (0.0, -360.0, 360.0):
        here = Point((lng + turn) * shrink, lat)
        if flat.covers(here):
            return 0.0
        there = nearest_points(flat, here)[0]
        best = min(best, float(distances_m(LngLat(lng, lat), there.x / shrink, there.y)[0]))
    return best


def radii_m(lat_deg: float) -> tuple[float, float]:
    """Meridional (M) and prime-vertical (N) radius of curvature at a latitude, in metres."""
    root = 1.0 - WGS84.es * math.sin(math.radians(lat_deg)) ** 2
    return WGS84.a * (1.0 - WGS84.es) / root**1.5, WGS84.a / math.sqrt(root)


def parts_of(area: Polygon | MultiPolygon) -> list[Polygon]:
    """The polygons that make up an area."""
    return [area] if isinstance(area, Polygon) else list(area.geoms)


def areas_in(geometry: object) -> list[Polygon]:
    """The polygons in any geometry, such as an intersection that also left points and lines."""
    if isinstance(geometry, Polygon):
        return [] if geometry.is_empty else [geometry]
    return [part for child in getattr(geometry, "geoms", ()) for part in areas_in(child)]


def _widened_part(part: Polygon, margin_deg: float) -> Polygon:
    _, south, _, north = part.bounds
    highest = min(max(abs(south), abs(north)) + margin_deg, 90.0)
    shrink = max(math.cos(math.radians(highest)), _MIN_COS_LAT)
    flat = scale(part, xfact=shrink, yfact=1.0, origin=(0.0, 0.0)).buffer(margin_deg * 1.03, quad_segs=8)
    wide = scale(flat, xfact=1.0 / shrink, yfact=1.0, origin=(0.0, 0.0))
    clipped = wide.intersection(box(-540.0, -90.0, 540.0, 90.0))
    return max(areas_in(clipped), key=lambda piece: float(piece.area))
