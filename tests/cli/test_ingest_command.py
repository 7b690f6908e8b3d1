"""`clnet ingest` and `clnet jobs`: what a program reads, what a person sees."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from shapely.geometry import box, mapping
from typer.testing import CliRunner

from cli.ingest_display import Terminal
from cli.main import build_app
from spatial_index.store import open_store
from tiling.ortho import open_ortho
from workers.ingest_report import IngestProgress, IngestReport

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def folder(town: Path) -> Path:
    return town


@pytest.fixture
def run(folder: Path) -> Run:
    """run(arguments of clnet) -> the JSON lines that it prints."""

    def call(*arguments: object) -> list[dict[str, Any]]:
        result = CliRunner().invoke(build_app(), [str(argument) for argument in arguments])
        if result.exception:
            raise result.exception
        return [json.loads(line) for line in result.stdout.splitlines()]

    return call


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    sheets, found = run(
        "ingest", "town", folder / "sheet.tif", "--store", tmp_path / "store",
        "--checkpoint", folder / "tiny", "--zoom", 20, "--dry-run",
    )  # fmt: skip
    assert (sheets["event"], sheets["sheets"]) == ("sheets", 1)
    assert found["event"] == "estimate"
    assert found["planned"] == found["expected"] == pytest.approx(200**2 / 26.4**2, rel=0.15)
    assert found["area_km2"] == pytest.approx(0.04, rel=0.01)
    assert found["wall_s"] > 0
    assert found["disk_mb"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ray_session")
def test_a_program_reads_events_and_the_job_stays_on_record(run: Run, folder: Path, tmp_path: Path) -> None:
    area = tmp_path / "area.geojson"
    west, south, east, north = open_ortho([folder / "sheet.tif"]).footprint.bounds
    area.write_text(json.dumps(mapping(box(west, south, (west + east) / 2, north))))
    command = (
        "ingest", "town", folder / "sheet.tif", "--store", tmp_path / "store",
        "--checkpoint", folder / "tiny", "--zoom", 20, "--area", area,
    )  # fmt: skip
    events = run(*command)
    assert [event["event"] for event in events[:2]] == ["sheets", "progress"]
    done = events[-1]
    assert (done["event"], done["promoted"], done["region"]) == ("done", True, "town")
    assert done["planned"] == done["indexed"] + sum(done["skipped"].values())
    assert done["indexed"] == pytest.approx(200**2 / 2 / 26.4**2, rel=0.2)
    assert events[-2]["indexed"] == done["indexed"]
    with open_store(directory=tmp_path / "store") as store:
        assert store.region("town").patches == done["indexed"]
    (job,) = run("jobs", "--store", tmp_path / "store", "--json")
    assert (job["id"], job["state"], job["kind"]) == (done["job_id"], "SUCCEEDED", "ingest")
    assert run("jobs", done["job_id"], "--store", tmp_path / "store", "--cancel", "--json") == [job]
    assert run(*command)[-1]["already_live"]


def test_a_person_sees_a_bar_and_a_table() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    report = IngestReport(
        job_id="ingest-town-1", region="town", generation="1", model_digest="m", planned=1200, indexed=1000,
        skipped={"no imagery": 200}, embedded=300, promoted=True, already_live=False, area_km2=1.25,
        wall_s=6.0,
    )  # fmt: skip
    with Progress(console=console) as bar:
        display = Terminal(console, bar)
        display.progressed(IngestProgress(job_id="x", planned=1200, indexed=500, skipped=100))
        assert bar.tasks[0].percentage == 50
        display.done(report)
    shown = out.getvalue()
    for text in ("town: live", "1,200", "skipped: no imagery", "200", "300", "1.25 km²", "200 patches/s"):
        assert text in shown
