"""What every store promises about generations: promoted at once, rolled back in one call, frozen, dropped.

Checked on the embedded store and on a real Qdrant server.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import numpy as np
import pytest
from shapely.geometry import Polygon, box

from spatial_index.errors import (
    BadRecord,
    EmptyGeneration,
    GenerationExists,
    GenerationFrozen,
    GenerationLive,
    NothingToRollBack,
    UnknownGeneration,
    UnknownRegion,
)
from spatial_index.priors import CirclePrior
from spatial_index.store import SearchRequest, Store

ANYWHERE = box(7, 46, 9, 47)


def ask(vectors, *, limit=5, prior=None):
    return SearchRequest(vectors=np.atleast_2d(vectors), limit=limit, model_digest="m1", prior=prior)


@pytest.fixture
def promote_anew(fill, make_spec, grid, unit_vectors):
    """Builds and promotes a generation whose number is the number of its patches: g3 has 3."""

    def make(store: Store, *names: str) -> None:
        for name in names:
            count = int(name[1:])
            fill(store, make_spec(generation=name), grid(count), unit_vectors(count))

    return make


def live_of(store: Store) -> tuple[str, int]:
    """What the region says that it answers from, and how many patches do answer."""
    found = store.search(ask(np.eye(8, dtype=np.float32)[0], limit=100))
    assert {hit.generation for hit in found.hits[0]} == {store.region("brig").generation}
    return store.region("brig").generation, found.candidates


def previous_of(store: Store) -> list[str]:
    return [info.spec.generation for info in store.generations("brig") if info.previous]


def test_a_rollback_makes_the_former_generation_live(store: Store, promote_anew):
    promote_anew(store, "g1", "g2")
    assert previous_of(store) == ["g1"]

    info = store.rollback("brig")

    assert (info.generation, info.patches) == ("g1", 1)
    assert live_of(store) == ("g1", 1)  # the first question after it: nothing remembered may answer
    assert store.region("brig") == info
    assert [(each.spec.generation, each.live, each.complete) for each in store.generations("brig")] == [
        ("g1", True, True),
        ("g2", False, True),
    ]


def test_rollbacks_walk_back_through_the_promotions(store: Store, promote_anew):
    promote_anew(store, "g1", "g2", "g3")
    assert [store.rollback("brig").generation for _ in range(2)] == ["g2", "g1"]
    with pytest.raises(
        NothingToRollBack, match="'brig' cannot be rolled back from generation 'g1': no other"
    ):
        store.rollback("brig")
    assert live_of(store) == ("g1", 1)


def test_after_a_rollback_a_new_promotion_returns_to_where_it_was(store: Store, promote_anew):
    promote_anew(store, "g1", "g2")
    store.rollback("brig")
    promote_anew(store, "g3")
    assert previous_of(store) == ["g1"]
    assert store.rollback("brig").generation == "g1"


def test_what_was_rolled_back_can_be_promoted_again_and_rolled_back_again(store: Store, promote_anew):
    promote_anew(store, "g1", "g2")
    store.rollback("brig")
    store.promote("brig", "g2", coverage=ANYWHERE)
    assert live_of(store) == ("g2", 2)
    assert store.rollback("brig").generation == "g1"


def test_promoting_the_live_generation_again_keeps_its_previous_one(store: Store, promote_anew):
    promote_anew(store, "g1", "g2")
    store.promote("brig", "g2", coverage=ANYWHERE)
    assert store.region("brig").coverage.equals(ANYWHERE)
    assert store.rollback("brig").generation == "g1"


def test_what_was_dropped_or_opened_again_is_not_rolled_back_to(store: Store, make_spec, promote_anew):
    promote_anew(store, "g1", "g2", "g3")
    store.create_generation(make_spec(generation="g2"))
    with pytest.raises(NothingToRollBack, match="'g2' before it was opened for writing again"):
        store.rollback("brig")
    assert previous_of(store) == []

    store.drop_generation("brig", "g2")
    with pytest.raises(NothingToRollBack, match="'g2' before it was dropped; promote another"):
        store.rollback("brig")
    assert live_of(store) == ("g3", 3)


def test_a_region_that_is_not_live_cannot_be_rolled_back(store: Store, make_spec):
    with pytest.raises(UnknownRegion):
        store.rollback("brig")
    store.create_generation(make_spec())
    with pytest.raises(UnknownRegion):
        store.rollback("brig")


def test_a_rollback_is_still_there_when_the_store_is_opened_again(open_empty, tmp_path, promote_anew):
    with open_empty(tmp_path / "store") as store:
        promote_anew(store, "g1", "g2", "g3")
        store.rollback("brig")
    with open_empty(tmp_path / "store", clean=False) as store:
        assert live_of(store) == ("g2", 2)
        assert store.rollback("brig").generation == "g1"


def test_generations_tell_what_they_hold(
    store: Store, make_spec, make_records, promote_anew, grid, unit_vectors
):
    taken = datetime(2021, 5, 1, tzinfo=UTC)
    spec = make_spec(generation="g9")
    store.create_generation(spec)
    store.write("brig", "g9", make_records(spec, grid(9), unit_vectors(9), captured_at=taken))
    [unfinished] = store.generations("brig")
    store.promote("brig", "g9", coverage=ANYWHERE)
    [complete] = store.generations("brig")

    assert (unfinished.coverage, unfinished.imagery_from, unfinished.imagery_to) == (None, None, None)
    assert (complete.imagery_from, complete.imagery_to) == (taken, taken)
    assert complete.coverage.equals(ANYWHERE)
    assert complete.spec == unfinished.spec == spec
    assert (unfinished.patches, complete.patches) == (9, 9)


def test_promotion_replaces_the_live_generation_at_once(store: Store, make_spec, fill, grid, unit_vectors):
    fill(store, make_spec(generation="g1"), grid(5), unit_vectors(5))
    fill(store, make_spec(generation="g2"), grid(7), unit_vectors(7))

    result = store.search(ask(unit_vectors(1), limit=20))

    assert result.candidates == 7
    assert {hit.generation for hit in result.hits[0]} == {"g2"}
    listed = [
        (info.spec.generation, info.patches, info.complete, info.live) for info in store.generations("brig")
    ]
    assert listed == [("g1", 5, True, False), ("g2", 7, True, True)]


def test_a_former_generation_can_be_promoted_again_or_dropped(
    store: Store, make_spec, fill, grid, unit_vectors
):
    fill(store, make_spec(generation="g1"), grid(5), unit_vectors(5))
    fill(store, make_spec(generation="g2"), grid(7), unit_vectors(7))

    store.promote("brig", "g1", coverage=ANYWHERE)
    assert store.search(ask(unit_vectors(1))).candidates == 5
    store.drop_generation("brig", "g2")
    store.drop_generation("brig", "g2")
    assert [info.spec.generation for info in store.generations("brig")] == ["g1"]


def test_the_live_generation_is_not_dropped_under_its_readers(
    store: Store, make_spec, fill, grid, unit_vectors
):
    fill(store, make_spec(), grid(5), unit_vectors(5))
    with pytest.raises(GenerationLive):
        store.drop_generation("brig", "g1")
    assert store.search(ask(unit_vectors(1))).candidates == 5


def test_a_live_generation_is_frozen(store: Store, make_spec, fill, grid, unit_vectors):
    records = fill(store, make_spec(), grid(5), unit_vectors(5))
    with pytest.raises(GenerationFrozen):
        store.write("brig", "g1", records)
    with pytest.raises(GenerationExists, match="live"):
        store.create_generation(make_spec())


def test_an_unfinished_generation_is_continued_only_with_the_same_spec(
    store: Store, make_spec, make_records, grid, unit_vectors
):
    spec = make_spec()
    store.create_generation(spec)
    store.write("brig", "g1", make_records(spec, grid(5), unit_vectors(5)))

    store.create_generation(spec)
    assert store.count("brig", "g1") == 5
    with pytest.raises(GenerationExists, match="m1"):
        store.create_generation(make_spec(model_digest="m2"))


def test_a_former_generation_opens_again_for_writing(store: Store, make_spec, fill, grid, unit_vectors):
    records = fill(store, make_spec(generation="g1"), grid(5), unit_vectors(5))
    fill(store, make_spec(generation="g2"), grid(7), unit_vectors(7))

    store.create_generation(make_spec(generation="g1"))
    store.write("brig", "g1", records)

    assert [info.complete for info in store.generations("brig")] == [False, True]


def test_unknown_and_empty_generations_are_named(store: Store, make_spec):
    with pytest.raises(UnknownGeneration):
        store.count("brig", "g1")
    with pytest.raises(UnknownGeneration):
        store.write("brig", "g1", [])
    with pytest.raises(UnknownGeneration):
        store.promote("brig", "g1", coverage=ANYWHERE)
    store.create_generation(make_spec())
    with pytest.raises(EmptyGeneration):
        store.promote("brig", "g1", coverage=ANYWHERE)


def test_bad_coverage_is_refused(store: Store, make_spec, make_records, grid, unit_vectors):
    spec = make_spec()
    store.create_generation(spec)
    store.write("brig", "g1", make_records(spec, grid(5), unit_vectors(5)))
    bow_tie = Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    for coverage in (Polygon(), box(2_600_000, 1_100_000, 2_700_000, 1_200_000), bow_tie):
        with pytest.raises(BadRecord, match="coverage"):
            store.promote("brig", "g1", coverage=coverage)
    assert store.regions() == []


def test_a_region_is_dropped_with_all_its_generations(store: Store, make_spec, fill, grid, unit_vectors):
    fill(store, make_spec(generation="g1"), grid(5), unit_vectors(5))
    fill(store, make_spec(generation="g2"), grid(5), unit_vectors(5))
    fill(store, make_spec("oslo"), grid(4), unit_vectors(4))

    store.drop_region("brig")

    assert [info.name for info in store.regions()] == ["oslo"]
    assert store.generations("brig") == []
    assert store.search(ask(unit_vectors(1))).candidates == 4


def test_searches_during_a_promotion_see_one_generation_or_the_other(
    store: Store, make_spec, fill, make_records, grid, unit_vectors
):
    fill(store, make_spec(generation="g1"), grid(50), unit_vectors(50))
    spec = make_spec(generation="g2")
    store.create_generation(spec)
    store.write("brig", "g2", make_records(spec, grid(60), unit_vectors(60)))
    seen: set[tuple[str, ...]] = set()
    failures: list[BaseException] = []
    stop = threading.Event()

    def search() -> None:
        try:
            while not stop.is_set():
                result = store.search(ask(unit_vectors(2), limit=100))
                for hits in result.hits:
                    names = {hit.generation for hit in hits}
                    seen.add((*names, str(len(hits))))
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    store.promote("brig", "g2", coverage=ANYWHERE)
    store.drop_generation("brig", "g1")
    after = store.search(ask(unit_vectors(1), limit=100))
    stop.set()
    for thread in threads:
        thread.join()

    assert not failures
    assert seen <= {("g1", "50"), ("g2", "60")}
    assert after.candidates == 60


def test_a_warm_store_follows_what_becomes_live(
    store: Store, make_spec, make_records, place_records, grid, unit_vectors
):
    """Whether patches are in memory changes nothing that is found, before and after each change."""

    def promote(name: str, count: int) -> set[str]:
        spec = make_spec(generation=name, zoom=24)
        records = place_records(make_records(spec, grid(count), unit_vectors(count)), spec.zoom)
        store.create_generation(spec)
        store.write("brig", name, records)
        store.promote("brig", name, coverage=ANYWHERE)
        return {record.quadkey for record in records}

    def found() -> set[str]:
        prior = CirclePrior(centre=grid(1)[0], radius_m=10_000.0)
        result = store.search(ask(unit_vectors(1), limit=100, prior=prior))
        return {hit.quadkey for hit in result.hits[0]}

    def found_cold_and_warm() -> set[str]:
        cold = found()
        store.warm_up()
        assert found() == cold
        return cold

    first = promote("g1", 30)
    assert found_cold_and_warm() == first
    second = promote("g2", 50)
    assert found_cold_and_warm() == second
    store.rollback("brig")
    assert found_cold_and_warm() == first
    store.drop_region("brig")
    store.warm_up()
