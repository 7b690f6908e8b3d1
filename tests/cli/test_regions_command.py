"""`clnet regions`, `clnet rollback`, `clnet drop`: what an operator sees and does."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from mercantile import LngLat
from shapely.geometry import box
from typer.testing import CliRunner, Result

from cli.main import build_app
from spatial_index.errors import (
    DamagedStore,
    GenerationLive,
    NothingToRollBack,
    UnknownGeneration,
    UnknownRegion,
)
from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import open_store

AREA = box(7.98, 46.31, 7.99, 46.32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with the region brig: one former, one live, one unfinished generation."""
    with open_store(directory=tmp_path / "store", create=True) as store:
        for number, name in enumerate(["old", "new", "part"], start=1):
            spec = GenerationSpec(
                region="brig", generation=name, model_digest="m1", dim=4, zoom=10, side_m=70.0
            )
            store.create_generation(spec)
            store.write("brig", name, [record(name, index) for index in range(number)])
            if name != "part":
                store.promote("brig", name, coverage=AREA)
    return tmp_path / "store"


def record(generation: str, index: int) -> PatchRecord:
    return PatchRecord(
        location=LngLat(7.98 + index * 1e-4, 46.31),
        quadkey=np.base_repr(index, 4).zfill(10),
        region="brig",
        generation=generation,
        side_m=70.0,
        captured_at=datetime(2024, 5, 1 + index, tzinfo=UTC),
        source="sheet.tif",
        valid_fraction=1.0,
        vector=np.eye(4, dtype=np.float32)[index],
    )


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `clnet ARGUMENTS` on the store."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(build_app(), [*arguments, "--store", str(folder)], input=answer)

    return run


def names(folder: Path) -> dict[str, bool]:
    with open_store(directory=folder) as store:
        return {info.spec.generation: info.live for info in store.generations("brig")}


def cells(result: Result, row: str) -> list[str]:
    """The cells of the table row that holds a word."""
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.output.splitlines() if line.split()[:1] == [row]]
    return re.split(r" {2,}", line.strip())


def test_the_live_regions_with_their_area_and_imagery(run):
    found = cells(run("regions"), "brig")
    assert found[:5] == ["brig", "2", "0.86", "z10 70 m", "new"]
    assert found[6:] == ["2024-05-01 – 2024-05-02", "m1"]


def test_the_generations_of_a_region(run):
    result = run("regions", "brig")
    assert cells(result, "new")[:5] == ["new", "live", "2", "0.86", "z10 70 m"]
    assert cells(result, "old")[1:3] == ["previous", "1"]
    assert cells(result, "old")[6:] == ["2024-05-01", "m1"]
    assert cells(result, "part")[1:4] == ["unfinished", "3", "z10 70 m"]  # no area, no dates yet


def test_nothing_is_cut_off_where_no_terminal_says_how_wide_it_is(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert "2024-05-01 – 2024-05-02" in run("regions", "brig").output


def test_the_generations_as_json_lines(run):
    lines = [json.loads(line) for line in run("regions", "brig", "--json").output.splitlines()]
    assert [(line["generation"], line["state"], line["patch_count"]) for line in lines] == [
        ("new", "live", 2),
        ("old", "previous", 1),
        ("part", "unfinished", 3),
    ]
    assert lines[0]["coverage"]["type"] == "Polygon"
    assert lines[0]["imagery_end_time"] == "2024-05-02T00:00:00+00:00"
    assert (lines[2]["area_km2"], lines[2]["imagery_start_time"]) == (None, None)


def test_generations_are_not_asked_of_a_service(run):
    assert "leave out the region's name" in str(run("regions", "brig", "--server", "localhost:1").exception)


def test_a_rollback_says_what_is_live_now(run, folder):
    result = run("rollback", "brig")
    assert (result.exit_code, result.output) == (0, "brig: generation old is live again, 1 patches\n")
    assert names(folder) == {"new": False, "old": True, "part": False}
    assert isinstance(run("rollback", "brig").exception, NothingToRollBack)


def test_dropping_asks_first(run, folder):
    refused = run("drop", "brig", "part", answer="n\n")
    assert refused.exit_code == 1
    assert "delete generation part of region brig (3 patches, unfinished)?" in refused.output
    assert "part" in names(folder)

    assert run("drop", "brig", "part", answer="y\n").exit_code == 0
    assert names(folder) == {"new": True, "old": False}


def test_dropping_a_whole_region_without_asking(run, folder):
    result = run("drop", "brig", "--yes")
    assert result.output == "deleted region brig with all its generations (3, 6 patches)\n"
    assert names(folder) == {}


def test_what_is_not_dropped(run):
    assert isinstance(run("drop", "brig", "new", "--yes").exception, GenerationLive)
    assert isinstance(run("drop", "brig", "none", "--yes").exception, UnknownGeneration)
    assert isinstance(run("drop", "oslo", "--yes").exception, UnknownRegion)
    assert isinstance(run("regions", "oslo").exception, UnknownRegion)


def test_a_generation_of_a_damaged_region_is_named_alone(run, folder):
    (folder / "regions/brig/live.json").write_text("{")
    assert "all its generations" not in run("drop", "brig", "old", answer="n\n").output


def test_a_damaged_region_can_be_dropped(run, folder):
    (folder / "regions/brig/live.json").write_text("{")
    assert isinstance(run("regions").exception, DamagedStore)
    assert "damaged at" in run("drop", "brig", "--yes").output
    assert "no regions yet" in run("regions").output
