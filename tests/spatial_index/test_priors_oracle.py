"""What a store selects for corridors, boxes, times, regions and compositions agrees with brute force.

The oracle knows nothing of the code under test: geodesics by pyproj, planar geometry by shapely, the distance
to a line by sampling it ever more densely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mercantile import LngLat
from pyproj import Geod
from shapely.geometry import LineString, Polygon, box

from spatial_index.geojson import from_bbox
from spatial_index.priors import (
    AllOf,
    AnyOf,
    CirclePrior,
    CorridorPrior,
    PolygonPrior,
    PriorMode,
    RegionPrior,
    TimePrior,
)
from spatial_index.store import SearchRequest, Store

WGS84 = Geod(ellps="WGS84")
PER_PLACE = 40
PLACES = {
    "brig": [(7.98, 46.31), (103.8, 1.3)],
    "suva": [(180.0, -17.5), (0.0, 0.0)],
    "world": [(25.0, 84.9), (-60.0, -84.9)],
}
CENTRES = [place for places in PLACES.values() for place in places]
DAY = datetime(2024, 6, 1, tzinfo=UTC)
DAYS = 6
ZOOM = 28
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Gallery:
    """Three regions, dense at awkward places, each patch with a capture time or none."""

    store: Store
    keys: np.ndarray
    lngs: np.ndarray
    lats: np.ndarray
    regions: np.ndarray
    days: np.ndarray
    """Days after DAY; -1: unknown."""

    def select(self, prior) -> set[str]:
        request = SearchRequest(
            vectors=np.eye(1, 4, dtype=np.float32), limit=len(self.keys), prior=prior, model_digest="m1"
        )
        result = self.store.search(request)
        found = {f"{hit.region}/{hit.quadkey}" for hit in result.hits[0]}
        assert len(found) == len(result.hits[0]) == result.candidates
        return found


@pytest.fixture(scope="module", params=["cold", "warm"])
def gallery(
    request, open_empty, tmp_path_factory, make_spec, make_records, place_records
) -> Iterator[Gallery]:
    rng = np.random.default_rng(11)
    rows: list[tuple[str, float, float, str, int]] = []
    with open_empty(tmp_path_factory.mktemp("composed") / "store") as store:
        for region, centres in PLACES.items():
            spread_deg = 10 ** rng.uniform(-4, 0.7, (len(centres), PER_PLACE, 1))
            near = np.array(centres)[:, None] + rng.standard_normal((len(centres), PER_PLACE, 2)) * spread_deg
            points = near.reshape(-1, 2)
            lngs, lats = (points[:, 0] + 180) % 360 - 180, np.clip(points[:, 1], -89.9, 89.9)
            days = rng.integers(-1, DAYS, len(points))
            spec = make_spec(region, dim=4, zoom=ZOOM)
            places = [LngLat(float(lng), float(lat)) for lng, lat in zip(lngs, lats, strict=True)]
            plain = make_records(spec, places, np.tile(np.eye(1, 4, dtype=np.float32), (len(places), 1)))
            records = [
                replace(record, captured_at=None if day < 0 else DAY + timedelta(days=int(day)))
                for record, day in zip(place_records(plain, ZOOM), days, strict=True)
            ]
            store.create_generation(spec)
            store.write(region, "g1", records)
            store.promote(region, "g1", coverage=_tight_coverage(lngs, lats))
            rows += [
                (f"{region}/{record.quadkey}", *place, region, day)
                for record, place, day in zip(records, places, days, strict=True)
            ]
        if request.param == "warm":
            store.warm_up()
        yield Gallery(store, *(np.array(column) for column in zip(*rows, strict=True)))


corridors = st.builds(
    lambda place, size, width, steps, mode: CorridorPrior(
        line=_line(place, 10**size, steps), half_width_m=10**width, mode=mode, falloff_m=10 ** (width - 1)
    ),
    st.sampled_from(CENTRES),
    st.floats(-4, 1.6),
    st.floats(0.3, 5),
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=3),
    st.sampled_from(PriorMode),
)
corners = st.builds(
    lambda place, wide, high, at: _box(place, 10**wide, 10**high, at),
    st.sampled_from(CENTRES),
    st.floats(-4, 2.2),
    st.floats(-4, 1.8),
    st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
)
boxes = corners.map(lambda box: from_bbox(*box))
circles = st.builds(
    lambda place, radius, mode: CirclePrior(centre=LngLat(*place), radius_m=10**radius, mode=mode),
    st.sampled_from(CENTRES),
    st.floats(0, 6.8),
    st.sampled_from(PriorMode),
)
times = st.builds(
    lambda start, days: TimePrior(
        start=None if start is None else DAY + timedelta(days=start),
        end=None if days is None else DAY + timedelta(days=(start or 0) + days),
    ),
    st.integers(0, DAYS),
    st.none() | st.integers(1, DAYS),
)
regions = st.lists(st.sampled_from(list(PLACES)), min_size=1, max_size=2).map(
    lambda names: RegionPrior(names=tuple(names))
)
composed = st.recursive(
    st.one_of(corridors, boxes, circles, times, regions),
    lambda parts: st.builds(
        lambda kind, priors: kind(priors=tuple(priors)),
        st.sampled_from([AllOf, AnyOf]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


@quick
@given(prior=corridors)
def test_corridors_agree_with_geodesics_to_a_densely_sampled_line(gallery: Gallery, prior):
    check(gallery, prior)


@quick
@given(index=st.integers(0, len(CENTRES) * PER_PLACE - 1), steps=st.floats(-0.5, 0.5), short=st.booleans())
def test_the_edge_of_a_corridor_is_exact_to_a_millimetre(gallery: Gallery, index, steps, short):
    lng, lat = float(gallery.lngs[index]), float(gallery.lats[index])
    line = _line((lng, lat), 0.1, [(0.3 + steps, 0.4), (0.1, steps)])
    line = LineString(np.array(line.coords)[1:])  # starts beside the patch, not on it
    edge_m = float(line_distances_m(line, np.array([lng]), np.array([lat]))[0])
    check(gallery, CorridorPrior(line=line, half_width_m=edge_m + (-1e-3 if short else 1e-3)))


@quick
@given(corners=corners)
def test_boxes_agree_with_plain_comparisons(gallery: Gallery, corners):
    west, south, east, north = corners
    near = np.zeros(len(gallery.keys), bool)
    for value, border in zip((gallery.lngs, gallery.lats) * 2, corners, strict=True):
        near |= np.abs(value - border) < 3e-9
    after_west, before_east = gallery.lngs >= west, gallery.lngs <= east
    between = after_west & before_east if west <= east else after_west | before_east
    inside = between & (south <= gallery.lats) & (gallery.lats <= north)
    selected = gallery.select(from_bbox(west, south, east, north))
    assert selected - set(gallery.keys[near]) == set(gallery.keys[inside & ~near])


@quick
@given(prior=times)
def test_times_agree_with_plain_comparisons(gallery: Gallery, prior):
    check(gallery, prior)


@settings(quick, max_examples=60)
@given(prior=composed)
def test_compositions_agree_with_and_and_or(gallery: Gallery, prior):
    check(gallery, prior)


def test_a_time_range_starts_with_its_start_and_ends_before_its_end(gallery: Gallery):
    day = timedelta(days=1)
    one = gallery.select(TimePrior(start=DAY + day, end=DAY + 2 * day))
    assert one == set(gallery.keys[gallery.days == 1])
    tick = timedelta(microseconds=1)
    assert gallery.select(TimePrior(start=DAY + day, end=DAY + day + tick)) == one
    assert gallery.select(TimePrior(start=DAY + day + tick, end=DAY + 2 * day)) == set()
    assert gallery.select(TimePrior(end=DAY)) == set()
    known = set(gallery.keys[gallery.days >= 0])
    assert gallery.select(TimePrior(start=DAY)) == known
    assert gallery.select(TimePrior(end=DAY + DAYS * day)) == known < set(gallery.keys)


def check(gallery: Gallery, prior) -> None:
    """What is selected is what brute force says; patches too near a border for floats to tell may go."""
    inside, near = members(gallery, prior)
    selected = gallery.select(prior)
    assert selected - set(gallery.keys[near]) == set(gallery.keys[inside & ~near])


def members(gallery: Gallery, prior) -> tuple[np.ndarray, np.ndarray]:
    """Which patches the search area holds, and which are too near its border to tell; both (N,)."""
    match prior:
        case CirclePrior():
            radius_m = prior.radius_m * (1.0 if prior.mode is PriorMode.HARD else 3.0)
            count = len(gallery.keys)
            *_, metres = WGS84.inv(
                np.full(count, prior.centre.lng), np.full(count, prior.centre.lat), gallery.lngs, gallery.lats
            )
            return metres <= radius_m, np.abs(metres - radius_m) < 1e-6
        case CorridorPrior():
            soft_m = 0.0 if prior.mode is PriorMode.HARD else 3.0 * prior.falloff_m
            metres = line_distances_m(prior.line, gallery.lngs, gallery.lats)
            away_m = metres - prior.half_width_m - soft_m
            return away_m <= 0.0, np.abs(away_m) < 1e-5
        case PolygonPrior():
            points = shapely.points(gallery.lngs, gallery.lats)
            on_map_edge = np.abs(np.abs(gallery.lngs) - 180.0) < 3e-9
            near = (shapely.distance(prior.polygon.boundary, points) < 3e-9) & ~on_map_edge
            return shapely.intersects(prior.polygon, points), near
        case RegionPrior():
            return np.isin(gallery.regions, prior.names), np.zeros(len(gallery.keys), bool)
        case TimePrior():
            start = -np.inf if prior.start is None else (prior.start - DAY) / timedelta(days=1)
            end = np.inf if prior.end is None else (prior.end - DAY) / timedelta(days=1)
            known = gallery.days >= 0
            return known & (start <= gallery.days) & (gallery.days < end), np.zeros_like(known)
        case AllOf() | AnyOf():
            parts = [members(gallery, part) for part in prior.priors]
            join = np.logical_and if isinstance(prior, AllOf) else np.logical_or
            inside, near = zip(*parts, strict=True)
            return join.reduce(inside), np.logical_or.reduce(near)
    raise AssertionError(prior)


def line_distances_m(line: LineString, lngs: np.ndarray, lats: np.ndarray) -> np.ndarray:
    """Least geodesic distance to samples of each edge, each next round around the best of the last, (N,)."""
    ring = np.array(line.coords)
    steps = (np.diff(ring[:, 0]) + 180.0) % 360.0 - 180.0
    turned = np.column_stack([ring[0, 0] + np.concatenate([[0.0], np.cumsum(steps)]), ring[:, 1]])
    best = np.full(len(lngs), np.inf)
    for start, end in pairwise(turned):
        low, high = np.zeros(len(lngs)), np.ones(len(lngs))
        for samples in (64, 16, 16, 16, 16, 16, 16):
            share = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, samples + 1)  # (N, S)
            there = start + share[..., None] * (end - start)  # (N, S, 2)
            here = np.broadcast_to(np.stack([lngs, lats], axis=1)[:, None], there.shape)
            *_, metres = WGS84.inv(*(np.ravel(part[..., i]) for part in (here, there) for i in (0, 1)))
            metres = np.asarray(metres).reshape(share.shape)
            at = metres.argmin(axis=1)
            rows = np.arange(len(lngs))
            low, high = share[rows, np.maximum(at - 1, 0)], share[rows, np.minimum(at + 1, samples)]
            best = np.minimum(best, metres.min(axis=1))
    return best


def _line(place: tuple[float, float], size_deg: float, steps: list[tuple[float, float]]) -> LineString:
    """A zigzag from a place, wrapped at the antimeridian; no edge jumps by half a turn."""
    moves = np.array(steps) * [size_deg * 2, size_deg] + [1e-6, 0.0]  # never of no length
    path = np.concatenate([[place], np.array(place) + np.cumsum(moves, axis=0)])
    return LineString(
        np.column_stack([(path[:, 0] + 180.0) % 360.0 - 180.0, np.clip(path[:, 1], -89.99, 89.99)])
    )


def _box(place, wide_deg: float, high_deg: float, at: tuple[float, float]) -> tuple[float, ...]:
    """West, south, east, north of a box around a place, which lies at a share of its sides."""
    west, east = place[0] - wide_deg * at[0], place[0] + wide_deg * (1.0 - at[0])
    south, north = place[1] - high_deg * at[1], place[1] + high_deg * (1.0 - at[1])
    west, east = ((lng + 180.0) % 360.0 - 180.0 for lng in (west, east))
    return west, max(south, -90.0), east, min(north, 90.0)


def _tight_coverage(lngs: np.ndarray, lats: np.ndarray) -> Polygon:
    """Small boxes that have the patch centres as corners: what routing must not miss."""
    pad = 1e-3
    east = np.where(lngs + pad > 180.0, lngs - pad, lngs + pad)
    return shapely.union_all(
        [
            box(min(a, b), lat, max(a, b), min(lat + pad, 90.0))
            for a, b, lat in zip(lngs, east, lats, strict=True)
        ]
    )
