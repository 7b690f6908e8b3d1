"""Priors over the wire: they arrive as they were sent, and what is wrong with one is said with its path."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.latlng_pb2 import LatLng as LatLngMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString

from serving.errors import InvalidRequest
from serving.pb import geometry_pb2, prior_pb2
from serving.prior_messages import message_of, prior_from
from serving.refusals import refusal_of
from spatial_index.errors import BadPrior
from spatial_index.geojson import from_bbox
from spatial_index.priors import (
    MAX_LEAVES,
    AllOf,
    AnyOf,
    CirclePrior,
    CorridorPrior,
    PriorMode,
    RegionPrior,
    TimePrior,
)
from tiling.grid import LngLat

modes = st.sampled_from(PriorMode)
lngs, lats = st.floats(-180, 179), st.floats(-89, 88)
places = st.builds(LngLat, lngs, lats)
moments = st.datetimes(datetime(1950, 1, 1), datetime(2050, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
leaves = st.one_of(
    st.builds(CirclePrior, centre=places, radius_m=st.floats(0.1, 1e6), mode=modes),
    st.builds(lambda at, mode: from_bbox(at.lng, at.lat, at.lng + 1, at.lat + 1, mode=mode), places, modes),
    st.just(from_bbox(170.0, -20.0, -170.0, -10.0)),
    st.builds(
        lambda at, to, width_m, mode: CorridorPrior(
            line=LineString([at, to]), half_width_m=width_m, mode=mode
        ),
        places, places.map(lambda at: LngLat(at.lng, at.lat + 1)), st.floats(0.1, 1e5), modes,
    ).filter(lambda corridor: corridor.line.length > 0.0),
    st.builds(RegionPrior, names=st.lists(st.sampled_from(["brig", "oslo"]), min_size=1).map(tuple)),
    st.builds(lambda at: TimePrior(start=at), moments),
    st.builds(lambda at: TimePrior(end=at), moments),
)  # fmt: skip
priors = st.recursive(
    leaves,
    lambda parts: st.builds(
        lambda kind, chosen: kind(priors=tuple(chosen)),
        st.sampled_from([AllOf, AnyOf]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


@settings(deadline=None, max_examples=50)
@given(priors)
def test_a_prior_survives_the_wire(prior):
    sent = message_of(prior).SerializeToString()
    assert prior_from(prior_pb2.PositionPrior.FromString(sent)) == prior


def at(lat: float, lng: float) -> LatLngMessage:
    return LatLngMessage(latitude=lat, longitude=lng)


def bounds(**corners) -> prior_pb2.PositionPrior:
    return prior_pb2.PositionPrior(bounding_box=geometry_pb2.BoundingBox(**corners))


def corridor(positions, **fields) -> prior_pb2.PositionPrior:
    return prior_pb2.PositionPrior(corridor=prior_pb2.CorridorPrior(positions=positions, **fields))


def composite(kind: str, *parts: prior_pb2.PositionPrior, **fields) -> prior_pb2.PositionPrior:
    return prior_pb2.PositionPrior(**{kind: prior_pb2.CompositePrior(priors=parts)}, **fields)


def time_range(**sides) -> prior_pb2.PositionPrior:
    return prior_pb2.PositionPrior(
        time_range=prior_pb2.TimeRange(**{name: Timestamp(seconds=at_s) for name, at_s in sides.items()})
    )


HERE, THERE = at(46.3, 7.9), at(46.4, 8.0)
GOOD = bounds(south_west=HERE, north_east=THERE)
SOFT = prior_pb2.PRIOR_MODE_SOFT


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (prior_pb2.PositionPrior(), "area"),
        (bounds(south_west=HERE), "bounding_box.north_east"),
        (bounds(north_east=HERE), "bounding_box.south_west"),
        (bounds(south_west=THERE, north_east=HERE), "bounding_box.north_east.lat"),
        (bounds(south_west=at(7.9, 200), north_east=THERE), "bounding_box.south_west.lng"),
        (bounds(south_west=HERE, north_east=at(46.4, 7.9)), "bounding_box.north_east.lng"),
        (corridor([HERE, THERE]), "corridor.half_width_m"),
        (corridor([HERE, THERE], half_width_m=0.0), "corridor.half_width_m"),
        (corridor([HERE, THERE], half_width_m=float("nan")), "corridor.half_width_m"),
        (corridor([HERE], half_width_m=5.0), "corridor.positions"),
        (corridor([HERE, HERE], half_width_m=5.0), "corridor.positions"),
        (corridor([HERE] * 10_001, half_width_m=5.0), "corridor.positions"),
        (corridor([HERE, at(107.9, 46.3)], half_width_m=5.0), "corridor.positions[1].lat"),
        (prior_pb2.PositionPrior(regions=prior_pb2.RegionPrior()), "regions.names"),
        (prior_pb2.PositionPrior(regions=prior_pb2.RegionPrior(names=["a", "B!"])), "regions.names[1]"),
        (prior_pb2.PositionPrior(regions=prior_pb2.RegionPrior(names=["a"]), mode=SOFT), "mode"),
        (prior_pb2.PositionPrior(time_range=prior_pb2.TimeRange()), "time_range"),
        (time_range(start_time=9, end_time=9), "time_range.end_time"),
        (time_range(start_time=10**15), "time_range.start_time"),
        (composite("all_of"), "all_of.priors"),
        (composite("any_of", GOOD, mode=SOFT), "mode"),
        (composite("any_of", *[GOOD] * (MAX_LEAVES + 1)), "any_of.priors"),
        (composite("all_of", GOOD, prior_pb2.PositionPrior()), "all_of.priors[1].area"),
        (
            composite("any_of", GOOD, composite("all_of", corridor([HERE, THERE], half_width_m=-1.0))),
            "any_of.priors[1].all_of.priors[0].corridor.half_width_m",
        ),
        (
            composite("any_of", composite("all_of", GOOD, corridor([HERE, THERE]))),
            "any_of.priors[0].all_of.priors[1].corridor.half_width_m",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_path(message, field):
    with pytest.raises((BadPrior, InvalidRequest)) as caught:
        prior_from(message)
    refusal = refusal_of(caught.value)
    assert refusal.field == f"position_prior.{field}"
    assert refusal.code.name == "INVALID_ARGUMENT"


def test_nesting_that_never_ends_is_refused():
    message = GOOD
    for _ in range(30):
        message = composite("all_of", message)
    with pytest.raises(BadPrior, match="at most 4 deep"):
        prior_from(message)
