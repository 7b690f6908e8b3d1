"""Searches leave regions alone that the prior does not touch, and find the same as if they had not."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from mercantile import LngLat
from shapely.geometry import LineString, MultiPolygon, box

from spatial_index.errors import UnknownRegion
from spatial_index.geodesy import METRES_PER_DEGREE
from spatial_index.geojson import from_bbox
from spatial_index.planner import Plan
from spatial_index.priors import AllOf, AnyOf, CirclePrior, CorridorPrior, RegionPrior, TimePrior
from spatial_index.records import PatchHit, RegionInfo, point_id
from spatial_index.routing import Footprints, Router
from spatial_index.search import Collection, run_search
from spatial_index.selection import (
    ENGINE_SPHERE_M,
    Candidates,
    Captured,
    Condition,
    Disc,
    Every,
    Selection,
    Some,
    Spot,
)
from spatial_index.store import SearchRequest

DAY = datetime(2024, 6, 1, tzinfo=UTC)
PLACES = [(7.98, 46.31), (8.3, 46.4), (179.99, -17.5), (-179.99, -17.4), (25.0, 84.9), (0.0, 0.0)]
WORLD = box(-180, -90, 180, 90)


@dataclass(frozen=True)
class FakePoints:
    """A generation in plain arrays; scores fall with the row."""

    info: RegionInfo
    lngs: np.ndarray
    lats: np.ndarray
    captured_at: datetime | None

    def size(self) -> int:
        return len(self.lngs)

    def between(self, selection: Selection) -> Iterable[Spot]:
        rows = np.flatnonzero(self.passing(selection.outer) & ~self.passing(selection.inner))
        return [Spot(id=self.id(row), location=self.at(row), captured_at=self.captured_at) for row in rows]

    def count(self, candidates: Candidates) -> int:
        return len(self.rows(candidates))

    def nearest(self, vectors, limit: int, candidates: Candidates, plan: Plan) -> list[list[PatchHit]]:
        return [[self.hit(row) for row in self.rows(candidates)[:limit]] for _ in vectors]

    def rows(self, candidates: Candidates) -> list[int]:
        rows = np.flatnonzero(self.passing(candidates.condition)).tolist()
        return [row for row in rows if self.id(row) not in candidates.excluded]

    def passing(self, condition: Condition) -> np.ndarray:
        match condition:
            case Every():
                return np.all([self.all_or_none(True), *map(self.passing, condition.parts)], axis=0)
            case Some():
                return np.any([self.all_or_none(False), *map(self.passing, condition.parts)], axis=0)
            case Captured():
                known = self.captured_at is not None
                after = known and (condition.start is None or condition.start <= self.captured_at)
                return self.all_or_none(after and (condition.end is None or self.captured_at < condition.end))
            case Disc():
                return self.haversine_m(condition.centre) <= condition.radius_m
            case _:
                return shapely.intersects_xy(condition, self.lngs, self.lats)

    def all_or_none(self, value: bool) -> np.ndarray:
        return np.full(len(self.lngs), value)

    def haversine_m(self, centre: LngLat) -> np.ndarray:
        lng, lat = np.radians(centre)
        lngs, lats = np.radians(self.lngs), np.radians(self.lats)
        half = np.sin((lats - lat) / 2) ** 2 + np.cos(lat) * np.cos(lats) * np.sin((lngs - lng) / 2) ** 2
        return 2 * ENGINE_SPHERE_M * np.arcsin(np.sqrt(half))

    def id(self, row: int) -> uuid.UUID:
        return point_id(self.info.name, "g1", str(row), 70.0)

    def at(self, row: int) -> LngLat:
        return LngLat(float(self.lngs[row]), float(self.lats[row]))

    def hit(self, row: int) -> PatchHit:
        return PatchHit(
            id=self.id(row), location=self.at(row), quadkey=str(row), region=self.info.name, generation="g1",
            side_m=70.0, captured_at=self.captured_at, source="fake", score=1.0 - row / 1000,
        )  # fmt: skip


def make_collection(name: str, place, captured_at: datetime | None, coverage=None) -> Collection:
    """Forty patches around a place; by default the coverage ends at the outermost of them."""
    points = np.array(place) + np.random.default_rng(len(name)).uniform(-0.01, 0.01, (40, 2))
    lngs = (points[:, 0] + 180) % 360 - 180
    info = RegionInfo(
        name=name, generation="g1", model_digest="m1", dim=4, zoom=20, side_m=70.0, patches=40,
        coverage=coverage or hull(lngs, points[:, 1]),
        created_at=DAY, imagery_from=captured_at, imagery_to=captured_at,
    )  # fmt: skip
    fake = FakePoints(info=info, lngs=lngs, lats=points[:, 1], captured_at=captured_at)
    return Collection(info=info, open=lambda: fake)


def hull(lngs, lats):
    sides = [(lngs[lngs > 0], lats[lngs > 0]), (lngs[lngs <= 0], lats[lngs <= 0])]
    if lngs.max() - lngs.min() < 180:
        sides = [(lngs, lats)]
    return MultiPolygon([box(x.min(), y.min(), x.max(), y.max()) for x, y in sides])


def make_live(coverage=None) -> list[Collection]:
    days = [DAY, None, DAY + timedelta(days=1), DAY + timedelta(days=2), DAY, None]
    return [
        make_collection(f"r{index}", place, day, coverage)
        for index, (place, day) in enumerate(zip(PLACES, days, strict=True))
    ]


LIVE, LIVE_EVERYWHERE = make_live(), make_live(WORLD)


def ask(prior=None, regions=()) -> SearchRequest:
    vectors = np.eye(1, 4, dtype=np.float32)
    return SearchRequest(vectors=vectors, limit=1000, prior=prior, regions=regions, model_digest="m1")


places = st.builds(
    lambda place, away: LngLat((place[0] + away[0] + 180) % 360 - 180, place[1] + away[1]),
    st.sampled_from(PLACES),
    st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)),
)
leaves = st.one_of(
    st.builds(lambda at, log_m: CirclePrior(centre=at, radius_m=10**log_m), places, st.floats(1, 6.5)),
    st.builds(
        lambda at, size: from_bbox(at.lng, at.lat, (at.lng + size + 180) % 360 - 180, at.lat + size),
        places, st.floats(0.001, 2.0),
    ),
    st.builds(
        lambda ends, log_m: CorridorPrior(line=LineString(ends), half_width_m=10**log_m),
        st.tuples(places, places).filter(lambda ends: ends[0] != ends[1]), st.floats(1, 4.5),
    ),
    st.builds(lambda days: TimePrior(start=DAY, end=DAY + timedelta(days=days)), st.integers(1, 3)),
    st.builds(lambda name: RegionPrior(names=(name,)), st.sampled_from(["r0", "r2", "r4"])),
)  # fmt: skip
priors = leaves | st.builds(
    lambda kind, parts: kind(priors=tuple(parts)),
    st.sampled_from([AllOf, AnyOf]),
    st.lists(leaves, min_size=2, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(prior=priors)
def test_routing_finds_what_searching_every_region_finds(prior):
    routed = run_search(ask(prior), LIVE, Router())
    everywhere = run_search(ask(prior), LIVE_EVERYWHERE, Router())
    assert routed == everywhere


@pytest.mark.parametrize(
    ("prior", "names"),
    [
        (None, "r0 r1 r2 r3 r4 r5"),
        (CirclePrior(centre=LngLat(7.98, 46.31), radius_m=500.0), "r0"),
        (CirclePrior(centre=LngLat(179.999, -17.45), radius_m=9_000.0), "r2 r3"),
        (from_bbox(7.0, 46.0, 9.0, 47.0), "r0 r1"),
        (CorridorPrior(line=LineString([(7.9, 46.2), (0.0, 0.0)]), half_width_m=50.0), "r5"),
        (RegionPrior(names=("r1", "r4")), "r1 r4"),
        (TimePrior(start=DAY + timedelta(days=1)), "r2 r3"),
        (TimePrior(end=DAY), ""),
        (AllOf(priors=(from_bbox(7.0, 46.0, 9.0, 47.0), RegionPrior(names=("r1", "r4")))), "r1"),
        (AnyOf(priors=(from_bbox(7.0, 46.0, 8.0, 47.0), RegionPrior(names=("r4",)))), "r0 r4"),
        (from_bbox(-60.0, -10.0, -50.0, 10.0), ""),
    ],
)
def test_regions_that_the_prior_does_not_touch_are_not_opened(prior, names):
    opened = []
    live = [
        Collection(info=each.info, open=lambda each=each: opened.append(each.info.name) or each.open())
        for each in LIVE
    ]
    run_search(ask(prior), live, Router())
    assert opened == names.split()


def test_a_patch_on_the_border_of_its_coverage_is_not_missed():
    info = LIVE[0].info
    east, north = info.coverage.bounds[2:]
    just_outside = from_bbox(east + 20 / METRES_PER_DEGREE, north - 0.01, east + 0.01, north)
    assert Footprints([info]).touched_by(just_outside.polygon.geoms[0]) == {"r0"}
    far = from_bbox(east + 0.0011, north - 0.01, east + 0.01, north)
    assert Footprints([info]).touched_by(far.polygon.geoms[0]) == frozenset()


def test_footprints_are_made_once_for_the_same_regions():
    router = Router()
    infos = [each.info for each in LIVE]
    first = router.footprints(infos)
    assert router.footprints(list(infos)) is first
    changed = [*infos[1:], LIVE_EVERYWHERE[0].info]
    assert router.footprints(changed) is not first
    assert "r0" in router.footprints(changed).touched_by(box(100, 0, 101, 1))


@pytest.mark.parametrize(
    "request_", [ask(regions=("rx",)), ask(AnyOf(priors=(RegionPrior(names=("r1", "rx")),)))]
)
def test_an_unknown_region_is_named_wherever_it_stands(request_):
    with pytest.raises(UnknownRegion, match="'rx'"):
        run_search(request_, LIVE, Router())
