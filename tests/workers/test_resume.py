"""Stopped, crashed or repeated, a job ends in the same region, and no block is embedded twice."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spatial_index.errors import StoreFull
from spatial_index.records import PatchRecord, point_id
from spatial_index.store import Store, open_store
from tiling.grid import GridSpec
from tiling.ortho import Ortho, open_ortho
from workers.embedding import EmbedSettings, embed_here
from workers.errors import JobCancelled
from workers.ingest import ingest as ingest_with
from workers.ingest_plan import KeyedBlock, plan_ingest
from workers.ingest_report import IngestProgress, IngestReport
from workers.jobs import Jobs, JobState

WORKER = Path(__file__).with_name("ingest_worker.py")
GRID = GridSpec(zoom=22)  # 20 blocks

PAYLOAD = ("quadkey", "location", "region", "generation", "side_m", "captured_at", "source", "valid_fraction")

Contents = dict[uuid.UUID, tuple[object, ...]]
Ingest = Callable[..., IngestReport]


class CountedEmbedding:
    """Embeds here, and remembers the keys of what it was asked for."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, blocks: Iterable[KeyedBlock], settings: EmbedSettings) -> Iterator[pa.Table]:
        asked = list(blocks)
        self.keys.extend(keyed.key for keyed in asked)
        return embed_here(asked, settings)


@pytest.fixture
def embed() -> CountedEmbedding:
    return CountedEmbedding()


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs")


@pytest.fixture
def ingest(jobs: Jobs, embed: CountedEmbedding, load_thumbnail: Any) -> Ingest:
    return partial(ingest_with, "town", jobs=jobs, embed=embed, grid=GRID, load=load_thumbnail)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(directory=tmp_path / "store", create=True) as opened:
        yield opened


@pytest.fixture
def undisturbed(tmp_path: Path, load_thumbnail: Any) -> Callable[[Ortho], Contents]:
    """undisturbed(ortho) -> what a store holds after one run without trouble."""

    def build(ortho: Ortho) -> Contents:
        with open_store(directory=tmp_path / "undisturbed", create=True) as opened:
            ingest_with(
                "town",
                ortho,
                store=opened,
                jobs=Jobs(tmp_path / "undisturbed-jobs"),
                embed=embed_here,
                grid=GRID,
                load=load_thumbnail,
            )
            return contents(opened)

    return build


def contents(store: Store) -> Contents:
    """Every patch of the live generation by id: its payload and the bytes of its vector."""
    generation = store.region("town").generation
    return {
        point_id("town", generation, record.quadkey, record.side_m): (
            *(getattr(record, name) for name in PAYLOAD),
            record.vector.tobytes(),
        )
        for page in store.read("town", generation)
        for record in page
    }


def kept_keys(jobs: Jobs, job_id: str) -> set[str]:
    """Keys of the blocks that lie on the disk."""
    parts = (jobs.folder(job_id) / "vectors").glob("*.parquet")
    return {key for part in parts for key in pq.read_table(part, columns=["key"]).column("key").to_pylist()}


def test_killed_half_way_it_goes_on_where_it_stopped(
    ingest: Ingest,
    embed: CountedEmbedding,
    jobs: Jobs,
    ortho: Ortho,
    tmp_path: Path,
    load_thumbnail: Any,
    undisturbed: Callable[[Ortho], Contents],
) -> None:
    plan = plan_ingest("town", ortho, load_thumbnail(None), grid=GRID)
    all_keys = {keyed.key for keyed in plan.blocks()}
    kept = kill_half_way(ortho.sheets[0].path, tmp_path, jobs, plan.job_id)
    assert 3 <= len(kept) < len(all_keys)
    assert jobs.read(plan.job_id).state is JobState.FAILED
    with open_store(directory=tmp_path / "store") as store:
        report = ingest(ortho, store=store)
        assert set(embed.keys) == all_keys - kept
        assert len(embed.keys) == len(set(embed.keys))
        assert 0 < report.embedded < report.planned == report.indexed + sum(report.skipped.values())
        assert contents(store) == undisturbed(ortho)
    assert jobs.read(plan.job_id).state is JobState.SUCCEEDED


def kill_half_way(sheet: Path, folder: Path, jobs: Jobs, job_id: str) -> set[str]:
    """Kill a worker once it has kept three blocks; the keys of what it kept."""
    command = [sys.executable, str(WORKER), str(sheet), str(folder / "store"), str(folder / "jobs"), "0.3"]
    worker = subprocess.Popen(command)
    try:
        deadline_s = time.monotonic() + 60
        while len(list((jobs.folder(job_id) / "vectors").glob("*.parquet"))) < 3:
            assert worker.poll() is None, "the worker ended early"
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    finally:
        worker.kill()
        worker.wait()
    return kept_keys(jobs, job_id)


