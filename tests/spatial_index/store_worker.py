"""Works on a store until it is killed, saying each step before it begins and once it is acknowledged.

    python store_worker.py PLACE SEED [graph]      PLACE: a folder, or the address of a Qdrant server

With `graph` every promotion builds a graph and measures it.

It prints `begin STEP …` and `done`. The test that kills it knows from that what must be there; what the
patches hold follows from their generation's name and number alone.
"""

from __future__ import annotations

import random
import sys
from itertools import count
from pathlib import Path

import numpy as np
from mercantile import LngLat
from shapely.geometry import box

from spatial_index.embedded import EmbeddedStore
from spatial_index.profile import Planning
from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import Store, open_store

REGION = "brig"
DIM = 8
MOST = 600
"""Patches in one generation."""


def open_place(place: str, *, graph: bool = False) -> Store:
    """The store in a folder, or on a server."""
    if graph:
        return EmbeddedStore(Path(place), create=True, planning=Planning(exact_enough_ms=0.0, small=0))
    url = place if place.startswith("http") else None
    return open_store(directory=Path(place), url=url, create=True)


def spec_of(generation: str) -> GenerationSpec:
    """Every generation has the same settings."""
    return GenerationSpec(
        region=REGION, generation=generation, model_digest="m1", dim=DIM, zoom=10, side_m=70.0
    )


def vectors_of(generation: str) -> np.ndarray:
    """(MOST, DIM) unit vectors, others in each generation."""
    rows = np.random.default_rng(int(generation[1:])).standard_normal((MOST, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def record_of(generation: str, index: int, vector: np.ndarray) -> PatchRecord:
    """Patch number `index` of a generation."""
    return PatchRecord(
        location=LngLat(8.0 + index * 1e-5, 46.5),
        quadkey=np.base_repr(index, 4).zfill(10),
        region=REGION,
        generation=generation,
        side_m=70.0,
        captured_at=None,
        source=f"{generation}-{index}.tif",
        valid_fraction=1.0,
        vector=vector,
    )


class Worker:
    """Builds one generation after the other, promotes, rolls back, drops, opens the store again."""

    def __init__(self, place: str, seed: int, *, graph: bool = False) -> None:
        self._place = place
        self._graph = graph
        self._random = random.Random(seed)
        self._store = open_place(place, graph=graph)

    def run(self) -> None:
        """Never ends by itself."""
        known = [int(info.spec.generation[1:]) for info in self._store.generations(REGION)]
        for turn in count(max(known, default=0) + 1):
            self._step("create", f"g{turn}")
            self._fill(f"g{turn}")
            self._step("promote", f"g{turn}")
            self._tidy()

    def _fill(self, generation: str) -> None:
        written = 0
        for _ in range(self._random.randint(1, 4)):
            first = self._random.choice([0, written])  # some patches are written again
            end = written + self._random.randint(1, 150)
            self._step("write", generation, first, end)
            written = end

    def _tidy(self) -> None:
        infos = self._store.generations(REGION)
        if any(info.previous for info in infos) and self._random.random() < 0.5:
            self._step("rollback")
        if self._random.random() < 0.4:
            self._step("reopen")
        infos = self._store.generations(REGION)
        for info in [info for info in infos if not info.live and not info.previous][2:]:
            self._step("drop", info.spec.generation)

    def _step(self, name: str, *values: str | int) -> None:
        print("begin", name, *values, flush=True)
        getattr(self, f"_{name}")(*values)
        print("done", flush=True)

    def _create(self, generation: str) -> None:
        self._store.create_generation(spec_of(generation))

    def _write(self, generation: str, first: int, end: int) -> None:
        vectors = vectors_of(generation)
        records = [record_of(generation, index, vectors[index]) for index in range(first, end)]
        self._store.write(REGION, generation, records)

    def _promote(self, generation: str) -> None:
        self._store.promote(REGION, generation, coverage=box(7, 46, 9, 47))

    def _rollback(self) -> None:
        self._store.rollback(REGION)

    def _drop(self, generation: str) -> None:
        self._store.drop_generation(REGION, generation)

    def _reopen(self) -> None:
        self._store.close()
        self._store = open_place(self._place, graph=self._graph)


if __name__ == "__main__":
    Worker(sys.argv[1], int(sys.argv[2]), graph="graph" in sys.argv[3:]).run()
