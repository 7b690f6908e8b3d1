"""Priors accept what means a place, refuse the rest by name, and weigh positions."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mercantile import LngLat
from shapely.geometry import MultiPolygon, Point, Polygon, box

from spatial_index.errors import BadPrior
from spatial_index.geodesy import WGS84, distances_m, geodesic_per_haversine
from spatial_index.geojson import from_geojson
from spatial_index.outlines import MAX_VERTICES
from spatial_index.priors import CirclePrior, PolygonPrior, PriorMode
from spatial_index.selection import ENGINE_SPHERE_M
from spatial_index.weights import contains, log_weight, places_at

BRIG = LngLat(7.98, 46.31)
SQUARE = [[7.9, 46.3], [8.0, 46.3], [8.0, 46.4], [7.9, 46.4], [7.9, 46.3]]
HOLE = [[7.94, 46.34], [7.94, 46.36], [7.96, 46.36], [7.96, 46.34], [7.94, 46.34]]


def polygon_json(*rings: object) -> dict[str, object]:
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"centre": LngLat(math.nan, 46.0)}, "circle.centre.lng"),
        ({"centre": LngLat(46.0, 107.98)}, "circle.centre.lat"),
        ({"centre": LngLat(181.0, 0.0)}, "circle.centre.lng"),
        ({"radius_m": 0.0}, "circle.radius_m"),
        ({"radius_m": -5.0}, "circle.radius_m"),
        ({"radius_m": math.nan}, "circle.radius_m"),
        ({"radius_m": math.inf}, "circle.radius_m"),
        ({"radius_m": 20_000_001.0}, "circle.radius_m"),
        ({"confidence_level": 0.0}, "circle.confidence_level"),
        ({"confidence_level": 1.0}, "circle.confidence_level"),
        ({"confidence_level": 95.0}, "circle.confidence_level"),
    ],
)
def test_a_circle_that_cannot_mean_a_place_is_refused(changes, field):
    with pytest.raises(BadPrior) as caught:
        CirclePrior(**({"centre": BRIG, "radius_m": 300.0} | changes))
    assert caught.value.field == field
    assert caught.value.limit in str(caught.value)
    assert caught.value.remedy in str(caught.value)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("not json", "geojson"),
        ([1, 2], "geojson"),
        ({"type": "Point", "coordinates": [8, 46]}, "geojson.type"),
        ({"type": "Polygon"}, "geojson.coordinates"),
        ({"type": "Polygon", "coordinates": "abc"}, "geojson.coordinates"),
        ({"type": "MultiPolygon", "coordinates": []}, "geojson.coordinates"),
        ({"type": "Feature", "geometry": None}, "geojson.type"),
        (polygon_json(), "geojson.coordinates"),
        (polygon_json([[8.0]]), "geojson.coordinates"),
        (polygon_json([["a", "b"]] * 4), "geojson.coordinates"),
        (polygon_json(5), "geojson.coordinates"),
        (polygon_json(SQUARE[:3]), "polygon.ring"),
        (polygon_json([*SQUARE[:4]]), "polygon.ring"),
        (polygon_json(SQUARE, HOLE[:4]), "polygon.ring"),
        (polygon_json([[lng, lat * 2.2] for lng, lat in SQUARE]), "polygon.vertices[0].lat"),
        (polygon_json([[math.nan, 46.3], *SQUARE[1:4], [math.nan, 46.3]]), "polygon.vertices[0].lng"),
        (polygon_json([SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3], SQUARE[0]]), "polygon"),
        (polygon_json([[8, 46], [8, 47], [8, 48], [8, 46]]), "polygon"),
        (polygon_json([[0, 80], [90, 80], [180, 80], [-90, 80], [0, 80]]), "polygon"),
        (polygon_json(SQUARE, [[9, 46], [9.1, 46], [9.1, 46.1], [9, 46]]), "polygon"),
        (polygon_json([[i % 360 - 180, i * 1e-4] for i in range(MAX_VERTICES + 1)]), "polygon.vertices"),
    ],
)
def test_geojson_that_cannot_mean_an_area_is_refused(value, field):
    with pytest.raises(BadPrior) as caught:
        from_geojson(value)
    assert caught.value.field == field
    assert caught.value.remedy


def test_the_vertex_limit_is_the_callers():
    with pytest.raises(BadPrior, match="at most 4"):
        from_geojson(polygon_json(SQUARE), max_vertices=4)


def test_polygon_features_multipolygons_text_and_altitudes_are_read():
    plain = from_geojson(polygon_json(SQUARE, HOLE))
    feature = from_geojson(
        json.dumps({"type": "Feature", "properties": {}, "geometry": polygon_json(SQUARE, HOLE)})
    )
    multi = from_geojson({"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE]]})
    high = from_geojson(polygon_json([[*xy, 600.0] for xy in SQUARE], HOLE))
    assert plain.polygon.equals(Polygon(SQUARE, [HOLE]))
    assert all(other.polygon.equals(plain.polygon) for other in (feature, multi, high))


def test_an_area_across_the_antimeridian_is_split_with_its_hole():
    shell = [(170, -10), (-170, -10), (-170, 10), (170, 10)]
    hole = [(178, -1), (-178, -1), (-178, 1), (178, 1)]
    prior = PolygonPrior(polygon=Polygon(shell, [hole]))
    assert len(prior.polygon.geoms) == 2
    assert prior.polygon.area == pytest.approx(20 * 20 - 4 * 2)
    assert prior.polygon.bounds == (-180, -10, 180, 10)
    across = places_at([179.0, 175.0, -175.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert contains(prior, across).tolist() == [False, True, True, False]


def test_the_whole_world_is_an_area():
    prior = PolygonPrior(polygon=box(-180, -90, 180, 90))
    assert prior.polygon.area == pytest.approx(360 * 180)


def test_overlapping_parts_are_refused():
    with pytest.raises(BadPrior):
        PolygonPrior(polygon=MultiPolygon([box(0, 0, 2, 2), box(1, 1, 3, 3)]))


def test_a_hard_prior_weighs_nothing_or_everything():
    circle = CirclePrior(centre=BRIG, radius_m=300.0)
    assert log_weight(circle, BRIG) == 0.0
    assert log_weight(circle, LngLat(8.0, 46.31)) == -math.inf


@pytest.mark.parametrize("confidence_level", [0.5, 0.68, 0.95])
def test_a_soft_circle_is_the_gaussian_with_its_quantile(confidence_level: float):
    circle = CirclePrior(centre=BRIG, radius_m=100.0, confidence_level=confidence_level, mode=PriorMode.SOFT)
    sample = np.random.default_rng(0).normal(scale=circle.sigma_m, size=(200_000, 2))
    inside = np.mean(np.hypot(*sample.T) <= 100.0)
    lng, lat, _ = WGS84.fwd(BRIG.lng, BRIG.lat, 30.0, 2 * circle.sigma_m)
    assert inside == pytest.approx(confidence_level, abs=0.005)
    assert log_weight(circle, LngLat(lng, lat)) == pytest.approx(-2.0, abs=1e-6)


def test_a_soft_polygon_falls_off_outside():
    area = PolygonPrior(polygon=Polygon(SQUARE), mode=PriorMode.SOFT, falloff_m=50.0)
    lng, lat, _ = WGS84.fwd(8.0, 46.35, 90.0, 100.0)
    assert log_weight(area, LngLat(7.95, 46.35)) == 0.0
    assert log_weight(area, LngLat(lng, lat)) == pytest.approx(-2.0, rel=0.01)


@settings(deadline=None)  # a busy machine is no failure
@given(
    lng=st.floats(-180, 180), lat=st.floats(-80, 80), margin_m=st.floats(1, 50_000), bearing=st.floats(0, 360)
)  # fmt: skip
def test_a_soft_polygon_is_searched_at_least_three_falloffs_wide(lng, lat, margin_m, bearing):
    shape = Polygon([(lng, lat), (_wrap(lng + 0.1), lat), (_wrap(lng + 0.1), lat + 0.1), (lng, lat + 0.1)])
    prior = PolygonPrior(polygon=shape, mode=PriorMode.SOFT, falloff_m=margin_m / 3.0)
    there_lng, there_lat, _ = WGS84.fwd(lng, lat, bearing, margin_m * 0.999)
    assert prior.search_polygon.buffer(1e-9).intersects(Point(there_lng, there_lat))


@settings(deadline=None)  # a busy machine is no failure
@given(
    lng=st.floats(-180, 180), lat=st.floats(-90, 90), bearing=st.floats(0, 360), metres=st.floats(1, 1.99e7)
)  # fmt: skip
def test_geodesic_over_haversine_stays_within_its_bounds(lng, lat, bearing, metres):
    origin = LngLat(lng, lat)
    there_lng, there_lat, _ = WGS84.fwd(lng, lat, bearing, metres)
    geodesic = float(distances_m(origin, there_lng, there_lat)[0])
    low, high = geodesic_per_haversine(origin, geodesic, ENGINE_SPHERE_M)
    haversine = _haversine_m(lng, lat, there_lng, there_lat)
    assert haversine * low - 1e-3 <= geodesic <= haversine * high + 1e-3


def test_errors_survive_a_trip_between_processes():
    error = BadPrior("circle.radius_m", -1, "greater than 0", "leave it out")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.field) == (str(error), "circle.radius_m")


def _wrap(lng: float) -> float:
    return (lng + 180.0) % 360.0 - 180.0


def _haversine_m(lng1: float, lat1: float, lng2: float, lat2: float) -> float:
    phi1, phi2 = math.radians(lat1), math.radians(lat2)
    half = math.sin((phi2 - phi1) / 2) ** 2
    half += math.cos(phi1) * math.cos(phi2) * math.sin(math.radians(lng2 - lng1) / 2) ** 2
    return 2 * ENGINE_SPHERE_M * math.asin(min(1.0, math.sqrt(half)))
