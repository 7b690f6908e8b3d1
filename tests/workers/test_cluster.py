"""The same job on a Ray cluster of several nodes: a node that dies changes nothing in the result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spatial_index.store import open_store
from workers.cluster import ActorPlan, NodeSize, actors_on
from workers.jobs import Jobs, JobState

WORKER = Path(__file__).with_name("cluster_worker.py")
PAYLOAD = ("quadkey", "location", "region", "generation", "side_m", "captured_at", "source", "valid_fraction")


def run(sheet: Path, folder: Path, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ingest on a cluster of its own; what it says, and what the store holds by quadkey."""
    folder.mkdir()
    command = [sys.executable, str(WORKER), str(sheet), str(folder / "store"), str(folder / "jobs"), *options]
    quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1"}
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=quiet, start_new_session=True)
        try:
            out, _ = job.communicate(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)  # whatever of the cluster is left
    assert job.returncode == 0, (folder / "log").read_text()[-3000:]
    said = json.loads(out.splitlines()[-1])
    assert [record.state for record in Jobs(folder / "jobs").list()] == [JobState.SUCCEEDED]
    with open_store(directory=folder / "store") as store:
        pages = store.read("town", store.region("town").generation)
        found = {
            record.quadkey: (*(getattr(record, name) for name in PAYLOAD), record.vector.tobytes())
            for page in pages
            for record in page
        }
    return said, found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_killed_half_way_changes_nothing(write_sheet: Any, tmp_path: Path) -> None:
    sheet = write_sheet(empty_share=0.25)
    calm, expected = run(sheet, tmp_path / "calm")
    killed, found = run(sheet, tmp_path / "killed", "kill")
    assert calm["killed_at"] == []
    assert 0 < killed["killed_at"][0] < 0.9
    assert killed["planned"] == calm["planned"]
    assert len(found) == killed["indexed"] == calm["indexed"] > 1000
    assert found == expected


FOUR, TWO, HEAD = NodeSize(cores=4), NodeSize(cores=2), NodeSize(cores=0)
PAIR_OF_GPUS = NodeSize(cores=8, gpus=2)


@pytest.mark.parametrize(
    ("nodes", "free_cores", "free_gpus", "limit", "plan"),
    [
        ([FOUR], 4, 0, 9, ActorPlan(actors=4, cores=1, gpus=0)),
        ([FOUR], 4, 0, 1, ActorPlan(actors=1, cores=4, gpus=0)),
        ([FOUR, FOUR], 8, 0, 1, ActorPlan(actors=1, cores=4, gpus=0)),
        ([HEAD, TWO, FOUR], 6, 0, 1, ActorPlan(actors=1, cores=2, gpus=0)),
        ([NodeSize(cores=5)] * 2, 10, 0, 3, ActorPlan(actors=3, cores=2, gpus=0)),
        ([NodeSize(cores=64)], 64, 0, 99, ActorPlan(actors=8, cores=8, gpus=0)),
        ([NodeSize(cores=32), PAIR_OF_GPUS], 40, 2, 9, ActorPlan(actors=2, cores=4, gpus=1)),
        ([NodeSize(cores=32), PAIR_OF_GPUS], 40, 2, 1, ActorPlan(actors=1, cores=8, gpus=1)),
    ],
)
def test_every_actor_fits_on_a_node(
    nodes: list[NodeSize], free_cores: int, free_gpus: int, limit: int, plan: ActorPlan
) -> None:
    assert actors_on(nodes, free_cores=free_cores, free_gpus=free_gpus, limit=limit) == plan


LAST_BLOCK = """
import ray
from ray.cluster_utils import Cluster
from workers.cluster import plan_actors, ray_cluster

cluster = Cluster()
cluster.add_node(num_cpus=2, include_dashboard=False, object_store_memory=80 * 1024**2)
cluster.add_node(num_cpus=2, object_store_memory=80 * 1024**2)
cluster.wait_for_nodes()
with ray_cluster(cluster.address):
    plan = plan_actors(limit=1)
    print(ray.get(ray.remote(lambda: plan.cores).options(num_cpus=plan.cores).remote(), timeout=60))
cluster.shutdown()
"""


@pytest.mark.slow
def test_one_actor_on_two_machines_starts() -> None:
    said = subprocess.check_output([sys.executable, "-c", LAST_BLOCK], text=True, timeout=240)
    assert said.split()[-1] == "2"
