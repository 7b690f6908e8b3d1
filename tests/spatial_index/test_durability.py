"""Acknowledged means kept: a store is killed at seeded moments and must hold what it acknowledged, no more.

The embedded store lives in the process that is killed; of the server store, the server is killed.
"""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from spatial_index.records import PatchHit
from spatial_index.store import SearchRequest, Store

WORKER = Path(__file__).with_name("store_worker.py")
STEPS = ("create", "write", "write", "promote", "promote", "rollback", "reopen", "drop")
KILLS = 2
"""On the same store, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is known of a generation."""

    patches: int = 0
    complete: bool = False
    previous: str | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """What is known of the region."""

    generations: dict[str, Generation] = field(default_factory=dict)
    live: str | None = None

    def after(self, step: list[str]) -> State:
        """The state once a step has been done."""
        match step:
            case ["create", name]:
                return self._with(name, Generation())
            case ["write", name, _, end]:
                former = self.generations[name]
                return self._with(name, replace(former, patches=max(former.patches, int(end))))
            case ["promote", name]:
                promoted = replace(self.generations[name], complete=True, previous=self.live)
                return replace(self._with(name, promoted), live=name)
            case ["rollback"]:
                assert self.live is not None
                return replace(self, live=self.generations[self.live].previous)
            case ["drop", name]:
                left = {key: value for key, value in self.generations.items() if key != name}
                return replace(self, generations=left)
            case ["reopen"]:
                return self
            case _:
                raise ValueError(f"unknown step {step}")

    def _with(self, name: str, generation: Generation) -> State:
        return replace(self, generations=self.generations | {name: generation})


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    """The worker's own account of what its patches hold."""
    spec = importlib.util.spec_from_file_location("store_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start_worker() -> Iterator[Callable[[str, int], subprocess.Popen[str]]]:
    """Starts workers; whatever happens, none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(place: str, seed: int, *options: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, str(WORKER), place, str(seed), *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def work_until_killed(
    process: subprocess.Popen[str],
    dice: random.Random,
    kill: Callable[[], None],
    *,
    steps: Sequence[str] = STEPS,
    delays_s: Sequence[float] = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1),
) -> list[str]:
    """Kill at the n-th beginning of a kind of step, or a moment later; everything that the worker said."""
    kind, nth = dice.choice(steps), dice.randint(1, 2)
    delay_s = dice.choice(delays_s)
    said: list[str] = []
    while nth:
        line = process.stdout.readline()
        assert line, f"the worker died by itself after {said[-3:]}"
        said.append(line.strip())
        nth -= said[-1].startswith(f"begin {kind}")
    time.sleep(delay_s)
    kill()
    process.kill()
    said += process.stdout.read().split("\n")
    process.wait()
    return [line.strip() for line in said if line.strip()]


def replay(before: State, said: list[str]) -> tuple[State, State]:
    """What was acknowledged, and the same with the step that was under way."""
    acked = under_way = before
    for line in said:
        if line == "done":
            acked = under_way
        elif line.startswith("begin "):  # a last line may be cut short by the kill
            under_way = acked.after(line.split()[1:])
    return acked, under_way


def check(store: Store, acked: State, under_way: State, worker: ModuleType) -> State:
    """The store holds what was acknowledged, and at most the step under way besides; returns its state."""
    infos = {info.spec.generation: info for info in store.generations("brig")}
    names = (
        acked.generations.keys() & under_way.generations.keys(),
        acked.generations.keys() | under_way.generations.keys(),
    )
    assert names[0] <= infos.keys() <= names[1]
    found = {}
    for name, info in infos.items():
        low = acked.generations.get(name, Generation())
        high = under_way.generations.get(name, low)
        patches = check_patches(store, name, low.patches, high.patches, worker)
        assert info.patches == patches == store.count("brig", name)
        assert low.complete <= info.complete <= high.complete
        found[name] = replace(high if info.complete else low, patches=patches, complete=info.complete)
    live = next((name for name, info in infos.items() if info.live), None)
    assert live in {acked.live, under_way.live}
    check_answer(store, live, found)
    return State(generations=found, live=live)


def check_patches(store: Store, generation: str, low: int, high: int, worker: ModuleType) -> int:
    """Every patch below `low` is there, none from `high` on, each once, with its vector; their number."""
    by_axis = store.probe("brig", generation, np.eye(worker.DIM, dtype=np.float32), 10_000)
    hits = {hit.quadkey: hit for hit in by_axis[0]}
    assert len(hits) == len(by_axis[0]) == len({hit.id for hit in by_axis[0]})
    wanted, vectors = {}, worker.vectors_of(generation)
    for index in range(high):
        wanted[worker.record_of(generation, index, vectors[index]).quadkey] = index
    held = sorted(wanted[quadkey] for quadkey in hits)  # a KeyError: a patch that was never written
    assert held[:low] == list(range(low))
    for quadkey, hit in hits.items():
        assert says(hit) == says(worker.record_of(generation, wanted[quadkey], vectors[0]))
    for axis, axis_hits in enumerate(by_axis):  # along the axes, scores are the vectors' components
        scores = {hit.quadkey: hit.score for hit in axis_hits}
        expected = [vectors[wanted[quadkey], axis] for quadkey in scores]
        np.testing.assert_allclose(list(scores.values()), expected, atol=1e-5)
    return len(hits)


def says(patch: PatchHit | Any) -> tuple[object, ...]:
    """A patch's payload."""
    place = (round(patch.location.lng, 9), round(patch.location.lat, 9))
    return (*place, patch.quadkey, patch.region, patch.generation, patch.side_m, patch.source)


def check_answer(store: Store, live: str | None, found: dict[str, Generation]) -> None:
    """The region answers from one complete generation, and from all of it."""
    result = store.search(
        SearchRequest(vectors=np.eye(8, dtype=np.float32)[:1], limit=10_000, model_digest="m1")
    )
    if live is None:
        assert (store.regions(), result.candidates) == ([], 0)
        return
    assert found[live].complete
    assert store.region("brig").patches == result.candidates == found[live].patches
    assert {hit.generation for hit in result.hits[0]} == {live}


SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 60))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_embedded_store_keeps_what_it_acknowledged(start_worker, worker, tmp_path, seed):
    dice, state, place = random.Random(seed), State(), str(tmp_path / "store")
    for _ in range(KILLS):
        process = start_worker(place, dice.randrange(10**6))
        acked, under_way = replay(state, work_until_killed(process, dice, process.kill))
        with worker.open_place(place) as store:
            state = check(store, acked, under_way, worker)


GRAPH_SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 50))]


@pytest.mark.parametrize("seed", GRAPH_SEEDS)
def test_a_store_killed_while_it_builds_a_graph_keeps_what_it_acknowledged(
    start_worker, worker, tmp_path, seed
):
    """A promotion takes seconds here: reloading, linking, measuring, sealing."""
    dice, state, place = random.Random(seed), State(), str(tmp_path / "store")
    for _ in range(KILLS):
        process = start_worker(place, dice.randrange(10**6), "graph")
        said = work_until_killed(
            process, dice, process.kill, steps=("promote",), delays_s=(0.01, 0.05, 0.1, 0.3, 0.6, 1.0, 2.0)
        )
        acked, under_way = replay(state, said)
        with worker.open_place(place) as store:
            state = check(store, acked, under_way, worker)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_killed_server_keeps_what_it_acknowledged(make_qdrant, start_worker, worker, seed):
    dice, state, server = random.Random(seed), State(), make_qdrant()
    server.start()
    for _ in range(KILLS):
        process = start_worker(server.url, dice.randrange(10**6))
        acked, under_way = replay(state, work_until_killed(process, dice, server.kill))
        server.start()
        with worker.open_place(server.url) as store:
            state = check(store, acked, under_way, worker)
    server.stop()
