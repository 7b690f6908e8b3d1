"""Job state: what readers see, who may run, and what is left when the process is killed."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spatial_index.errors import SpatialIndexError
from workers.errors import BadJob, JobCancelled, JobConflict, JobError, JobInUse, UnknownJob
from workers.jobs import INTERRUPTED, Jobs, JobState

SPEC = {"region": "brig", "paths": ["a.tif"], "zoom": 22}
RUN_FOREVER = """
import sys, time
from pathlib import Path
from workers.jobs import Jobs
with Jobs(Path(sys.argv[1])).run("one") as job:
    job.report(3, 10, "patches")
    job.save()
    print("running", flush=True)
    while True:
        job.check_cancelled()
        time.sleep(0.02)
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    found = Jobs(tmp_path / "jobs")
    found.create("one", "ingest", SPEC)
    return found


@pytest.fixture
def start_runner(tmp_path: Path, jobs: Jobs) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Another process that runs job "one" until it is cancelled or killed; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN_FOREVER, str(tmp_path / "jobs")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "running\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_new_job_waits(jobs: Jobs) -> None:
    record = jobs.read("one")
    assert (record.state, record.kind, record.spec) == (JobState.PENDING, "ingest", SPEC)
    assert record.progress.total == 0
    assert record.error is record.result is None
    assert record.created_at == record.updated_at


def test_creating_it_again_gives_the_same_job(jobs: Jobs) -> None:
    assert jobs.create("one", "ingest", dict(SPEC)) == jobs.read("one")


@pytest.mark.parametrize("kind, spec", [("relocalize", SPEC), ("ingest", SPEC | {"zoom": 21})])
def test_an_id_means_one_job(jobs: Jobs, kind: str, spec: dict[str, object]) -> None:
    with pytest.raises(JobConflict, match="'one' exists"):
        jobs.create("one", kind, spec)


def test_a_run_ends_with_its_result(jobs: Jobs) -> None:
    with jobs.run("one") as job:
        assert jobs.read("one").state is JobState.RUNNING
        job.report(7, 9, "patches")
        job.succeed({"indexed": 7})
    record = jobs.read("one")
    assert (record.state, record.result) == (JobState.SUCCEEDED, {"indexed": 7})
    assert (record.progress.done, record.progress.total, record.progress.unit) == (7, 9, "patches")


def test_or_with_its_error(jobs: Jobs) -> None:
    with pytest.raises(ZeroDivisionError), jobs.run("one"):
        print(1 // 0)
    record = jobs.read("one")
    assert record.state is JobState.FAILED
    assert record.error is not None
    assert record.error.reason == "ZeroDivisionError"
    assert "zero" in record.error.message


def test_a_failed_job_runs_again_without_its_old_error(jobs: Jobs) -> None:
    with pytest.raises(KeyError), jobs.run("one"):
        raise KeyError
    with jobs.run("one"):
        assert jobs.read("one").error is None
    assert jobs.read("one").state is JobState.SUCCEEDED


def test_only_one_process_runs_a_job(jobs: Jobs, start_runner: Callable[[], subprocess.Popen[str]]) -> None:
    runner = start_runner()
    with pytest.raises(JobInUse, match=f"process {runner.pid}"), jobs.run("one"):
        pass
    assert jobs.read("one").state is JobState.RUNNING


def test_a_killed_runner_leaves_an_interrupted_job_that_runs_again(
    jobs: Jobs, start_runner: Callable[[], subprocess.Popen[str]]
) -> None:
    runner = start_runner()
    runner.kill()
    runner.wait()
    record = jobs.read("one")
    assert record.state is JobState.FAILED
    assert record.error is not None
    assert record.error.reason == INTERRUPTED
    assert record.progress.done == 3
    with jobs.run("one"):
        pass
    assert jobs.read("one").state is JobState.SUCCEEDED


def test_cancelling_stops_the_runner(jobs: Jobs, start_runner: Callable[[], subprocess.Popen[str]]) -> None:
    runner = start_runner()
    assert jobs.cancel("one").state in {JobState.RUNNING, JobState.CANCELLED}
    _, complaint = runner.communicate(timeout=20)
    assert "JobCancelled" in complaint
    assert jobs.read("one").state is JobState.CANCELLED


def test_a_wish_to_cancel_concerns_one_run(
    jobs: Jobs, start_runner: Callable[[], subprocess.Popen[str]]
) -> None:
    runner = start_runner()
    jobs.cancel("one")
    runner.communicate(timeout=20)
    with jobs.run("one") as job:
        job.check_cancelled()
    assert jobs.read("one").state is JobState.SUCCEEDED


def test_a_job_that_nobody_runs_is_cancelled_at_once(jobs: Jobs) -> None:
    assert jobs.cancel("one").state is JobState.CANCELLED


def test_a_job_that_is_done_stays_done(jobs: Jobs) -> None:
    with jobs.run("one"):
        pass
    assert jobs.cancel("one").state is JobState.SUCCEEDED


def test_ctrl_c_counts_as_cancelling(jobs: Jobs) -> None:
    with pytest.raises(KeyboardInterrupt), jobs.run("one"):
        raise KeyboardInterrupt
    assert jobs.read("one").state is JobState.CANCELLED


def test_readers_never_see_half_a_record_nor_disturb_the_runner(jobs: Jobs) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(jobs.read("one").progress.done)

    reader = threading.Thread(target=look)
    reader.start()
    for done in range(30):
        with jobs.run("one") as job:
            job.report(done, 30, "patches")
            job.save()
    stop.set()
    reader.join()
    assert len(seen) > 10
    assert jobs.read("one").state is JobState.SUCCEEDED


def test_progress_is_saved_now_and_then(jobs: Jobs) -> None:
    with jobs.run("one") as job:
        start_s = time.monotonic()
        for done in range(1000):
            job.report(done, 1000, "patches")
        assert time.monotonic() - start_s < 0.5
        assert jobs.read("one").progress.done < 999
    assert jobs.read("one").progress.done == 999


def test_the_newest_job_is_listed_first(jobs: Jobs, tmp_path: Path) -> None:
    jobs.create("two", "relocalize", {})
    assert [record.id for record in jobs.list()] == ["two", "one"]
    assert Jobs(tmp_path / "nowhere").list() == []


def test_an_unknown_job(jobs: Jobs) -> None:
    for ask in (jobs.read, jobs.cancel):
        with pytest.raises(UnknownJob, match="no job 'three'"):
            ask("three")
    with pytest.raises(UnknownJob), jobs.run("three"):
        pass


@pytest.mark.parametrize("job_id", ["", "../one", "One", "a/b", "x" * 129])
def test_an_id_that_is_no_folder_name(jobs: Jobs, job_id: str) -> None:
    with pytest.raises(BadJob, match="is no job id"):
        jobs.create(job_id, "ingest", {})


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": 3}'])
def test_a_spoilt_record_is_named(jobs: Jobs, content: str) -> None:
    (jobs.folder("one") / "job.json").write_text(content)
    with pytest.raises(BadJob, match=r"job 'one' has a record that cannot be read .*delete the folder"):
        jobs.read("one")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file in its place")
    with pytest.raises(SpatialIndexError, match="jobs"):
        Jobs(tmp_path / "jobs").create("one", "ingest", SPEC)


def test_errors_survive_pickling() -> None:
    errors = (
        BadJob("a", "b", "c"),
        UnknownJob("a", "b"),
        JobConflict("a"),
        JobInUse("a", 1),
        JobCancelled("a"),
    )
    for error in errors:
        again: JobError = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
