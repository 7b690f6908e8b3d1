"""Errors of the batch jobs.

WorkerError
├── NothingToIngest     the orthophoto yields no patch
├── IngestFailed        the gate refused the generation, or a worker broke
├── NothingToExport     the generation was never finished
├── BadExchangeFile     not a file that `clnet export` wrote, or damaged
├── BadManifest         a table of street images cannot be used
├── ModelChanged        a worker found another model than the job was planned for
├── WorkerLost          a worker process died and could not be replaced
├── ClusterUnavailable  no Ray at the given address
└── JobError            one job; carries `job_id`
    ├── BadJob          the id or the record is no good
    ├── UnknownJob      there is none of that id
    ├── JobConflict     the id belongs to another job
    ├── JobInUse        another process runs it
    └── JobCancelled    somebody asked it to stop
"""

from __future__ import annotations


class WorkerError(Exception):
    """Base class of everything that `workers` raises on purpose."""


class NothingToIngest(WorkerError):
    """No patch would come out of this orthophoto."""


class IngestFailed(WorkerError):
    """The generation was not promoted; what was live before still is."""

    def __init__(self, region: str, generation: str, reason: str) -> None:
        super().__init__(region, generation, reason)  # all arguments, so that the error survives pickling
        self.region = region
        self.generation = generation
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"region {self.region}: generation {self.generation} was not promoted: {self.reason}; "
            "what was live stays live, ingest again once that is mended"
        )


class BadManifest(WorkerError):
    """A table of street images cannot be used."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(path, reason, remedy)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path} {self.reason}; {self.remedy}"


class NothingToExport(WorkerError):
    """Only finished generations are exported."""

    def __init__(self, region: str, generation: str) -> None:
        super().__init__(region, generation)
        self.region = region
        self.generation = generation

    def __str__(self) -> str:
        return f"generation {self.generation} of region {self.region} was never promoted; finish its ingest"


class BadExchangeFile(WorkerError):
    """A file cannot be imported."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: cannot be imported ({self.reason}); give a *.parquet that `clnet export` wrote"


class ModelChanged(WorkerError):
    """Vectors of two models must never come together in one generation, nor under one name."""

    def __init__(self, planned: str, found: str) -> None:
        super().__init__(planned, found)
        self.planned = planned
        self.found = found

    def __str__(self) -> str:
        return (
            f"the checkpoint holds model {self.found!r}, the job was planned for {self.planned!r}; put "
            "that one back, or restart the service and order anew"
        )


class WorkerLost(WorkerError):
    """A worker process died, for want of memory or with its machine."""


class ClusterUnavailable(WorkerError):
    """The Ray cluster does not answer."""


class JobError(WorkerError):
    """Something about one job; says what and what to do."""

    def __init__(self, job_id: str, *details: object) -> None:
        super().__init__(job_id, *details)  # all arguments, so that the error survives pickling
        self.job_id = job_id


class BadJob(JobError):
    """The id cannot name a job, or its record cannot be read."""

    def __init__(self, job_id: str, problem: str, remedy: str) -> None:
        super().__init__(job_id, problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"job {self.job_id!r} {self.problem}; {self.remedy}"


class UnknownJob(JobError):
    """No job has this id."""

    def __init__(self, job_id: str, folder: str) -> None:
        super().__init__(job_id, folder)
        self.folder = folder

    def __str__(self) -> str:
        return f"there is no job {self.job_id!r} in {self.folder}; look at the list of jobs"


class JobConflict(JobError):
    """The id was given to a job of another kind or with other settings."""

    def __str__(self) -> str:
        return f"job {self.job_id!r} exists with another kind or other settings; choose another id"


class JobInUse(JobError):
    """Only one process at a time runs a job."""

    def __init__(self, job_id: str, pid: int | None) -> None:
        super().__init__(job_id, pid)
        self.pid = pid

    def __str__(self) -> str:
        owner = f"process {self.pid}" if self.pid else "another process"
        return f"job {self.job_id!r} is being run by {owner}; wait for it, or cancel it"


class JobCancelled(JobError):
    """The job stopped because somebody asked for it; what is persisted stays."""

    def __str__(self) -> str:
        return f"job {self.job_id!r} was cancelled; start it again to go on where it stopped"
