"""A plan that is built again: sheets that could not be read, `--fresh`, and sheets of an earlier version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from spatial_index.store import Store, open_store
from tiling.errors import UnreadableSheet
from tiling.ortho import Ortho, open_ortho
from workers.embedding import EmbedSettings, embed_here
from workers.ingest import ingest as ingest_with
from workers.ingest_plan import KeyedBlock, plan_ingest
from workers.ingest_report import IngestReport
from workers.jobs import Jobs
from workers.runs import last_run, note_holes

Ingest = Callable[..., IngestReport]


class Outage:
    """Embeds here; while it is `on`, a sheet cannot be read."""

    def __init__(self, sheet: Path, damage: Callable[[Path], None]) -> None:
        self.on = True
        self._sheet, self._damage = sheet, damage

    def __call__(self, blocks: Iterable[KeyedBlock], settings: EmbedSettings) -> Iterator[pa.Table]:
        healthy = self._sheet.read_bytes()
        if self.on:
            self._damage(self._sheet)
        try:
            yield from embed_here(blocks, settings)
        finally:
            self._sheet.write_bytes(healthy)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(directory=tmp_path / "store", create=True) as opened:
        yield opened


@pytest.fixture
def ingest(jobs: Jobs, store: Store, load_thumbnail: Any) -> Ingest:
    return partial(ingest_with, "town", store=store, jobs=jobs, embed=embed_here, load=load_thumbnail)


@pytest.fixture
def sheets(write_sheet: Any) -> list[Path]:
    return [write_sheet("good.tif"), write_sheet("far.tif", seed=1, column=1)]


@pytest.fixture
def outage(sheets: list[Path], damage: Any) -> Outage:
    return Outage(sheets[1], damage)


def lacking(report: IngestReport) -> int:
    return sum(count for reason, count in report.skipped.items() if reason.startswith("unreadable sheet"))


def test_after_an_outage_the_lost_blocks_are_built_under_another_name(
    ingest: Ingest, sheets: list[Path], outage: Outage, store: Store
) -> None:
    holed = ingest(open_ortho(sheets), embed=outage, on_error="skip")
    assert holed.promoted
    assert lacking(holed) > 20
    outage.on = False
    whole = ingest(open_ortho(sheets), embed=outage, on_error="skip")
    assert (whole.promoted, lacking(whole)) == (True, 0)
    assert whole.generation == store.region("town").generation == f"{holed.generation}-2"
    assert whole.job_id == holed.job_id
    again = ingest(open_ortho(sheets), embed=outage, on_error="skip")
    assert (again.already_live, again.generation) == (True, whole.generation)


def test_while_it_lasts_the_same_command_changes_nothing(
    ingest: Ingest, sheets: list[Path], outage: Outage, store: Store
) -> None:
    first = ingest(open_ortho(sheets), embed=outage, on_error="skip")
    again = ingest(open_ortho(sheets), embed=outage, on_error="skip")
    assert (again.already_live, again.generation) == (True, first.generation)
    assert (again.indexed, again.skipped) == (first.indexed, first.skipped)
    assert [info.spec.generation for info in store.generations("town")] == [first.generation]


def test_what_is_lacking_is_remembered_when_a_run_between_fails(
    ingest: Ingest, sheets: list[Path], outage: Outage, store: Store
) -> None:
    holed = ingest(open_ortho(sheets), embed=outage, on_error="skip")
    with pytest.raises(UnreadableSheet):
        ingest(open_ortho(sheets), embed=outage, on_error="fail")
    assert store.region("town").generation == holed.generation
    outage.on = False
    assert lacking(ingest(open_ortho(sheets), embed=outage)) == 0


def test_a_sheet_below_does_not_hide_the_loss_of_the_one_on_top(
    ingest: Ingest, write_sheet: Any, damage: Any
) -> None:
    paths = [write_sheet("new.tif", seed=1), write_sheet("old.tif", seed=2)]
    outage, ortho = Outage(paths[0], damage), open_ortho(paths)
    run = partial(ingest, ortho, area=ortho.footprint.buffer(-5e-4), embed=outage, on_error="skip")
    assert lacking(run()) == 0
    outage.on = False
    assert run().promoted


def test_fresh_builds_what_is_live_anew(ingest: Ingest, ortho: Ortho, store: Store) -> None:
    first = ingest(ortho)
    fresh = ingest(ortho, resume=False)
    assert (fresh.promoted, fresh.embedded, fresh.indexed) == (True, fresh.planned, first.indexed)
    assert fresh.generation != first.generation
    assert ingest(ortho).already_live
    assert store.region("town").generation == fresh.generation


def never(blocks: Iterable[KeyedBlock], settings: EmbedSettings) -> Iterator[pa.Table]:
    raise AssertionError("nothing was to be embedded")


def test_sheets_of_an_earlier_version_make_its_generation_live_again(
    ingest: Ingest, write_sheet: Any, store: Store
) -> None:
    versions = [open_ortho([write_sheet(f"v{seed}.tif", seed=seed)]) for seed in (1, 2)]
    first, second = map(ingest, versions)
    again = ingest(versions[0], embed=never)
    assert (again.promoted, again.already_live) == (True, False)
    assert (again.generation, again.indexed) == (first.generation, first.indexed)
    assert store.region("town").generation == first.generation
    assert store.rollback("town").generation == second.generation


class Shrunken:
    """A store that has lost a patch of what is not live."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked = 0

    def count(self, region: str, generation: str) -> int:
        self._asked += 1
        return self._store.count(region, generation) - (self._asked == 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_damaged_earlier_version_is_built_again(ingest: Ingest, write_sheet: Any, store: Store) -> None:
    versions = [open_ortho([write_sheet(f"v{seed}.tif", seed=seed)]) for seed in (1, 2)]
    first, _ = map(ingest, versions)
    again = ingest(versions[0], store=Shrunken(store))
    assert (again.promoted, again.generation, again.embedded) == (True, first.generation, first.planned)


def test_holes_are_forgotten_when_a_name_is_built_again(
    ingest: Ingest, ortho: Ortho, store: Store, jobs: Jobs, load_thumbnail: Any
) -> None:
    ingest(ortho)
    plan = plan_ingest("town", ortho, load_thumbnail(None))
    for holes in ({"lost": 3, "skipped": {}}, {}):
        note_holes(jobs, plan, holes)
        run = last_run(store, jobs, plan)
        assert run is not None
        assert (run.number, run.live, run.holes) == (1, True, holes)
