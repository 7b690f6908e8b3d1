"""Boxes, corridors, regions, times and compositions: what they refuse, what they hold and how they weigh."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
import shapely
from mercantile import LngLat
from shapely.geometry import LineString, MultiLineString, Point, box

from spatial_index.corridor import areas_around, distances_to_line_m
from spatial_index.errors import BadPrior
from spatial_index.geodesy import WGS84
from spatial_index.geojson import corridor_from_geojson, from_bbox
from spatial_index.outlines import MAX_VERTICES
from spatial_index.priors import (
    MAX_LEAVES,
    AllOf,
    AnyOf,
    CirclePrior,
    CorridorPrior,
    PolygonPrior,
    PriorMode,
    RegionPrior,
    TimePrior,
    hard_part,
)
from spatial_index.weights import Places, contains, log_weight, log_weights, places_at, searched

BRIG = LngLat(7.98, 46.31)
ROAD = LineString([(7.9, 46.3), (8.0, 46.3), (8.1, 46.35)])
DAY = datetime(2024, 6, 1, tzinfo=UTC)
CIRCLE = CirclePrior(centre=BRIG, radius_m=100.0)
SOFT_CIRCLE = CirclePrior(centre=BRIG, radius_m=100.0, mode=PriorMode.SOFT)
BRIG_REGION = RegionPrior(names=("brig",))


def nested(depth: int) -> AllOf | CirclePrior:
    return AllOf(priors=(nested(depth - 1),)) if depth else CIRCLE


def zigzag(count: int) -> LineString:
    return LineString([(i * 1e-3, i % 2) for i in range(count)])


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: from_bbox(math.nan, 0, 1, 1), "bounding_box.south_west.lng"),
        (lambda: from_bbox(46.0, 107.9, 47.0, 108.0), "bounding_box.south_west.lat"),
        (lambda: from_bbox(0, 0, 181, 1), "bounding_box.north_east.lng"),
        (lambda: from_bbox(0, 0, 1, math.inf), "bounding_box.north_east.lat"),
        (lambda: from_bbox(0, 1, 1, 1), "bounding_box.north_east.lat"),
        (lambda: from_bbox(0, 2, 1, 1), "bounding_box.north_east.lat"),
        (lambda: from_bbox(1, 0, 1, 1), "bounding_box.north_east.lng"),
        (lambda: from_bbox(180, 0, -180, 1), "bounding_box.north_east.lng"),
        (lambda: CorridorPrior(line=ROAD, half_width_m=0.0), "corridor.half_width_m"),
        (lambda: CorridorPrior(line=ROAD, half_width_m=-1.0), "corridor.half_width_m"),
        (lambda: CorridorPrior(line=ROAD, half_width_m=math.nan), "corridor.half_width_m"),
        (lambda: CorridorPrior(line=ROAD, half_width_m=100_001.0), "corridor.half_width_m"),
        (lambda: CorridorPrior(line=ROAD, half_width_m=5.0, falloff_m=0.0), "corridor.falloff_m"),
        (lambda: CorridorPrior(line=Point(8, 46), half_width_m=5.0), "corridor.line"),
        (lambda: CorridorPrior(line=MultiLineString([ROAD]), half_width_m=5.0), "corridor.line"),
        (lambda: CorridorPrior(line=LineString(), half_width_m=5.0), "corridor.line"),
        (lambda: CorridorPrior(line=LineString([BRIG, BRIG]), half_width_m=5.0), "corridor.positions"),
        (
            lambda: CorridorPrior(line=LineString([(8, 46), (46, 91)]), half_width_m=5.0),
            "corridor.positions[1].lat",
        ),
        (
            lambda: CorridorPrior(line=LineString([(8, 46), (math.nan, 46)]), half_width_m=5.0),
            "corridor.positions[1].lng",
        ),
        (lambda: CorridorPrior(line=zigzag(MAX_VERTICES + 1), half_width_m=5.0), "corridor.positions"),
        (lambda: corridor_from_geojson({"type": "Point"}, half_width_m=5.0), "geojson.type"),
        (lambda: corridor_from_geojson({"type": "LineString"}, half_width_m=5.0), "geojson.coordinates"),
        (
            lambda: corridor_from_geojson({"type": "LineString", "coordinates": [[8, 46]]}, half_width_m=5.0),
            "corridor.positions",
        ),
        (
            lambda: corridor_from_geojson(
                {"type": "LineString", "coordinates": [[8], [9]]}, half_width_m=5.0
            ),
            "geojson.coordinates",
        ),
        (lambda: RegionPrior(names=()), "regions.names"),
        (lambda: RegionPrior(names=("brig", "../brig")), "regions.names[1]"),
        (lambda: RegionPrior(names=("brig",) * 101), "regions.names"),
        (TimePrior, "time_range"),
        (lambda: TimePrior(start="2024"), "time_range.start_time"),
        (lambda: TimePrior(end=2024), "time_range.end_time"),
        (lambda: TimePrior(start=DAY, end=DAY), "time_range.end_time"),
        (lambda: TimePrior(start=DAY, end=DAY - timedelta(days=1)), "time_range.end_time"),
        (lambda: AllOf(priors=()), "all_of.priors"),
        (lambda: AnyOf(priors=()), "any_of.priors"),
        (lambda: AnyOf(priors=(CIRCLE,) * (MAX_LEAVES + 1)), "any_of.priors"),
        (lambda: nested(5), "all_of"),
        (
            lambda: AnyOf(priors=(CorridorPrior(line=zigzag(6_000), half_width_m=5.0),) * 2),
            "any_of.vertices",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in linestrings")
def test_what_cannot_mean_a_place_is_refused_by_name(build, field):
    with pytest.raises(BadPrior) as caught:
        build()
    assert caught.value.field == field
    assert caught.value.limit in str(caught.value)
    assert caught.value.remedy in str(caught.value)


def test_the_limits_themselves_are_accepted():
    nested(4)
    AnyOf(priors=(CIRCLE,) * MAX_LEAVES)
    CorridorPrior(line=zigzag(MAX_VERTICES), half_width_m=100_000.0)


@pytest.mark.parametrize(
    ("corners", "inside", "outside"),
    [
        ((7.0, 46.0, 9.0, 47.0), [(7.0, 46.0), (9.0, 47.0), (8.0, 46.5)], [(6.99, 46.5), (8.0, 47.01)]),
        ((170.0, -20.0, -170.0, -10.0), [(175.0, -15.0), (-175.0, -15.0), (180.0, -12.0)], [(0.0, -15.0)]),
        ((-100.0, -10.0, 100.0, 10.0), [(0.0, 0.0), (-99.0, 9.0)], [(180.0, 0.0), (101.0, 0.0)]),
        ((10.0, -10.0, 5.0, 10.0), [(180.0, 0.0), (-90.0, 0.0), (4.0, 0.0)], [(7.0, 0.0)]),
        ((-180.0, -90.0, 180.0, 90.0), [(0.0, 0.0), (179.0, 89.0)], []),
    ],
)
def test_a_box_reaches_from_its_west_to_its_east(corners, inside, outside):
    points = [*inside, *outside]
    found = contains(from_bbox(*corners), places_at([p[0] for p in points], [p[1] for p in points]))
    assert found.tolist() == [True] * len(inside) + [False] * len(outside)


def test_a_corridor_is_as_wide_as_it_says_on_every_side():
    corridor = CorridorPrior(line=ROAD, half_width_m=50.0)
    beside = [WGS84.fwd(7.95, 46.3, bearing, metres)[:2] for bearing in (0, 180) for metres in (49.9, 50.2)]
    beyond = [WGS84.fwd(7.9, 46.3, 270, metres)[:2] for metres in (49.9, 50.1)]
    found = contains(corridor, places_at(*np.array(beside + beyond).T))
    assert found.tolist() == [True, False] * 3


@pytest.mark.parametrize("centre", [(7.98, 46.31), (180.0, -17.5), (25.0, 85.0), (-60.0, -89.99)])
@pytest.mark.parametrize("half_width_m", [0.5, 300.0, 50_000.0])
def test_a_corridors_areas_hold_it_and_are_held_by_it(centre, half_width_m):
    """Around places on the line, a little nearer and a little farther than the width."""
    rng = np.random.default_rng(3)
    path = np.array(centre) + np.cumsum(rng.uniform(-1, 1, (4, 2)) * half_width_m / 50_000.0, axis=0)
    line = LineString(np.column_stack([(path[:, 0] + 180) % 360 - 180, np.clip(path[:, 1], -90, 90)]))
    outer, inner = areas_around(line, half_width_m)
    start = np.repeat(shapely.get_coordinates(line), 90, axis=0)
    metres = half_width_m * rng.choice([0.9, 0.97, 0.999, 1.001, 1.03], len(start))
    lngs, lats, _ = WGS84.fwd(*start.T, rng.uniform(0, 360, len(start)), metres)
    within = distances_to_line_m(line, lngs, lats) <= half_width_m
    in_outer, in_inner = (
        np.any([shapely.intersects_xy(area, lngs, lats) for area in areas] or [[False]], axis=0)
        for areas in (outer, inner)
    )
    assert within.any()
    assert not (within & ~in_outer).any()
    assert not (in_inner & ~within).any()
    if abs(centre[1]) < 80:  # the narrow plane does not degenerate into "look at everything"
        assert 0.8 < sum(area.area for area in inner) / sum(area.area for area in outer) < 1.0


def test_a_corridor_is_read_from_a_geojson_line():
    line = {"type": "LineString", "coordinates": [[7.9, 46.3, 600.0], [8.0, 46.3]]}
    for value in (line, json.dumps({"type": "Feature", "properties": {}, "geometry": line})):
        corridor = corridor_from_geojson(value, half_width_m=20.0, mode=PriorMode.SOFT)
        assert corridor.line.equals(LineString([(7.9, 46.3), (8.0, 46.3)]))
        assert (corridor.half_width_m, corridor.mode) == (20.0, PriorMode.SOFT)


def test_a_soft_corridor_is_flat_inside_and_falls_off_outside():
    corridor = CorridorPrior(line=ROAD, half_width_m=100.0, mode=PriorMode.SOFT, falloff_m=50.0)
    inside, outside, far = (LngLat(*WGS84.fwd(7.95, 46.3, 180.0, metres)[:2]) for metres in (90, 200, 251))
    assert log_weight(corridor, inside) == 0.0
    assert log_weight(corridor, outside) == pytest.approx(-2.0, rel=1e-3)
    assert searched(corridor, places_at(*np.array([outside, far]).T)).tolist() == [True, False]


def test_times_without_a_zone_are_utc_and_zones_are_honoured():
    naive = TimePrior(start=datetime(2024, 6, 1, 12))
    assert naive == TimePrior(start=datetime(2024, 6, 1, 14, tzinfo=timezone(timedelta(hours=2))))
    assert naive.start == datetime(2024, 6, 1, 12, tzinfo=UTC)


def test_regions_and_times_hold_patches_that_are_known_to_be_in_them():
    places = Places(
        lngs=np.zeros(4),
        lats=np.zeros(4),
        regions=["brig", "oslo", None, "brig"],
        captured_at=[DAY, DAY - timedelta(microseconds=1), None, DAY + timedelta(days=1)],
    )
    assert contains(BRIG_REGION, places).tolist() == [True, False, False, True]
    one_day = TimePrior(start=DAY, end=DAY + timedelta(days=1))
    assert contains(one_day, places).tolist() == [True, False, False, False]
    assert contains(TimePrior(end=DAY), places).tolist() == [False, True, False, False]


def test_weights_of_compositions_add_up_or_compete():
    there = LngLat(*WGS84.fwd(*BRIG, 90.0, 150.0)[:2])
    other = CirclePrior(centre=there, radius_m=200.0, mode=PriorMode.SOFT)
    places = places_at([BRIG.lng, there.lng], [BRIG.lat, there.lat])
    one, two = log_weights(SOFT_CIRCLE, places), log_weights(other, places)
    assert log_weights(AllOf(priors=(SOFT_CIRCLE, other)), places) == pytest.approx(one + two)
    assert log_weights(AnyOf(priors=(SOFT_CIRCLE, other)), places) == pytest.approx(np.maximum(one, two))
    west = from_bbox(7.0, 46.0, 7.981, 47.0)
    assert log_weights(AllOf(priors=(SOFT_CIRCLE, west)), places).tolist() == [one[0], -np.inf]
    assert log_weights(AnyOf(priors=(SOFT_CIRCLE, west)), places).tolist() == [0.0, one[1]]


def test_a_composition_is_soft_when_a_part_is():
    assert AllOf(priors=(CIRCLE, BRIG_REGION)).mode is PriorMode.HARD
    assert AnyOf(priors=(CIRCLE, AllOf(priors=(SOFT_CIRCLE,)))).mode is PriorMode.SOFT


BOX = PolygonPrior(polygon=box(7, 46, 9, 47))


@pytest.mark.parametrize(
    ("prior", "hard"),
    [
        (None, None),
        (CIRCLE, CIRCLE),
        (SOFT_CIRCLE, None),
        (AllOf(priors=(SOFT_CIRCLE, BOX)), AllOf(priors=(BOX,))),
        (AllOf(priors=(SOFT_CIRCLE,)), None),
        (AnyOf(priors=(SOFT_CIRCLE, BOX)), None),
        (AnyOf(priors=(CIRCLE, BOX)), AnyOf(priors=(CIRCLE, BOX))),
        (
            AllOf(priors=(AnyOf(priors=(SOFT_CIRCLE, BOX)), BRIG_REGION)),
            AllOf(priors=(BRIG_REGION,)),
        ),
        (
            AnyOf(priors=(AllOf(priors=(SOFT_CIRCLE, BOX)), BRIG_REGION)),
            AnyOf(priors=(AllOf(priors=(BOX,)), BRIG_REGION)),
        ),
    ],
)
def test_the_hard_part_is_what_excludes_when_every_soft_prior_is_wrong(prior, hard):
    assert hard_part(prior) == hard
