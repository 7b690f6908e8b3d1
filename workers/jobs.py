"""Long jobs that survive their process: a folder each, with a record that anybody may read at any time.

    JOBS/<id>/job.json   the record, replaced whole
              lock       held by the one process that runs the job
              cancel     names the run that shall stop; its process looks here between two pieces of work
              ...        what the job itself keeps there

Knows nothing of what a job does. The states are those of google.longrunning.Operation: not done (PENDING,
RUNNING), done with a result (SUCCEEDED) or done with an error (FAILED, CANCELLED).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self
from uuid import uuid4

from spatial_index.errors import SpatialIndexError
from spatial_index.files import disk_error, read_json, write_json
from workers.errors import BadJob, JobCancelled, JobConflict, JobInUse, UnknownJob

ID_RULE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,126}[a-z0-9])?")
SAVE_EVERY_S = 1.0  # progress in between stays in memory: each save waits for the disk
LOCK_WAIT_S = 0.3  # a reader that looks whether a job runs holds its lock for an instant
INTERRUPTED = "INTERRUPTED"


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def done(self) -> bool:
        """Nothing more will happen unless the job is run again."""
        return self not in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobProgress:
    """`done` of `total` units; `total` is 0 until it is known."""

    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFailure:
    """`reason` is for programs (the error's class, or INTERRUPTED), `message` for people."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """What is known of a job. `spec` and `result` are JSON objects that its kind gives a meaning to."""

    id: str
    kind: str
    spec: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    state: JobState = JobState.PENDING
    progress: JobProgress = JobProgress()
    error: JobFailure | None = None
    result: Mapping[str, Any] | None = None

    @classmethod
    def new(cls, job_id: str, kind: str, spec: Mapping[str, Any]) -> Self:
        """A job that has not started."""
        now = datetime.now(UTC)
        return cls(id=job_id, kind=kind, spec=spec, created_at=now, updated_at=now)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; times in RFC 3339."""
        times = {"created_at": self.created_at.isoformat(), "updated_at": self.updated_at.isoformat()}
        return asdict(self) | {"state": str(self.state)} | times

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record that `to_json` wrote."""
        error = values["error"]
        return cls(
            id=values["id"],
            kind=values["kind"],
            spec=values["spec"],
            created_at=datetime.fromisoformat(values["created_at"]),
            updated_at=datetime.fromisoformat(values["updated_at"]),
            state=JobState(values["state"]),
            progress=JobProgress(**values["progress"]),
            error=None if error is None else JobFailure(**error),
            result=values["result"],
        )


class RunningJob:
    """A job as the process that runs it sees it."""

    def __init__(self, folder: Path, record: JobRecord, run_name: str) -> None:
        self.folder = folder
        self.record = record
        self._run_name = run_name
        self._saved_s = monotonic()

    def report(self, done: int, total: int, unit: str) -> None:
        """Note the progress; readers see it within SAVE_EVERY_S."""
        self.record = replace(self.record, progress=JobProgress(done=done, total=total, unit=unit))
        if monotonic() - self._saved_s >= SAVE_EVERY_S:
            self.save()

    def succeed(self, result: Mapping[str, Any]) -> None:
        """Note the result; the job counts as done when its run ends without an error."""
        self.record = replace(self.record, result=result)

    def cancelled(self) -> bool:
        """Whether somebody asked this run to stop."""
        return _text(self.folder / "cancel") == self._run_name

    def check_cancelled(self) -> None:
        """Call between two pieces of work.

        Raises:
            JobCancelled: somebody asked this run to stop.
        """
        if self.cancelled():
            raise JobCancelled(self.record.id)

    def enter(self, state: JobState, error: JobFailure | None = None) -> None:
        """Save a change of state."""
        self.record = replace(self.record, state=state, error=error)
        self.save()

    def save(self) -> None:
        """Write the record as it is now."""
        self.record = replace(self.record, updated_at=datetime.now(UTC))
        self._saved_s = monotonic()
        _write(self.folder, self.record)


class Jobs:
    """The jobs of one folder, which is made with the first job."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, job_id: str) -> Path:
        """Where a job keeps its things.

        Raises:
            BadJob: the id cannot be a folder's name.
        """
        if not ID_RULE.fullmatch(job_id):
            remedy = "use 1 to 128 of a-z, 0-9 and inner hyphens"
            raise BadJob(job_id, "is no job id", remedy)
        return self._root / job_id

    def create(self, job_id: str, kind: str, spec: Mapping[str, Any]) -> JobRecord:
        """Record a job that has not started; one that exists with the same kind and spec is returned as is.

        Raises:
            JobConflict: the id belongs to another kind or spec.
            BadJob: the id cannot be a folder's name, or the existing record cannot be read.
            StoreFull, StoreUnavailable: the disk refuses.
        """
        folder = self.folder(job_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise disk_error(str(folder), exc) from exc
        if not (folder / "job.json").exists():
            with _owned(folder):
                _write_new(folder, JobRecord.new(job_id, kind, spec))
        record = self.read(job_id)
        if (record.kind, record.spec) != (kind, spec):
            raise JobConflict(job_id)
        return record

    def read(self, job_id: str) -> JobRecord:
        """A job as it stands; one that says RUNNING with nobody running it has FAILED: INTERRUPTED.

        Raises:
            UnknownJob: there is none of that id.
            BadJob: the record cannot be read.
        """
        record = self._load(job_id)
        if record.state is not JobState.RUNNING or _is_owned(self.folder(job_id)):
            return record
        record = self._load(job_id)  # it may have ended in between
        if record.state is not JobState.RUNNING:
            return record
        message = "the process that ran the job is gone; run it again to go on"
        return replace(record, state=JobState.FAILED, error=JobFailure(reason=INTERRUPTED, message=message))

    def list(self) -> list[JobRecord]:
        """All jobs, the newest first.

        Raises:
            BadJob: a record cannot be read.
        """
        ids = [path.parent.name for path in self._root.glob("*/job.json")]
        return sorted(map(self.read, ids), key=lambda record: record.created_at, reverse=True)

    def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to stop; one that nobody runs is CANCELLED at once, one that is done stays as it is.

        Raises:
            UnknownJob: there is none of that id.
            BadJob: the record cannot be read.
        """
        try:
            with self._idle(job_id) as job:
                if not job.record.state.done:
                    job.enter(JobState.CANCELLED)
        except JobInUse:
            folder = self.folder(job_id)
            (folder / "cancel").write_text(_text(folder / "lock"))
        return self.read(job_id)

    def requeue(self, job_id: str) -> JobRecord:
        """Have a job that has ended wait for another run.

        Raises:
            UnknownJob: there is none of that id.
            JobInUse: it runs.
            BadJob: the record cannot be read.
        """
        with self._idle(job_id) as job:
            job.record = replace(job.record, progress=JobProgress(), result=None)
            job.enter(JobState.PENDING)
        return job.record

    def fail(self, job_id: str, error: JobFailure) -> JobRecord:
        """Note that a job which nobody runs cannot be run.

        Raises:
            UnknownJob: there is none of that id.
            JobInUse: it runs.
            BadJob: the record cannot be read.
        """
        with self._idle(job_id) as job:
            job.enter(JobState.FAILED, error)
        return job.record

    @contextmanager
    def run(self, job_id: str) -> Iterator[RunningJob]:
        """Be the one process that runs a job. How the block ends is how the job ends.

        A job that ended before, however it did, runs again.

        Raises:
            UnknownJob: there is none of that id.
            JobInUse: it runs already.
            BadJob: the record cannot be read.
        """
        with self._idle(job_id) as job:
            job.record = replace(job.record, progress=JobProgress(), result=None)
            job.enter(JobState.RUNNING)
            with _outcome_recorded(job):
                yield job

    @contextmanager
    def _idle(self, job_id: str) -> Iterator[RunningJob]:
        """A job that nobody else touches for the time of the block."""
        folder = self.folder(job_id)
        self._load(job_id)  # no folder is made for one that does not exist
        with _owned(folder) as run_name:
            yield RunningJob(folder, self._load(job_id), run_name)

    def _load(self, job_id: str) -> JobRecord:
        path = self.folder(job_id) / "job.json"
        try:
            return JobRecord.from_json(read_json(path))
        except FileNotFoundError:
            raise UnknownJob(job_id, str(self._root)) from None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            remedy = f"delete the folder {path.parent} and start the job anew"
            raise BadJob(job_id, f"has a record that cannot be read ({exc!r})", remedy) from exc


@contextmanager
def _outcome_recorded(running: RunningJob) -> Iterator[None]:
    try:
        yield
    except (JobCancelled, KeyboardInterrupt):
        running.enter(JobState.CANCELLED)
        raise
    except BaseException as exc:
        with suppress(SpatialIndexError):  # a full disk must not hide why the job failed
            running.enter(JobState.FAILED, JobFailure(reason=type(exc).__name__, message=str(exc)))
        raise
    running.enter(JobState.SUCCEEDED)


def _write_new(folder: Path, record: JobRecord) -> None:
    if not (folder / "job.json").exists():  # somebody may have been faster
        _write(folder, record)


def _write(folder: Path, record: JobRecord) -> None:
    try:
        write_json(folder / "job.json", record.to_json())
    except OSError as exc:
        raise disk_error(str(folder), exc) from exc


@contextmanager
def _owned(folder: Path) -> Iterator[str]:
    """Own a job and name this run; the kernel frees the lock when the process ends, however it ends.

    Raises:
        JobInUse: another process owns it.
    """
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(fd, folder)
        run_name = f"{os.getpid()} {uuid4().hex}"
        os.ftruncate(fd, 0)
        os.pwrite(fd, run_name.encode(), 0)
        yield run_name
    finally:
        os.close(fd)


def _lock(fd: int, folder: Path) -> None:
    deadline_s = monotonic() + LOCK_WAIT_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if monotonic() > deadline_s:
                owner = _text(folder / "lock").partition(" ")[0]
                raise JobInUse(folder.name, int(owner) if owner.isdigit() else None) from None
            sleep(0.02)


def _is_owned(folder: Path) -> bool:
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
