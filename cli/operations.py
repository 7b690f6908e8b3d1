"""The service's long jobs: takes orders, carries them out one after the other, and knows how they stand.

What an order was is kept beside its job's record, so that the next start goes on where this one ends.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli.job_orders import REMEDY, RESULTS, Workshop, fleet_result, order_from_json, order_to_json
from serving.errors import Unfinished, UnknownOperation
from serving.operations import ImagePage, Operation, Order, State
from spatial_index.errors import SpatialIndexError
from spatial_index.files import read_json, write_json
from spatial_index.store import Store
from workers.errors import BadJob, JobCancelled, JobInUse, UnknownJob, WorkerError
from workers.fleet_results import read_rows
from workers.jobs import INTERRUPTED, JobFailure, JobProgress, JobRecord, Jobs, JobState
from workers.relocalize import KIND as RELOCALIZE

ORDER = "order.json"

logger = logging.getLogger(__name__)


def open_operations(store: Store, *, inputs: Path, jobs: Path, checkpoint: Path | None) -> OperationQueue:
    """The service's long jobs, and a thread that does them. Called inside the replica that has them."""
    queue = OperationQueue(Workshop(inputs=inputs, jobs=Jobs(jobs), store=store, checkpoint=checkpoint))
    queue.go_on()
    threading.Thread(target=queue.work_off, name="jobs", daemon=True).start()
    return queue


