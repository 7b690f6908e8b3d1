"""Graphs, int8 and float16 on real engines: whatever is planned finds what the exact scan finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mercantile import LngLat
from shapely.geometry import box

from spatial_index.embedded import EmbeddedStore
from spatial_index.errors import BadRecord
from spatial_index.planner import EXACT, Method
from spatial_index.priors import PolygonPrior
from spatial_index.profile import Planning, box_around, measure, noisy, recall, scan_methods
from spatial_index.selection import Candidates
from spatial_index.shard import Shard
from spatial_index.store import SearchRequest
from tests.spatial_index.conftest import NEEDS_QDRANT

COUNT, DIM = 3_000, 32
ALWAYS = Planning(exact_enough_ms=0.0, small=0)
SHARES = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0)


@pytest.fixture(scope="module")
def town():
    """Places, and vectors in clusters that have to do with the places."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(0.0, 0.1, (COUNT, 2))
    streets = rng.normal(size=(60, DIM))
    vectors = streets[(xy[:, 0] * 600).astype(int) % 60] + 0.7 * rng.normal(size=(COUNT, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return [LngLat(7.9 + x, 46.2 + y) for x, y in xy], vectors


@pytest.fixture(params=["embedded", pytest.param("server", marks=NEEDS_QDRANT)])
def planned_store(request, tmp_path: Path):
    """An empty store that plans for every collection, however small."""
    if request.param == "embedded":
        with EmbeddedStore(tmp_path / "store", create=True, planning=ALWAYS) as opened:
            yield opened
        return
    from spatial_index.server import ServerStore  # noqa: PLC0415

    with ServerStore(url=request.getfixturevalue("qdrant_url"), planning=ALWAYS) as opened:
        opened.drop_region("brig")
        yield opened


def queries_near(vectors, count=12, seed=1):
    rng = np.random.default_rng(seed)
    return np.stack(
        [noisy(vectors[rng.integers(COUNT)], cosine, rng) for cosine in (0.25, 0.7) * (count // 2)]
    )


def recall_against_numpy(store, places, vectors, share):
    """recall@10 of the store inside a box with a share of the places, against numpy."""
    side = 0.1 * np.sqrt(share)
    inside = np.array([7.9 <= p.lng <= 7.9 + side and 46.2 <= p.lat <= 46.2 + side for p in places])
    if not inside.any():
        return 1.0
    prior = PolygonPrior(polygon=box(7.9, 46.2, 7.9 + side, 46.2 + side))
    queries = queries_near(vectors)
    found = store.search(SearchRequest(vectors=queries, limit=10, prior=prior, model_digest="m1"))
    assert found.candidates == inside.sum()
    scores = np.sort(queries @ vectors[inside].T, axis=1)[:, ::-1][:, :10]  # (Q, ≤ 10)
    hits = [
        sum(hit.score >= best[-1] - 1e-3 for hit in row) / len(best)
        for row, best in zip(found.hits, scores, strict=True)
    ]
    return float(np.mean(hits))


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_recall_holds_at_every_share(planned_store, make_spec, fill, town, storage):
    places, vectors = town
    fill(planned_store, make_spec(dim=DIM, storage=storage), places, vectors)
    for share in SHARES:
        assert recall_against_numpy(planned_store, places, vectors, share) >= 0.99, share


def test_a_generation_remembers_what_was_measured(make_spec, fill, town, tmp_path: Path):
    with EmbeddedStore(tmp_path / "store", create=True, planning=ALWAYS) as store:
        fill(store, make_spec(dim=DIM), *town)
        reason = store.search(ask(town[1][:1])).plan_reason
    assert "acorn" in reason or "graph" in reason  # weighed, if not taken
    with EmbeddedStore(tmp_path / "store") as store:
        again = store.search(ask(town[1][:1]))
    assert again.plan_reason == reason
    assert again.hits[0][0].score == pytest.approx(1.0, abs=1e-5)


def test_an_exact_search_is_exact_whatever_was_measured(make_spec, fill, town, tmp_path: Path):
    with EmbeddedStore(tmp_path / "store", create=True, planning=ALWAYS) as store:
        fill(store, make_spec(dim=DIM, storage="int8"), *town)
        assert store.search(ask(town[1][:1], exact=True)).plan == "exact"


def test_a_small_collection_is_not_measured(make_spec, fill, grid, unit_vectors, tmp_path: Path):
    with EmbeddedStore(tmp_path / "store", create=True) as store:
        fill(store, make_spec(), grid(30), unit_vectors(30))
        assert store.search(ask(unit_vectors(1))).plan_reason == "brig: exact: 30 candidates of 30 patches"


def test_the_graph_is_built_and_answers(make_spec, make_records, town, tmp_path: Path):
    """The engine's graph itself, not the planner: its hits are right, and not by comparing everything."""
    shard = built(make_spec(dim=DIM), make_records, town, tmp_path)
    queries = queries_near(town[1], count=40)
    exact = shard.nearest(queries, 10, Candidates(), EXACT)
    short = shard.nearest(queries, 10, Candidates(), Method(name="graph", ef=10))
    long = shard.nearest(queries, 10, Candidates(), Method(name="graph", ef=1024))
    assert np.mean([recall(a, b) for a, b in zip(long, exact, strict=True)]) > 0.99
    assert np.mean([recall(a, b) for a, b in zip(short, exact, strict=True)]) < 0.995


def test_a_filtered_graph_loses_hits_and_the_profile_says_so(make_spec, make_records, town, tmp_path: Path):
    shard = built(make_spec(dim=DIM), make_records, town, tmp_path)
    profile = measure(shard, (EXACT, Method(name="graph", ef=64)))
    worst = min(trial.recall_at_10 for trial in profile.trials if trial.method.name == "graph")
    assert worst < 0.9
    assert all(trial.recall_at_10 == 1.0 for trial in profile.trials if trial.method == EXACT)


def test_int8_alone_loses_hits_and_rescoring_finds_them(make_spec, fill, town, tmp_path: Path):
    with EmbeddedStore(tmp_path / "store", create=True, planning=ALWAYS) as store:
        fill(store, make_spec(dim=DIM, storage="int8"), *town)
    shard = Shard.load(tmp_path / "store/regions/brig/g1/shard")
    try:
        queries = queries_near(town[1], count=40)
        exact = shard.nearest(queries, 10, Candidates(), EXACT)
        rescored = shard.nearest(queries, 10, Candidates(), Method(name="graph", ef=1024, oversampling=4.0))
    finally:
        shard.close()
    assert np.mean([recall(a, b) for a, b in zip(rescored, exact, strict=True)]) >= 0.99
    assert len(scan_methods("int8")) > len(scan_methods("float32")) == 1


def test_noise_has_the_cosine_asked_for():
    rng = np.random.default_rng(0)
    vector = np.eye(64, dtype=np.float32)[0]
    assert noisy(vector, 0.25, rng) @ vector == pytest.approx(0.25, abs=1e-5)


def test_a_box_holds_its_share(town):
    places, _ = town
    candidates = box_around(places, 17, 0.1)
    west, south, east, north = candidates.condition.bounds
    inside = [west <= p.lng <= east and south <= p.lat <= north for p in places]
    assert np.mean(inside) == pytest.approx(0.1, abs=0.01)


def test_an_unknown_storage_is_refused(make_spec):
    with pytest.raises(BadRecord, match="storage"):
        make_spec(storage="int4")


def ask(vectors, *, exact=False):
    return SearchRequest(vectors=np.atleast_2d(vectors), limit=10, model_digest="m1", exact=exact)


def built(spec, make_records, town, tmp_path: Path) -> Shard:
    """A shard with a graph."""
    folder = tmp_path / "shard"
    folder.mkdir()
    shard = Shard.create(folder, spec.dim, spec.storage)
    shard.write(make_records(spec, *town), town[1])
    shard.flush()
    shard.close()
    shard = Shard.load_with_graph(folder, spec.dim, spec.storage)
    shard.optimize()
    return shard
