"""Ingests on a Ray cluster of several nodes on this machine, and kills one of them half-way.

Usage: cluster_worker.py SHEET STORE JOBS [kill]; prints what happened as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from spatial_index.store import open_store
from tiling.grid import GridSpec
from tiling.ortho import open_ortho
from workers.ingest import ingest
from workers.ingest_report import IngestProgress
from workers.jobs import Jobs
from workers.pipeline import embed_on_ray

WORKERS = 2
KILL_AT = 0.2  # of all patches
MEMORY_BYTES = 80 * 1024**2


def main(sheet: str, store: str, jobs: str, kill: str = "") -> None:
    """Head without cores for actors, two workers with one each."""
    cluster = Cluster()
    cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=MEMORY_BYTES)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES) for _ in range(WORKERS)]
    cluster.wait_for_nodes()
    killed_at: list[float] = []

    def progress(seen: IngestProgress) -> None:
        if kill and not killed_at and seen.share > KILL_AT:
            killed_at.append(seen.share)
            cluster.remove_node(nodes[-1], allow_graceful=False)

    try:
        with open_store(directory=Path(store), create=True) as opened:
            report = ingest(
                "town",
                open_ortho([Path(sheet)]),
                store=opened,
                jobs=Jobs(Path(jobs)),
                grid=GridSpec(zoom=22),
                embed=partial(embed_on_ray, address=cluster.address),
                load=slow_encoder,
                progress=progress,
            )
        print(json.dumps({"killed_at": killed_at, "indexed": report.indexed, "planned": report.planned}))
    finally:
        ray.shutdown()
        cluster.shutdown()


def slow_encoder(_: Path | None) -> Any:
    """The tests' encoder, slowed down so that there is a half-way."""
    fakes = load_fakes()

    class Slow(fakes.ThumbnailEncoder):  # type: ignore[misc, name-defined]
        def embed_aerial(self, patches: Any) -> Any:
            time.sleep(0.3)
            return super().embed_aerial(patches)

    return Slow()


def load_fakes() -> Any:
    spec = importlib.util.spec_from_file_location("fakes", Path(HERE) / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HERE = os.path.dirname(__file__)  # noqa: PTH120  travels to the workers

if __name__ == "__main__":
    cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    main(*sys.argv[1:])