class OperationQueue:
    """`serving.operations.Operations` on `workers`."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._jobs = shop.jobs
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[str] = deque()
        self._current: str | None = None
        self._stopped: set[str] = set()
        self._summing = threading.Lock()
        self._again: set[str] = set()
        """Ordered again while their run was ending; queued when it has ended."""

    def submit(self, order: Order) -> Operation:
        """See `Operations.submit`."""
        work = self._shop.planned(order)
        with self._changed:
            record = work.record()
            wanted = not self._is_queued(record) and not work.is_done(record)
            if wanted or not self._is_ordered(record.id):  # `clnet ingest` may have built the region before
                write_json(self._jobs.folder(record.id) / ORDER, order_to_json(order))
            if wanted and record.id == self._current:
                self._again.add(record.id)
            elif wanted:
                self._enqueue(record.id)
        return self.get(record.id)

    def get(self, operation_id: str) -> Operation:
        """See `Operations.get`."""
        return self._operation(self._record(operation_id))

    def list(self) -> list[Operation]:
        """See `Operations.list`."""
        again = set(self._again)
        records = [record for record in self._jobs.list() if self._is_ordered(record.id)]
        return [self._operation(waits(record) if record.id in again else record) for record in records]

    def cancel(self, operation_id: str) -> None:
        """See `Operations.cancel`."""
        record = self._record(operation_id)
        with self._changed:
            if record.id in self._waiting:
                self._waiting.remove(record.id)
            self._again.discard(record.id)
            if record.id == self._current:
                self._stopped.add(record.id)
            self._jobs.cancel(record.id)

    def images(self, operation_id: str, first: int, count: int) -> ImagePage:
        """See `Operations.images`."""
        record = self._record(operation_id)
        if record.kind != RELOCALIZE:
            raise Unfinished(record.id, "localizes no images; give one of a fleet")
        if record.state is not JobState.SUCCEEDED:
            raise Unfinished(record.id, f"is {record.state}; wait until it has SUCCEEDED")
        try:
            rows, total = read_rows(self._jobs.folder(record.id) / RESULTS, first, count)
        except (OSError, ValueError) as error:
            raise Unfinished(record.id, f"has no readable results; {REMEDY}") from error
        return ImagePage(rows=rows, total=total)

    def go_on(self) -> None:
        """Queue what an earlier process left undone, the oldest first."""
        with self._changed:
            for record in reversed(self._jobs.list()):
                interrupted = record.error is not None and record.error.reason == INTERRUPTED
                if self._is_ordered(record.id) and (record.state is JobState.PENDING or interrupted):
                    self._enqueue(record.id)

    def work_off(self) -> None:
        """Carry out what is queued, for ever."""
        while True:
            self.work_once()

    def work_once(self) -> None:
        """Wait for a job and carry it out. What stops it is in its record, and stops nothing else."""
        job_id = self._next()
        try:
            self._carry_out(job_id)
        except JobCancelled:
            logger.info("job %s was cancelled", job_id)
        except Exception as error:
            logger.warning("job %s failed: %s: %s", job_id, type(error).__name__, error)
            self._note(job_id, error)
        finally:
            self._end(job_id)

    def _next(self) -> str:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            self._current = self._waiting.popleft()
            return self._current

    def _end(self, job_id: str) -> None:
        with self._changed:
            self._current = None
            self._stopped.discard(job_id)
            if job_id in self._again:
                try:
                    self._enqueue(job_id)
                except (WorkerError, SpatialIndexError) as unwritten:
                    logger.warning("job %s: cannot be queued again: %s", job_id, unwritten)
                self._again.discard(job_id)  # after it is PENDING on the disk: readers look here first

    def _carry_out(self, job_id: str) -> None:
        """Plan the order anew: its inputs may have changed while it waited, and then it is other work."""
        work = self._shop.planned(self._order(job_id))
        if work.job_id != job_id:
            raise BadJob(job_id, "was ordered for other inputs than are there now", "submit it again")

        def check() -> None:
            if job_id in self._stopped:
                raise JobCancelled(job_id)

        check()
        work.carry_out(check)

    def _note(self, job_id: str, error: Exception) -> None:
        """Have a job that failed before its run began say so."""
        try:
            if not self._jobs.read(job_id).state.done:
                self._jobs.fail(job_id, failure_of(error))
        except WorkerError as unwritten:
            logger.warning("job %s: its failure cannot be noted: %s", job_id, unwritten)

    def _enqueue(self, job_id: str) -> None:
        try:
            self._jobs.requeue(job_id)
        except JobInUse:
            return  # another program runs this very job
        self._waiting.append(job_id)
        self._changed.notify()

    def _is_queued(self, record: JobRecord) -> bool:
        """Whether its work is still to come. A run that is being stopped, or has just ended, is not that."""
        ends = record.id in self._stopped or record.state.done
        return (
            record.id in self._waiting
            or record.id in self._again
            or (record.id == self._current and not ends)
        )

    def _is_ordered(self, job_id: str) -> bool:
        return (self._jobs.folder(job_id) / ORDER).is_file()

    def _order(self, job_id: str) -> Order:
        try:
            return order_from_json(read_json(self._jobs.folder(job_id) / ORDER))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadJob(
                job_id, f"has an order that cannot be read ({error!r})", "submit it again"
            ) from error

    def _record(self, operation_id: str) -> JobRecord:
        again = operation_id in self._again
        try:
            record = self._jobs.read(operation_id)
        except (UnknownJob, BadJob) as error:
            raise UnknownOperation(operation_id) from error
        if not self._is_ordered(record.id):
            raise UnknownOperation(operation_id)
        return waits(record) if again else record

    def _operation(self, record: JobRecord) -> Operation:
        try:
            result = self._result(record)
        except BadJob as error:  # is this operation's affair; the others are told all the same
            logger.warning("%s: %r", error, error.__cause__)
            record, result = replace(record, state=JobState.FAILED, error=failure_of(error)), None
        return Operation(
            id=record.id,
            kind="relocalize" if record.kind == RELOCALIZE else "ingest",
            state=State(str(record.state)),
            created_at=record.created_at,
            updated_at=record.updated_at,
            done=record.progress.done,
            total=record.progress.total,
            unit=record.progress.unit,
            region=str(record.spec.get("region", "")),
            error=record.error.message if record.error else None,
            reason=record.error.reason if record.error else None,
            result=result,
        )

    def _result(self, record: JobRecord) -> Mapping[str, Any] | None:
        if record.state is not JobState.SUCCEEDED:
            return None
        if record.kind == RELOCALIZE:
            with self._summing:
                return fleet_result(self._jobs.folder(record.id), record)
        return record.result


def failure_of(error: Exception) -> JobFailure:
    """An error as a job's record keeps it."""
    return JobFailure(reason=type(error).__name__, message=str(error))


def waits(record: JobRecord) -> JobRecord:
    """A job that was ordered again, as its client shall see it while its earlier run ends."""
    return replace(record, state=JobState.PENDING, progress=JobProgress(), error=None, result=None)
