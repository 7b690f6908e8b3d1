"""What a store selects agrees with brute force: geodesics for circles, planar geometry for polygons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mercantile import LngLat
from shapely.geometry import Polygon, box

from spatial_index.geodesy import WGS84, distances_m
from spatial_index.priors import CirclePrior, PolygonPrior
from spatial_index.store import SearchRequest, Store

PER_PLACE = 150
PLACES = [(7.98, 46.31), (180.0, -17.5), (25.0, 84.9), (-60.0, -84.9), (0.0, 0.0), (103.8, 1.3)]
EXAMPLES = 60


@dataclass(frozen=True)
class Gallery:
    """A store with patches all over the world, dense at awkward places."""

    store: Store
    keys: np.ndarray
    lngs: np.ndarray
    lats: np.ndarray

    def select(self, prior) -> tuple[set[str], int]:
        request = SearchRequest(
            vectors=np.eye(1, 4, dtype=np.float32), limit=len(self.keys), prior=prior, model_digest="m1"
        )
        result = self.store.search(request)
        return {hit.quadkey for hit in result.hits[0]}, result.candidates


@pytest.fixture(scope="module", params=["cold", "warm"])
def gallery(
    request, open_empty, tmp_path_factory, make_spec, make_records, place_records
) -> Iterator[Gallery]:
    rng = np.random.default_rng(5)
    spread_deg = 10 ** rng.uniform(-4, 0.5, (len(PLACES), PER_PLACE, 1))
    near = np.array(PLACES)[:, None, :] + rng.standard_normal((len(PLACES), PER_PLACE, 2)) * spread_deg
    far = np.column_stack([rng.uniform(-180, 180, 300), np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))])
    points = np.concatenate([near.reshape(-1, 2), far])
    lngs, lats = (points[:, 0] + 180) % 360 - 180, np.clip(points[:, 1], -89.9, 89.9)
    places = [LngLat(float(lng), float(lat)) for lng, lat in zip(lngs, lats, strict=True)]
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (len(places), 1))
    with open_empty(tmp_path_factory.mktemp("oracle") / "store") as store:
        spec = make_spec("world", dim=4, zoom=28)
        records = place_records(make_records(spec, places, vectors), spec.zoom)
        store.create_generation(spec)
        store.write("world", "g1", records)
        store.promote("world", "g1", coverage=box(-180, -90, 180, 90))
        if request.param == "warm":
            store.warm_up()
        yield Gallery(store, np.array([record.quadkey for record in records]), lngs, lats)


quick = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(
    index=st.integers(0, len(PLACES) * PER_PLACE + 299),
    bearing=st.floats(0, 360),
    away_m=st.floats(0, 20_000),
    log_radius=st.floats(0, 7.3),
)
def test_circles_agree_with_geodesics(gallery: Gallery, index, bearing, away_m, log_radius):
    lng, lat, _ = WGS84.fwd(gallery.lngs[index], gallery.lats[index], bearing, away_m)
    prior = CirclePrior(centre=LngLat(lng, lat), radius_m=10**log_radius)
    metres = distances_m(prior.centre, gallery.lngs, gallery.lats)
    assume(np.abs(metres - prior.radius_m).min() > 1e-6)  # neither in nor out, to a micrometre
    expected = set(gallery.keys[metres <= prior.radius_m])
    assert gallery.select(prior) == (expected, len(expected))


@quick
@given(
    pair=st.tuples(
        st.integers(0, len(PLACES) - 1), st.integers(0, PER_PLACE - 1), st.integers(0, PER_PLACE - 1)
    ),
    short=st.booleans(),
)
def test_the_edge_of_a_circle_is_exact_to_a_millimetre(gallery: Gallery, pair, short):
    place, a, b = pair
    centre_at, edge_at = place * PER_PLACE + a, place * PER_PLACE + b
    centre = LngLat(float(gallery.lngs[centre_at]), float(gallery.lats[centre_at]))
    metres = distances_m(centre, gallery.lngs, gallery.lats)
    radius_m = float(metres[edge_at]) + (-1e-3 if short else 1e-3)
    if radius_m <= 0:
        return
    selected, count = gallery.select(CirclePrior(centre=centre, radius_m=radius_m))
    assert selected == set(gallery.keys[metres <= radius_m])
    assert count == len(selected)


@quick
@given(
    place=st.sampled_from(PLACES),
    spokes=st.lists(st.floats(0.2, 1.0), min_size=3, max_size=40),
    log_size_deg=st.floats(-3.5, 1.7),
    hole=st.booleans(),
)
def test_polygons_agree_with_planar_geometry(gallery: Gallery, place, spokes, log_size_deg, hole):
    star = _star(place, np.array(spokes), 10**log_size_deg)
    holes = [np.array(place) + 0.5 * (star - np.array(place))] if hole else []
    outline = Polygon(star, holes)  # continuous longitudes: may leave ±180°
    wrapped = Polygon(_wrap(star), [_wrap(ring) for ring in holes])

    selected, count = gallery.select(PolygonPrior(polygon=wrapped))

    inside, near = np.zeros(len(gallery.keys), bool), np.zeros(len(gallery.keys), bool)
    for turn in (-360.0, 0.0, 360.0):
        inside |= shapely.intersects_xy(outline, gallery.lngs + turn, gallery.lats)
        points = shapely.points(gallery.lngs + turn, gallery.lats)
        near |= shapely.distance(outline.boundary, points) < 3e-9
    assert selected - set(gallery.keys[near]) == set(gallery.keys[inside & ~near])
    assert count == len(selected)


@pytest.mark.parametrize(
    "area",
    [
        box(-180, -90, 180, 90), box(-180, -90, 0, 90), box(0, -90, 180, 90), box(-180, 0, 180, 90),
        box(-180, -90, -90, 0), box(-100, -80, 100, 80), box(-179.9, -85, 179.9, 85),
    ],
)  # fmt: skip
def test_areas_at_the_edge_of_the_map_are_answered_in_full(gallery: Gallery, area):
    if area.bounds[2] - area.bounds[0] in (200, 359.8):  # else the long edges would mean the short way round
        area = area.segmentize(90)
    selected, count = gallery.select(PolygonPrior(polygon=area))
    expected = set(gallery.keys[shapely.intersects_xy(area, gallery.lngs, gallery.lats)])
    assert selected == expected
    assert count == len(expected) > 0


def _star(centre: tuple[float, float], spokes: np.ndarray, size_deg: float) -> np.ndarray:
    """A ring that is star-shaped around its centre: never crosses itself. (V, 2)"""
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    height = min(size_deg, 90.0 - abs(centre[1]))
    ring = np.column_stack([np.cos(angles) * 2 * size_deg, np.sin(angles) * height]) * spokes[:, None]
    return ring + np.array(centre)


def _wrap(ring: np.ndarray) -> np.ndarray:
    return np.column_stack([(ring[:, 0] + 180) % 360 - 180, ring[:, 1]])
