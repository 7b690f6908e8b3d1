"""What every store promises, checked on the embedded store and on a real Qdrant server."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pytest
from mercantile import LngLat
from shapely.geometry import Point, Polygon, box

from spatial_index.errors import (
    BadRecord,
    BadRegionName,
    BadSearch,
    ModelMismatch,
    StoreUnavailable,
    UnknownGeneration,
    UnknownRegion,
)
from spatial_index.priors import CirclePrior, PolygonPrior, PriorMode
from spatial_index.records import point_id
from spatial_index.store import SearchRequest, Store
from spatial_index.weights import contains, places_at

ANYWHERE = box(7, 46, 9, 47)


def ask(vectors, *, limit=5, prior=None, regions=(), model_digest="m1"):
    return SearchRequest(
        vectors=np.atleast_2d(vectors), limit=limit, prior=prior, regions=regions, model_digest=model_digest
    )


def test_a_written_generation_is_invisible_until_promoted(
    store: Store, make_spec, make_records, grid, unit_vectors
):
    spec = make_spec()
    store.create_generation(spec)
    store.write("brig", "g1", make_records(spec, grid(20), unit_vectors(20)))

    assert store.count("brig", "g1") == 20
    assert store.regions() == []
    assert store.search(ask(unit_vectors(1))).candidates == 0

    store.promote("brig", "g1", coverage=ANYWHERE)
    assert [info.name for info in store.regions()] == ["brig"]
    assert store.search(ask(unit_vectors(1))).candidates == 20


def test_what_was_written_is_read_back_to_the_bit(store: Store, make_spec, make_records, grid, unit_vectors):
    spec = make_spec()
    store.create_generation(spec)
    written = make_records(spec, grid(1234), unit_vectors(1234))  # two pages
    written[7] = replace(written[7], captured_at=None)
    store.write("brig", "g1", written)
    found = {record.quadkey: record for page in store.read("brig", "g1") for record in page}
    assert len(found) == len(written)
    for record in written:
        same = found[record.quadkey]
        assert np.array_equal(same.vector, record.vector)
        assert same.captured_at == record.captured_at
        assert same.location == pytest.approx(record.location, abs=1e-12)  # the engine's JSON loses a bit
        assert (same.source, same.side_m) == (record.source, record.side_m)
        assert same.valid_fraction == record.valid_fraction
    with pytest.raises(UnknownGeneration):
        list(store.read("brig", "nothing"))


def test_writing_the_same_patch_again_replaces_it(store: Store, make_spec, make_records, grid, unit_vectors):
    spec = make_spec()
    store.create_generation(spec)
    places = grid(10)
    store.write("brig", "g1", make_records(spec, places, unit_vectors(10)))
    again = make_records(spec, places, unit_vectors(10, seed=1))
    store.write("brig", "g1", again)
    store.promote("brig", "g1", coverage=ANYWHERE)

    assert store.count("brig", "g1") == 10
    assert store.search(ask(again[3].vector, limit=1)).hits[0][0].score == pytest.approx(1.0, abs=1e-5)


def test_search_finds_exactly_the_nearest_by_cosine(store: Store, make_spec, fill, grid, unit_vectors):
    records = fill(store, make_spec(), grid(300), unit_vectors(300))
    queries = unit_vectors(4, seed=9)

    result = store.search(ask(queries, limit=10))

    scores = queries @ np.array([record.vector for record in records]).T  # (Q, N)
    for row, hits in enumerate(result.hits):
        expected = np.argsort(-scores[row])[:10]
        assert [hit.quadkey for hit in hits] == [records[i].quadkey for i in expected]
        np.testing.assert_allclose([hit.score for hit in hits], scores[row, expected], atol=1e-5)
    assert (result.candidates, result.plan) == (300, "exact")


def test_a_hit_carries_everything_that_was_stored(store: Store, make_spec, make_records, grid, unit_vectors):
    spec = make_spec()
    store.create_generation(spec)
    zone = datetime(2023, 7, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    [record] = make_records(spec, grid(1), unit_vectors(1), captured_at=zone)
    store.write("brig", "g1", [record])
    store.promote("brig", "g1", coverage=ANYWHERE)

    [[hit]] = store.search(ask(record.vector)).hits

    assert hit.id == point_id("brig", "g1", record.quadkey, 70.0)
    assert hit.location == pytest.approx(record.location, abs=1e-12)
    assert (hit.region, hit.generation, hit.quadkey, hit.side_m, hit.source, hit.captured_at) == (
        "brig", "g1", record.quadkey, 70.0, "sheet.tif", zone,
    )  # fmt: skip


def test_an_unknown_capture_time_stays_unknown(store: Store, make_spec, fill, grid, unit_vectors):
    fill(store, make_spec(), grid(3), unit_vectors(3))
    info = store.region("brig")
    assert (info.imagery_from, info.imagery_to) == (None, None)
    assert store.search(ask(unit_vectors(1))).hits[0][0].captured_at is None


def test_a_region_tells_what_it_holds(store: Store, make_spec, make_records, grid, unit_vectors):
    spec = make_spec()
    store.create_generation(spec)
    first = datetime(2021, 5, 1, tzinfo=UTC)
    records = make_records(spec, grid(5), unit_vectors(5))
    dated = [replace(record, captured_at=first + timedelta(days=i)) for i, record in enumerate(records)]
    store.write("brig", "g1", dated)
    coverage = Polygon(
        [(7, 46), (9, 46), (9, 47), (7, 47)], [[(8, 46.4), (8.1, 46.4), (8.1, 46.5), (8, 46.4)]]
    )
    store.promote("brig", "g1", coverage=coverage)

    info = store.region("brig")

    assert (info.generation, info.model_digest, info.dim, info.zoom, info.side_m) == ("g1", "m1", 8, 10, 70.0)
    assert (info.patches, info.imagery_from, info.imagery_to) == (5, first, first + timedelta(days=4))
    assert info.coverage.equals(coverage)
    assert abs((datetime.now(UTC) - info.created_at).total_seconds()) < 60
    assert store.regions() == [info]


@pytest.mark.parametrize("radius_m", [1.0, 120.0, 700.0, 50_000.0])
def test_a_circle_selects_by_geodesic_distance(
    store: Store, make_spec, fill, grid, unit_vectors, radius_m: float
):
    places = grid(400)
    records = fill(store, make_spec(), places, unit_vectors(400))
    prior = CirclePrior(centre=places[190], radius_m=radius_m)

    result = store.search(ask(unit_vectors(1), limit=400, prior=prior))

    inside = contains(prior, places_at([p.lng for p in places], [p.lat for p in places]))
    expected = {record.quadkey for record, yes in zip(records, inside, strict=True) if yes}
    assert {hit.quadkey for hit in result.hits[0]} == expected
    assert result.candidates == len(expected) > 0


def test_a_soft_circle_is_searched_in_a_wider_area(store: Store, make_spec, fill, grid, unit_vectors):
    places = grid(400)
    fill(store, make_spec(), places, unit_vectors(400))
    soft = CirclePrior(centre=places[190], radius_m=100.0, mode=PriorMode.SOFT)
    wide = CirclePrior(centre=places[190], radius_m=300.0)

    found = [store.search(ask(unit_vectors(1), prior=prior)).candidates for prior in (soft, wide)]

    assert found[0] == found[1]


def test_a_polygon_selects_its_inside_without_its_holes(store: Store, make_spec, fill, grid, unit_vectors):
    places = grid(400)
    records = fill(store, make_spec(), places, unit_vectors(400))
    west, south = places[0]
    ring = [(west + x, south + y) for x, y in [(-1e-4, -1e-4), (8e-3, 1e-4), (9e-3, 9e-3), (1e-4, 6e-3)]]
    hole = [(west + x, south + y) for x, y in [(2.1e-3, 2.1e-3), (5.1e-3, 2.1e-3), (5.1e-3, 4.1e-3)]]
    shape = Polygon(ring, [hole])

    result = store.search(ask(unit_vectors(1), limit=400, prior=PolygonPrior(polygon=shape)))

    expected = {r.quadkey for r in records if shape.intersects(Point(r.location))}
    assert {hit.quadkey for hit in result.hits[0]} == expected
    assert 0 < result.candidates == len(expected) < 400


def test_shapes_reach_across_the_antimeridian(store: Store, make_spec, fill, unit_vectors):
    places = [LngLat(lng, -17.5) for lng in (179.0, 179.99, 180.0, -180.0, -179.99, -179.0)]
    fill(store, make_spec("suva"), places, unit_vectors(6))
    circle = CirclePrior(centre=LngLat(179.995, -17.5), radius_m=3_000.0)
    polygon = PolygonPrior(polygon=Polygon([(179.5, -18), (-179.5, -18), (-179.5, -17), (179.5, -17)]))

    for prior in (circle, polygon):
        hits = store.search(ask(unit_vectors(1), limit=9, prior=prior)).hits[0]
        assert sorted(hit.location.lng for hit in hits) == pytest.approx(
            [-180.0, -179.99, 179.99, 180.0], abs=1e-8
        )


def test_a_prior_in_the_ocean_has_no_candidates(store: Store, make_spec, fill, grid, unit_vectors):
    fill(store, make_spec(), grid(10), unit_vectors(10))
    ocean = CirclePrior(centre=LngLat(-30.0, 0.0), radius_m=300.0)

    result = store.search(ask(unit_vectors(2), prior=ocean))

    assert (result.candidates, result.hits) == (0, [[], []])


def test_regions_are_merged_by_score_or_named(store: Store, make_spec, fill, grid, unit_vectors):
    brig = fill(store, make_spec("brig"), grid(30), unit_vectors(30, seed=1))
    oslo = fill(store, make_spec("oslo"), grid(30, lng=10.7, lat=59.9), unit_vectors(30, seed=2))
    [query] = unit_vectors(1, seed=3)

    both = store.search(ask(query, limit=8))
    one = store.search(ask(query, limit=8, regions=("oslo",)))

    best = sorted(brig + oslo, key=lambda record: -float(record.vector @ query))[:8]
    assert [(h.region, h.quadkey) for h in both.hits[0]] == [(r.region, r.quadkey) for r in best]
    assert (both.candidates, one.candidates) == (60, 30)
    assert {hit.region for hit in one.hits[0]} == {"oslo"}


def test_an_unknown_region_is_named(store: Store, make_spec, fill, grid, unit_vectors):
    fill(store, make_spec(), grid(3), unit_vectors(3))
    with pytest.raises(UnknownRegion, match=r"'oslo'.*live regions: brig"):
        store.search(ask(unit_vectors(1), regions=("oslo",)))
    with pytest.raises(UnknownRegion):
        store.region("oslo")


def test_another_models_query_is_refused(store: Store, make_spec, fill, grid, unit_vectors):
    fill(store, make_spec(model_digest="aaaa"), grid(3), unit_vectors(3))
    with pytest.raises(ModelMismatch, match=r"model aaaa, the query by model bbbb; .*ingest"):
        store.search(ask(unit_vectors(1), model_digest="bbbb"))


def test_a_region_of_another_model_matters_only_where_it_would_answer(
    store: Store, make_spec, fill, grid, unit_vectors
):
    places = grid(9)
    fill(store, make_spec("brig"), places, unit_vectors(9))
    fill(
        store,
        make_spec("oslo", model_digest="old", dim=4),
        grid(9, lng=10.7, lat=59.9),
        unit_vectors(9, dim=4),
    )
    prior = CirclePrior(centre=places[0], radius_m=1_000.0)

    assert store.search(ask(unit_vectors(1), prior=prior)).candidates == 9
    with pytest.raises(ModelMismatch):
        store.search(ask(unit_vectors(1)))
    with pytest.raises(ModelMismatch):
        store.search(ask(unit_vectors(1), prior=prior, regions=("oslo",)))


def test_bad_searches_are_refused(store: Store, make_spec, fill, grid, unit_vectors):
    fill(store, make_spec(), grid(3), unit_vectors(3))
    good = unit_vectors(1)
    for request, field in [
        (ask(good, limit=0), "limit"),
        (ask(good, limit=10**6), "limit"),
        (ask(good * 2), "vectors"),
        (ask(good * np.nan), "vectors"),
        (ask(unit_vectors(1, dim=5)), "vectors shape"),
        (ask(good[:0]), "vectors shape"),
    ]:
        with pytest.raises(BadSearch) as caught:
            store.search(request)
        assert caught.value.field == field


UNFINDABLE = [
    ({"location": LngLat(500.0, 46.0)}, "location.lng"),
    ({"location": LngLat(8.0, 91.0)}, "location.lat"),
    ({"location": LngLat(math.nan, 46.0)}, "location.lng"),
    ({"valid_fraction": 1.5}, "valid_fraction"),
    ({"vector": np.full(8, np.nan, np.float32)}, "vector"),
    ({"vector": np.ones(8, np.float32)}, "vector"),
    ({"vector": np.eye(9, dtype=np.float32)[0]}, "vector shape"),
    ({"quadkey": "0123"}, "quadkey"),
    ({"quadkey": "0123456789"}, "quadkey"),
    ({"side_m": 50.0}, "side_m"),
    ({"generation": "g2"}, "region/generation"),
]


def test_what_the_engine_would_swallow_is_refused_whole(
    store: Store, make_spec, make_records, grid, unit_vectors
):
    spec = make_spec()
    store.create_generation(spec)
    good = make_records(spec, grid(3), unit_vectors(3))

    for changes, field in UNFINDABLE:
        with pytest.raises(BadRecord) as caught:
            store.write("brig", "g1", [*good[:2], replace(good[2], **changes)])
        assert caught.value.field == field

    assert store.count("brig", "g1") == 0


def test_a_probe_sees_one_generation_before_its_promotion(
    store: Store, make_spec, make_records, grid, unit_vectors
):
    spec = make_spec()
    store.create_generation(spec)
    records = make_records(spec, grid(20), unit_vectors(20))
    store.write("brig", "g1", records)

    [[best], [other]] = store.probe("brig", "g1", unit_vectors(20)[[4, 7]], 1)

    assert (best.quadkey, other.quadkey) == (records[4].quadkey, records[7].quadkey)
    with pytest.raises(UnknownGeneration):
        store.probe("brig", "g2", unit_vectors(1), 1)


def test_bad_names_are_refused(store: Store):
    for name in ["", "Brig", "brig_1", "../brig", "-brig", "b" * 64, "brig.1", "brig\n"]:
        for call in (store.generations, store.drop_region, partial(store.count, "brig")):
            with pytest.raises(BadRegionName):
                call(name)


def test_a_closed_store_says_so(store: Store, unit_vectors):
    store.close()
    store.close()
    for call in (store.regions, lambda: store.search(ask(unit_vectors(1)))):
        with pytest.raises(StoreUnavailable, match="closed"):
            call()
