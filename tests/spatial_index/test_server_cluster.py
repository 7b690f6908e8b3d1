"""A cluster of three servers with two copies of everything: one may die under load."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from shapely.geometry import box

from spatial_index.errors import ModelMismatch
from spatial_index.priors import CirclePrior
from spatial_index.store import SearchRequest, Store, open_store

pytestmark = pytest.mark.slow
ANYWHERE = box(7, 46, 9, 47)
BATCH = 50
BATCHES_AFTER_THE_KILL = 20


@pytest.fixture(scope="module")
def nodes(make_qdrant, free_port) -> Iterator[list]:
    """Three nodes that know each other."""
    first_port = free_port()
    started = []
    for number in range(3):
        port = first_port if number == 0 else free_port()
        bootstrap = f"http://127.0.0.1:{first_port}" if number else None
        started.append(make_qdrant(peer_port=port, bootstrap=bootstrap))
        started[-1].start()
    yield started
    for node in started:
        node.stop()


@pytest.fixture
def open_node(tmp_path):
    """The store as seen through one node."""
    return lambda node: open_store(directory=tmp_path, url=node.url, shards=3, replicas=2)


def ask(vectors: np.ndarray, **changes) -> SearchRequest:
    return replace(SearchRequest(vectors=vectors, limit=1000, model_digest="m1"), **changes)


def test_the_essentials_hold_on_a_cluster(nodes, open_node, make_spec, fill, grid, unit_vectors):
    places, vectors, queries = grid(300), unit_vectors(300), unit_vectors(4, seed=9)
    with open_node(nodes[0]) as store:
        store.drop_region("oslo")
        records = fill(store, make_spec("oslo", "g1"), places, vectors)
        fill(store, make_spec("oslo", "g2"), places[:200], vectors[:200])
        assert store.search(ask(queries)).candidates == 200
        assert store.rollback("oslo").generation == "g1"
    with open_node(nodes[2]) as store:
        result = store.search(ask(queries))
        for row, hits in enumerate(result.hits):
            expected = np.argsort(-(vectors @ queries[row]))
            assert [hit.quadkey for hit in hits] == [records[i].quadkey for i in expected]
        assert result.candidates == 300
        near = CirclePrior(centre=places[150], radius_m=120.0)
        assert 0 < store.search(ask(queries, prior=near)).candidates < 300
        with pytest.raises(ModelMismatch):
            store.search(ask(queries, model_digest="m2"))
        store.drop_region("oslo")
        assert store.generations("oslo") == []


@pytest.mark.parametrize(("through", "killed", "delay_s"), [(0, 1, 0.05), (0, 2, 0.01), (2, 0, 0.1)])
def test_a_node_dies_under_load_and_reads_and_writes_go_on(
    nodes, open_node, make_spec, fill, make_records, grid, unit_vectors, through, killed, delay_s
):
    """The first node leads the others; the one that is asked stays, as behind a load balancer."""
    spec, count = make_spec(generation="g2"), 100 * BATCH
    records = make_records(spec, grid(count), unit_vectors(count))
    with open_node(nodes[through]) as store:
        store.drop_region("brig")
        fill(store, make_spec(generation="g1"), grid(100), unit_vectors(100))
        store.create_generation(spec)

        with reading(store) as answers:
            written = 0
            while written < 5 * BATCH:
                written = write_batch(store, records, written)
            threading.Timer(delay_s, nodes[killed].kill).start()
            until = written + BATCHES_AFTER_THE_KILL * BATCH
            while nodes[killed].running or written < until:
                written = write_batch(store, records, written)
            before = len(answers)
            while len(answers) < before + 10:
                store.count("brig", "g2")
        assert set(answers) == {("g1", 100)}

        store.promote("brig", "g2", coverage=ANYWHERE)
        assert held(store) == {record.quadkey for record in records[:written]}

    nodes[killed].start()
    with open_node(nodes[killed]) as store:
        assert held(store) == {record.quadkey for record in records[:written]}
        assert store.rollback("brig").patches == 100


def write_batch(store: Store, records: list, written: int) -> int:
    """Write the next batch; how many are acknowledged then."""
    store.write("brig", "g2", records[written : written + BATCH])
    return written + BATCH


def held(store: Store) -> set[str]:
    """The quadkeys of the live generation."""
    [hits] = store.search(ask(np.eye(8, dtype=np.float32)[:1], limit=10_000, regions=("brig",))).hits
    assert len(hits) == len({hit.quadkey for hit in hits}) == store.region("brig").patches
    return {hit.quadkey for hit in hits}


class reading:
    """Two threads that search all the time; what they found. An error of theirs is raised at the end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._errors: list[Exception] = []
        self._answers: list[tuple[str, int]] = []
        self._threads = [threading.Thread(target=self._search) for _ in range(2)]

    def __enter__(self) -> list[tuple[str, int]]:
        for thread in self._threads:
            thread.start()
        return self._answers

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _search(self) -> None:
        try:
            while not self._stop.is_set():
                result = self._store.search(ask(np.eye(8, dtype=np.float32)[:1], regions=("brig",)))
                [hits] = result.hits
                [generation] = {hit.generation for hit in hits}
                assert result.candidates == len(hits)
                self._answers.append((generation, len(hits)))
        except Exception as error:
            self._errors.append(error)
