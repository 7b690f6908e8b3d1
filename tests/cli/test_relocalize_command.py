"""`clnet relocalize` as an operator runs it: table in, positions, summary and report out."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import mercantile
import numpy as np
import pyarrow.parquet as pq
import pytest
from mercantile import LngLat
from PIL import Image
from shapely.geometry import box
from typer.testing import CliRunner, Result

from cli.main import build_app
from clnet_model.encoder import load_encoder
from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import open_store

PLACE = LngLat(7.985, 46.315)
ZOOM = 21


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a region of 100 patches, three street images and a damaged one, and their table."""
    folder = tmp_path_factory.mktemp("fleet")
    rng = np.random.default_rng(0)
    fill_store(folder / "store", rng)
    lines = ["image,latitude,longitude,captured_at,sequence,heading_deg"]
    for number in range(4):
        path = folder / f"{number}.jpg"
        Image.fromarray(rng.integers(0, 256, (64, 128, 3), np.uint8)).save(path)
        lines.append(f"{path.name},{PLACE.lat},{PLACE.lng},2026-05-01T12:00:0{number}Z,car,90")
    (folder / "3.jpg").write_bytes(b"no image")
    (folder / "fleet.csv").write_text("\n".join(lines) + "\n")
    return folder


def fill_store(path: Path, rng: np.random.Generator) -> None:
    encoder = load_encoder(None)
    spec = GenerationSpec(
        region="brig", generation="g1", model_digest=encoder.digest, dim=encoder.dim, zoom=ZOOM, side_m=70.0
    )
    centre = mercantile.tile(*PLACE, ZOOM)
    records = []
    for row in range(100):
        tile = mercantile.Tile(centre.x + row % 10 - 5, centre.y + row // 10 - 5, ZOOM)
        west, south, east, north = mercantile.bounds(tile)
        vector = rng.normal(size=encoder.dim)
        records.append(
            PatchRecord(
                location=LngLat((west + east) / 2, (south + north) / 2), quadkey=mercantile.quadkey(tile),
                region="brig", generation="g1", side_m=70.0, captured_at=datetime(2024, 5, 1, tzinfo=UTC),
                source="sheet.tif", valid_fraction=1.0,
                vector=(vector / np.linalg.norm(vector)).astype(np.float32),
            )
        )  # fmt: skip
    with open_store(directory=path, create=True) as store:
        store.create_generation(spec)
        store.write("brig", "g1", records)
        store.promote("brig", "g1", coverage=box(7.98, 46.31, 7.99, 46.32))


def relocalize(home: Path, *options: str) -> Result:
    command = ["relocalize", str(home / "fleet.csv"), "--store", str(home / "store"), *options]
    return CliRunner().invoke(build_app(), command)


def test_a_dry_run_checks_the_table_and_touches_nothing(home: Path, tmp_path: Path) -> None:
    result = relocalize(home, "--out", str(tmp_path / "out.parquet"), "--dry-run")
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []
    assert not (home / "jobs").exists()


def test_a_folder_that_is_missing_is_said_before_anything_is_embedded(home: Path, tmp_path: Path) -> None:
    result = relocalize(home, "--out", str(tmp_path / "nowhere" / "out.parquet"))
    assert result.exit_code != 0
    assert not (home / "jobs").exists()


def test_a_table_comes_back_with_positions_a_summary_and_a_report(home: Path, tmp_path: Path) -> None:
    out, summary, report = (tmp_path / name for name in ("out.parquet", "summary.json", "report.html"))
    options = ("--out", str(out), "--summary", str(summary), "--report", str(report))
    result = relocalize(home, *options, "--jobs", str(tmp_path / "jobs"))
    assert result.exit_code == 0, result.output
    rows = pq.read_table(out).to_pylist()
    assert [row["image_id"] for row in rows] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert rows[3]["status"] == "UNREADABLE_IMAGE" and rows[3]["latitude"] is None and rows[3]["reason"]
    assert all(row["model_digest"] and row["status"] != "LOCALIZED" for row in rows[:3]), "they are noise"
    figures = json.loads(summary.read_text())
    assert figures["images"] == figures["embedded"] == 4
    assert figures["counts"]["UNREADABLE_IMAGE"] == 1
    again = relocalize(home, *options, "--jobs", str(tmp_path / "jobs"))
    assert again.exit_code == 0, again.output
    assert json.loads(summary.read_text())["embedded"] == 0
    assert pq.read_table(out).to_pylist() == rows
    check_in_browser(report)


def check_in_browser(report: Path) -> None:
    """The page stands alone, and its map's script runs; without chromium only the former."""
    page = report.read_text(encoding="utf-8")
    assert 'src="http' not in page and 'href="http' not in page
    if shutil.which("chromium") is None:
        return
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
               f"--user-data-dir={report.parent / 'profile'}", "--dump-dom", report.as_uri()]  # fmt: skip
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert "--k:" in dom, "the map's script ran"