class FullStore:
    """A store whose disk is full after a few writes."""

    def __init__(self, store: Store, writes: int) -> None:
        self._store = store
        self._left = writes

    def write(self, region: str, generation: str, records: list[PatchRecord]) -> None:
        self._left -= 1
        if self._left < 0:
            raise StoreFull("store", "no byte free")
        self._store.write(region, generation, records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_failed_write_costs_no_embedding(
    ingest: Ingest,
    embed: CountedEmbedding,
    jobs: Jobs,
    ortho: Ortho,
    store: Store,
    load_thumbnail: Any,
    undisturbed: Callable[[Ortho], Contents],
) -> None:
    with pytest.raises(StoreFull):
        ingest(ortho, store=FullStore(store, writes=5))
    (record,) = jobs.list()
    assert record.state is JobState.FAILED
    assert record.error is not None
    assert record.error.reason == "StoreFull"
    kept = kept_keys(jobs, record.id)
    assert len(kept) == 6  # the write that failed, too
    first = embed.keys.copy()
    embed.keys.clear()
    ingest(ortho, store=store)
    assert set(embed.keys) == set(first) - kept
    assert contents(store) == undisturbed(ortho)


def test_cancelled_it_stops_between_blocks_and_goes_on_later(
    ingest: Ingest, embed: CountedEmbedding, jobs: Jobs, ortho: Ortho, store: Store
) -> None:
    def cancel(seen: IngestProgress) -> None:
        jobs.cancel(seen.job_id)

    with pytest.raises(JobCancelled, match="start it again"):
        ingest(ortho, store=store, progress=cancel)
    (record,) = jobs.list()
    assert record.state is JobState.CANCELLED
    assert 0 < record.progress.done < record.progress.total
    assert store.generations("town") == []
    before = len(embed.keys)
    assert ingest(ortho, store=store).promoted
    assert len(embed.keys) == 2 * before - 1
    assert jobs.read(record.id).state is JobState.SUCCEEDED


def test_fresh_starts_over(ingest: Ingest, embed: CountedEmbedding, ortho: Ortho, store: Store) -> None:
    with pytest.raises(StoreFull):
        ingest(ortho, store=FullStore(store, writes=5))
    report = ingest(ortho, store=store, resume=False)
    assert report.embedded == report.planned
    assert len(embed.keys) == 2 * len(set(embed.keys))


def test_a_damaged_file_of_vectors_costs_its_own_blocks_alone(
    ingest: Ingest, embed: CountedEmbedding, jobs: Jobs, ortho: Ortho, store: Store
) -> None:
    with pytest.raises(StoreFull):
        ingest(ortho, store=FullStore(store, writes=5))
    (record,) = jobs.list()
    part = sorted((jobs.folder(record.id) / "vectors").glob("*.parquet"))[2]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 255
    part.write_bytes(data)
    before = len(embed.keys)
    embed.keys.clear()
    assert ingest(ortho, store=store).promoted
    assert len(embed.keys) == before - 6 + 1


def test_the_record_says_what_became_of_the_job(
    ingest: Ingest, jobs: Jobs, ortho: Ortho, store: Store
) -> None:
    report = ingest(ortho, store=store)
    record = jobs.read(report.job_id)
    assert record.result is not None
    assert record.result["generation"] == report.generation
    assert record.progress.done == record.progress.total == report.planned
    assert [sheet["name"] for sheet in record.spec["sheets"]] == ["sheet.tif"]


def test_a_job_killed_after_its_promotion_is_found_done(
    ingest: Ingest, jobs: Jobs, ortho: Ortho, store: Store
) -> None:
    report = ingest(ortho, store=store)
    with pytest.raises(SystemExit), jobs.run(report.job_id):
        raise SystemExit
    assert ingest(ortho, store=store).already_live
    assert jobs.read(report.job_id).state is JobState.SUCCEEDED


def test_only_blocks_of_a_replaced_sheet_are_embedded_again(
    ingest: Ingest,
    embed: CountedEmbedding,
    write_sheet: Any,
    store: Store,
    load_thumbnail: Any,
    undisturbed: Callable[[Ortho], Contents],
) -> None:
    paths = [write_sheet(f"{column}.tif", seed=column, column=column) for column in range(2)]
    first = open_ortho(paths)
    ingest(first, store=store)
    embed.keys.clear()
    write_sheet("1.tif", seed=77, column=1)
    second = open_ortho(paths)
    report = ingest(second, store=store)
    plans = [plan_ingest("town", ortho, load_thumbnail(None), grid=GRID) for ortho in (first, second)]
    touched = {keyed.key for keyed in plans[1].blocks() if 1 in second.sheets_under(keyed.block)}
    assert set(embed.keys) == touched
    assert 0 < len(touched) < 0.75 * sum(1 for _ in plans[1].blocks())
    assert 0 < report.embedded < 0.75 * report.planned
    assert contents(store) == undisturbed(second)


def test_a_second_change_still_finds_the_vectors_of_the_first_job(
    ingest: Ingest, embed: CountedEmbedding, jobs: Jobs, write_sheet: Any, store: Store
) -> None:
    paths = [write_sheet(f"{column}.tif", seed=column, column=column) for column in range(2)]
    ingest(open_ortho(paths), store=store)
    write_sheet("1.tif", seed=77, column=1)
    ingest(open_ortho(paths), store=store)
    embed.keys.clear()
    write_sheet("1.tif", seed=78, column=1)
    report = ingest(open_ortho(paths), store=store)
    assert report.embedded < 0.75 * report.planned
    kept = [record.id for record in jobs.list() if kept_keys(jobs, record.id)]
    assert kept == [report.job_id]  # one copy of the vectors is enough


def test_a_sheet_that_could_not_be_read_is_tried_again(
    ingest: Ingest, write_sheet: Any, damage: Any, store: Store
) -> None:
    good, bad = write_sheet("good.tif"), write_sheet("bad.tif", seed=1, column=1)
    healthy = bad.read_bytes()
    damage(bad)
    ingest(open_ortho([good, bad]), store=store, on_error="skip")
    bad.write_bytes(healthy)
    report = ingest(open_ortho([good, bad]), store=store, on_error="skip")
    assert report.promoted
    assert not any("unreadable" in reason for reason in report.skipped)
