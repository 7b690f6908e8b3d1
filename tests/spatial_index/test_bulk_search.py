"""Bulk search gives what the store gives, one by one."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from mercantile import LngLat
from shapely.geometry import LineString, Polygon, box

from spatial_index.bulk import StoreSearch, open_bulk_search
from spatial_index.errors import ModelMismatch, UnknownRegion
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

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
CENTRE = LngLat(7.984, 46.314)
CIRCLE = CirclePrior(centre=CENTRE, radius_m=300.0)
PRIORS = {
    "none": None,
    "circle": CIRCLE,
    "soft circle": CirclePrior(centre=CENTRE, radius_m=300.0, mode=PriorMode.SOFT),
    "polygon with a hole": PolygonPrior(
        polygon=Polygon(
            box(7.98, 46.31, 7.99, 46.32).exterior.coords, [box(7.984, 46.314, 7.986, 46.316).exterior.coords]
        )
    ),
    "corridor": CorridorPrior(line=LineString([(7.981, 46.311), (7.987, 46.317)]), half_width_m=60.0),
    "time": TimePrior(start=NOON + timedelta(hours=50), end=NOON + timedelta(hours=200)),
    "region": RegionPrior(names=("oslo",)),
    "all of": AllOf(priors=(CIRCLE, TimePrior(end=NOON + timedelta(hours=150)))),
    "any of": AnyOf(priors=(CIRCLE, PolygonPrior(polygon=box(7.98, 46.31, 7.982, 46.312)))),
    "nowhere": CirclePrior(centre=LngLat(0.0, 0.0), radius_m=100.0),
}


@pytest.fixture
def filled(store: Store, make_spec, make_records, grid, unit_vectors) -> Store:
    """Two regions; every other patch of the first has a capture time."""
    for region, lat in (("brig", 46.31), ("oslo", 59.9)):
        spec = make_spec(region=region)
        records = [
            record
            for number, place in enumerate(grid(400, lat=lat))
            for record in make_records(
                spec, [place], unit_vectors(400)[number : number + 1],
                captured_at=NOON + timedelta(hours=number) if number % 2 else None,
            )
        ]  # fmt: skip
        numbered = [record_at(record, number) for number, record in enumerate(records)]
        store.create_generation(spec)
        store.write(region, "g1", numbered)
        store.promote(region, "g1", coverage=box(7, lat - 0.1, 9, lat + 0.1))
    return store


def record_at(record, number):
    return replace(record, quadkey=np.base_repr(number, 4).zfill(10))


def ask(vectors, prior=None, **more):
    return SearchRequest(vectors=vectors, limit=12, model_digest="m1", prior=prior, **more)


def same(found, expected):
    assert (found.candidates, found.plan) == (expected.candidates, "exact")
    for ours, theirs in zip(found.hits, expected.hits, strict=True):
        assert [hit.id for hit in ours] == [hit.id for hit in theirs]
        np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=1e-5)
        assert [(h.location, h.captured_at, h.source) for h in ours] == [
            (h.location, h.captured_at, h.source) for h in theirs
        ]


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_every_prior_finds_what_the_store_finds(filled: Store, unit_vectors, prior):
    vectors = unit_vectors(5, seed=3)
    [[found]] = open_bulk_search(filled).search([[ask(vectors, prior)]])
    same(found, filled.search(ask(vectors, prior)))


def test_a_batch_is_answered_in_order(filled: Store, unit_vectors):
    groups = [
        [ask(unit_vectors(count, seed=seed), PRIORS["soft circle"]), ask(unit_vectors(count, seed=seed))]
        for seed, count in enumerate((1, 7, 3))
    ]
    for group, results in zip(groups, open_bulk_search(filled).search(groups), strict=True):
        for request, result in zip(group, results, strict=True):
            same(result, filled.search(request))


def test_batches_that_outgrow_the_memory_for_scores_are_split(filled: Store, unit_vectors, monkeypatch):
    monkeypatch.setattr("spatial_index.bulk.MOST_SCORE_BYTES", 4 * 400 * 3)
    groups = [[ask(unit_vectors(2, seed=seed))] for seed in range(5)]
    found = open_bulk_search(filled).search(groups)
    for [request], [result] in zip(groups, found, strict=True):
        same(result, filled.search(request))


def test_regions_too_large_for_memory_are_searched_by_their_store(filled: Store, unit_vectors):
    bulk = open_bulk_search(filled, most_vector_bytes=1_000)
    assert isinstance(bulk, StoreSearch)
    [[found]] = bulk.search([[ask(unit_vectors(2))]])
    same(found, filled.search(ask(unit_vectors(2))))


def test_refusals_are_those_of_the_store(filled: Store, unit_vectors):
    with pytest.raises(UnknownRegion):
        open_bulk_search(filled).search([[ask(unit_vectors(1), regions=("atlantis",))]])
    other = SearchRequest(vectors=unit_vectors(1), limit=1, model_digest="m2")
    with pytest.raises(ModelMismatch):
        open_bulk_search(filled).search([[other]])


def test_it_searches_in_another_process(filled: Store, unit_vectors):
    """Pickled before its first search and after."""
    bulk = open_bulk_search(filled)
    groups = [[ask(unit_vectors(3), PRIORS["corridor"]), ask(unit_vectors(3))]]
    fresh = pickle.loads(pickle.dumps(bulk)).search(groups)
    assert fresh == bulk.search(groups) == pickle.loads(pickle.dumps(bulk)).search(groups)
    assert bulk.portable_bytes > sum(4 * info.dim * info.patches for info in filled.regions())


def test_nothing_is_live(store: Store, unit_vectors):
    [[found]] = open_bulk_search(store).search([[ask(unit_vectors(2))]])
    assert (found.hits, found.candidates) == ([[], []], 0)
