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
