"""Errors of the batch jobs.

WorkerError
├── NothingToIngest     the orthophoto yields no patch
├── IngestFailed        the gate refused the generation, or a worker broke
├── WorkerLost          a worker process died and could not be replaced
└── ClusterUnavailable  no Ray at the given address
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


class WorkerLost(WorkerError):
    """A worker process died, for want of memory or with its machine."""


class ClusterUnavailable(WorkerError):
    """The Ray cluster does not answer."""
