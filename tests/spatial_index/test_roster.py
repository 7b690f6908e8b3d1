"""A roster names exactly the patches that a prior holds, by cells as large as they may be."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import mercantile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mercantile import LngLat
from shapely.geometry import LineString, Polygon, box

from spatial_index import roster as roster_module
from spatial_index.cells import cells_of
from spatial_index.live import Rosters
from spatial_index.meta import GenerationMeta, Release
from spatial_index.priors import AllOf, AnyOf, CirclePrior, CorridorPrior, PolygonPrior, TimePrior
from spatial_index.roster import Roster
from spatial_index.selection import EVERYTHING, NOTHING, Captured, Every, InCells, Spot, select
from spatial_index.weights import Places, searched

ZOOM = 18
SIDE = 40
PLACES = [(7.98, 46.31), (0.0, 0.0), (25.0, 84.9), (179.97, -17.5)]
DAY = datetime(2024, 6, 1, tzinfo=UTC)


def grid_spots() -> list[Spot]:
    """Four grids with holes; the west of each was taken on one day, the east on any or unknown days."""
    rng = np.random.default_rng(3)
    spots = []
    for place in PLACES:
        corner = mercantile.tile(*place, ZOOM)
        for x, y in np.ndindex(SIDE, SIDE):
            if rng.random() < 0.05:
                continue
            tile = mercantile.Tile((corner.x + x) % 2**ZOOM, corner.y + y, ZOOM)
            box_of = mercantile.bounds(tile)
            day = 0 if x < SIDE // 2 else int(rng.integers(-1, 4))
            spots.append(
                Spot(
                    id=uuid.uuid4(),
                    location=LngLat((box_of.west + box_of.east) / 2, (box_of.south + box_of.north) / 2),
                    captured_at=None if day < 0 else DAY + timedelta(days=day),
                    cells=tuple(cells_of(mercantile.quadkey(tile))),
                )
            )
    rng.shuffle(spots)
    return spots


SPOTS = grid_spots()
ROSTER = Roster.of("brig", [SPOTS[:1000], [], SPOTS[1000:]])


def hole_in(at: LngLat, wide: float, high: float) -> Polygon:
    return box(at.lng + wide * 0.45, at.lat + high * 0.4, at.lng + wide * 0.55, at.lat + high * 0.5)


def centre_of_a_grid() -> LngLat:
    corner = mercantile.tile(*PLACES[0], ZOOM)
    west, north = mercantile.ul(corner.x + SIDE // 2, corner.y + SIDE // 2, ZOOM)
    return LngLat(west, north)


def held_by(condition, spots=SPOTS) -> np.ndarray:
    """Which patches pass a condition of cells and times, (N,)."""
    if isinstance(condition, Every):
        parts = [held_by(part, spots) for part in condition.parts]
        return np.logical_and.reduce(parts) if parts else np.ones(len(spots), bool)
    if isinstance(condition, Captured):
        since_s, before_s = condition.seconds
        taken = [spot.captured_at.timestamp() if spot.captured_at else np.nan for spot in spots]
        return (np.array(taken) >= since_s) & (np.array(taken) < before_s)
    assert condition == NOTHING or isinstance(condition, InCells)
    names = set(() if condition == NOTHING else condition.names)
    return np.array([not names.isdisjoint(spot.cells) for spot in spots])


def truth(prior) -> np.ndarray:
    return searched(
        prior,
        Places(
            lngs=np.array([spot.location.lng for spot in SPOTS]),
            lats=np.array([spot.location.lat for spot in SPOTS]),
            regions=["brig"] * len(SPOTS),
            captured_at=[spot.captured_at for spot in SPOTS],
        ),
    )


near = st.builds(
    lambda place, east, north: LngLat(place[0] + east * 0.06, min(place[1] + north * 0.06, 89.0)),
    st.sampled_from(PLACES),
    st.floats(-0.4, 0.4),
    st.floats(-1.0, 0.4),
)
circles = st.builds(
    lambda at, size: CirclePrior(centre=LngLat((at.lng + 180) % 360 - 180, at.lat), radius_m=10**size),
    near,
    st.floats(0.5, 7.2),
)
polygons = st.builds(
    lambda at, wide, high, hole: PolygonPrior(
        polygon=Polygon(
            [(at.lng, at.lat), (at.lng + wide, at.lat + high / 3), (at.lng + wide / 2, at.lat + high)],
            [
                box(
                    at.lng + wide * 0.45, at.lat + high * 0.4, at.lng + wide * 0.55, at.lat + high * 0.5
                ).exterior
            ]
            if hole
            else [],
        )
    ),
    near.filter(lambda at: at.lng < 179.9),
    st.floats(1e-4, 0.06),
    st.floats(1e-4, 0.06),
    st.booleans(),
)
corridors = st.builds(
    lambda one, other, width: CorridorPrior(
        line=LineString([one, (other.lng + 1e-6, other.lat)]), half_width_m=10**width
    ),
    near.filter(lambda at: at.lng < 179.9),
    near.filter(lambda at: at.lng < 179.9),
    st.floats(0.5, 4),
)
times = st.builds(
    lambda first, days: TimePrior(start=DAY + timedelta(days=first), end=DAY + timedelta(days=first + days)),
    st.integers(-1, 4),
    st.integers(1, 4),
)
shapes = circles | polygons | corridors
priors = st.recursive(
    shapes | times,
    lambda parts: st.builds(
        lambda kind, some: kind(priors=tuple(some)),
        st.sampled_from([AllOf, AnyOf]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(prior=priors)
def test_cells_hold_what_the_prior_holds(prior):
    condition, count = ROSTER.resolve(select(prior), prior)
    expected = truth(prior)
    assert count == expected.sum()
    assert condition is not None
    assert (held_by(condition) == expected).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(prior=priors)
def test_too_many_cells_are_refused_or_their_times_left_to_the_engine(prior):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roster_module, "MOST_NAMED", 40)
        condition, count = ROSTER.resolve(select(prior), prior)
    expected = truth(prior)
    assert count == expected.sum()
    assert condition is None or (held_by(condition) == expected).all()


def test_times_without_order_in_space_are_left_to_the_engine():
    prior = AllOf(
        priors=(
            CirclePrior(centre=LngLat(*PLACES[0]), radius_m=1e6),
            TimePrior(start=DAY + timedelta(days=1)),
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roster_module, "MOST_NAMED", 300)
        condition, count = ROSTER.resolve(select(prior), prior)
    assert isinstance(condition, Every)
    assert any(isinstance(part, Captured) for part in condition.parts)
    assert 0 < count == truth(prior).sum()
    assert (held_by(condition) == truth(prior)).all()


def test_cells_are_as_large_as_they_may_be():
    """A circle of a third of a grid takes far fewer cells than patches."""
    prior = CirclePrior(centre=centre_of_a_grid(), radius_m=1500.0)
    condition, count = ROSTER.resolve(select(prior), prior)
    assert count > 500
    assert len(condition.names) < 0.35 * count
    assert {len(name) for name in condition.names} > {ZOOM, ZOOM - 1, ZOOM - 2}


def test_all_and_nothing_need_no_names():
    everywhere = PolygonPrior(polygon=box(-180, -90, 180, 90))
    nowhere = CirclePrior(centre=LngLat(60.0, 30.0), radius_m=100.0)
    assert ROSTER.resolve(select(everywhere), everywhere) == (EVERYTHING, len(SPOTS))
    assert ROSTER.resolve(select(nowhere), nowhere) == (NOTHING, 0)


def test_patches_of_an_earlier_version_make_no_roster():
    assert Roster.of("brig", [[replace(spot, cells=()) for spot in SPOTS[:10]]]) is None
    assert Roster.of("brig", [SPOTS[:10], [replace(SPOTS[10], cells=())]]) is None


def test_patches_beside_their_tiles_make_no_roster():
    astray = replace(SPOTS[0], location=LngLat(SPOTS[0].location.lng, SPOTS[0].location.lat - 1.0))
    assert Roster.of("brig", [[astray, *SPOTS[1:10]]]) is None


def test_patches_that_share_a_cell_are_told_apart_or_not_at_all():
    tile = mercantile.bounds(mercantile.quadkey_to_tile(SPOTS[0].cells[-1]))
    twin = replace(SPOTS[0], id=uuid.uuid4(), location=LngLat(tile.west + 1e-7, tile.south + 1e-7))
    roster = Roster.of("brig", [[twin, *SPOTS]])
    both = CirclePrior(centre=SPOTS[0].location, radius_m=1000.0)
    one = CirclePrior(centre=twin.location, radius_m=1.0)
    assert roster.resolve(select(both), both)[0] is not None
    assert roster.resolve(select(one), one) == (None, 1)


def test_rosters_are_of_what_is_live_now(make_spec):
    """One is read once, is of no other build, and goes with its region."""
    rosters, reads = Rosters(), []
    release = Release(patches=len(SPOTS), coverage=box(0, 0, 1, 1), imagery_from=None, imagery_to=None)
    meta = GenerationMeta.new(make_spec("brig")).released(release)

    def pages():
        reads.append(1)
        return [SPOTS]

    assert rosters.of(meta) is None
    rosters.read(meta, pages)
    rosters.read(meta, pages)
    assert len(rosters.of(meta)) == len(SPOTS)
    assert len(reads) == 1
    assert rosters.of(replace(meta, spec=make_spec("brig", "g2"))) is None
    rosters.keep(["oslo"])
    assert rosters.of(meta) is None


def test_a_roster_of_fewer_patches_than_were_promoted_is_not_kept(make_spec):
    rosters = Rosters()
    release = Release(patches=len(SPOTS) + 1, coverage=box(0, 0, 1, 1), imagery_from=None, imagery_to=None)
    meta = GenerationMeta.new(make_spec("brig")).released(release)
    rosters.read(meta, lambda: [SPOTS])
    assert rosters.of(meta) is None
