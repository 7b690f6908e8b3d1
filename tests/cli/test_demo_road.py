"""The whole road through `clnet demo`, small: it ends with results, and nothing that it started stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clnet_model.checkpoint import save_checkpoint
from clnet_model.model import CLNet, CLNetConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network of the usual size."""
    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    save_checkpoint(folder, CLNet(CLNetConfig()), provenance={"seed": 0})
    return folder


def run_demo(out: Path, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "demo", "--out", str(out), "--checkpoint", str(checkpoint)]
    command += ["--size-m", "512", "--queries", "12"]
    environment = os.environ | {"CLNET_DEMO_TEST": str(out)}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=1200, env=environment)


def left_running(out: Path) -> list[str]:
    """Processes that inherited the demo's environment."""
    marker = f"CLNET_DEMO_TEST={out}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_ends_with_results_and_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    done = run_demo(tmp_path, checkpoint)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "results.json").read_text())
    queries = {
        key: figures[key]["queries"] for key in ("with_prior", "no_prior", "unknown_heading", "photo_90deg")
    }
    assert queries == {"with_prior": 12, "no_prior": 12, "unknown_heading": 12, "photo_90deg": 6}
    assert figures["patches"] > 100
    assert figures["city_km2"] == pytest.approx(0.262, abs=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "results.json"}
    assert left_running(tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    done = run_demo(tmp_path, tmp_path / "no-such-checkpoint")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []
