"""How fleets' operations stand when what they wrote is damaged, old, or not in the service's folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from cli.operations import OperationQueue
from serving.errors import Unfinished
from serving.operations import State
from workers.fleet_results import SCHEMA, ResultsWriter
from workers.jobs import Jobs
from workers.relocalize import KIND, FleetReport


@pytest.fixture
def jobs(tmp_path) -> Jobs:
    return Jobs(tmp_path / "jobs")


@pytest.fixture
def queue(jobs) -> OperationQueue:
    return OperationQueue(SimpleNamespace(jobs=jobs))


def localize(jobs: Jobs, name: str, *statuses: str, embed_s: float = 1.0, writes: bool = True) -> None:
    """A fleet's job that was ordered and has succeeded."""
    jobs.create(name, KIND, {})
    (jobs.folder(name) / "order.json").write_text("{}")
    with jobs.run(name) as job:
        if writes:
            with ResultsWriter(job.folder / "results.parquet") as writer:
                writer.write([dict.fromkeys(SCHEMA.names) | {"status": status} for status in statuses])
        report = FleetReport(
            job_id=name, images=len(statuses), embedded=0, counts={}, embed_s=embed_s, locate_s=1.0
        )
        job.succeed(asdict(report))


def test_results_that_are_elsewhere_are_one_operations_own_failure(jobs, queue):
    localize(jobs, "here", "LOCALIZED")
    localize(jobs, "elsewhere", "LOCALIZED", writes=False)
    assert {each.id: each.state for each in queue.list()} == {
        "here": State.SUCCEEDED,
        "elsewhere": State.FAILED,
    }
    assert "order it again" in (queue.get("elsewhere").error or "")
    with pytest.raises(Unfinished, match="order it again"):
        queue.images("elsewhere", 0, 1)
    assert queue.images("here", 0, 1).total == 1


def test_results_that_are_damaged_are_one_operations_own_failure(jobs, queue):
    localize(jobs, "one", "LOCALIZED")
    (jobs.folder("one") / "results.parquet").write_bytes(b"no table")
    assert queue.get("one").state is State.FAILED


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}"])
def test_a_damaged_summary_is_made_anew(jobs, queue, damage):
    localize(jobs, "one", "LOCALIZED", "AMBIGUOUS")
    expected = queue.get("one").result
    assert expected["counts"] == {"LOCALIZED": 1, "AMBIGUOUS": 1}
    (jobs.folder("one") / "summary.json").write_text(damage)
    assert queue.get("one").result == expected
    assert queue.list()[0].result == expected


def test_a_summary_is_of_the_last_run(jobs, queue):
    localize(jobs, "one", "AMBIGUOUS")
    assert queue.get("one").result["counts"] == {"AMBIGUOUS": 1}
    localize(jobs, "one", "LOCALIZED", embed_s=2.0)
    assert queue.get("one").result["counts"] == {"LOCALIZED": 1}


def test_those_who_ask_at_the_same_time_get_the_same(jobs, queue):
    localize(jobs, "one", "LOCALIZED")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: queue.get("one"), range(32)))
    assert found == [queue.get("one")] * 32
