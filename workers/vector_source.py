"""Where the rows of a plan come from: kept ones first, then new ones, which are kept before they go on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

import pyarrow as pa

from workers.embedding import EmbedSettings
from workers.ingest_plan import KIND, IngestPlan, KeyedBlock
from workers.jobs import Jobs, JobState
from workers.shelf import Shelf

Embed = Callable[[Iterable[KeyedBlock], EmbedSettings], Iterator[pa.Table]]


class VectorSource:
    """Rows of a plan's blocks: kept ones first, then new ones, which are kept before they are handed on."""

    def __init__(
        self, plan: IngestPlan, jobs: Jobs, settings: EmbedSettings, embed: Embed, *, resume: bool
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._embed = embed
        self._shelf = Shelf(jobs.folder(plan.job_id) / "vectors")
        self._earlier = earlier_shelves(jobs, plan)
        self._resume = resume
        self.embedded = 0
        """Rows that were not kept and had to be made."""

    def tables(self) -> Generator[pa.Table]:
        """Every block of the plan once, in no particular order."""
        wanted = {keyed.key: keyed for keyed in self._plan.blocks()}
        if self._resume:
            yield from self._shelf.take(wanted)
            for shelf in self._earlier:
                yield from map(self._kept, shelf.take(wanted))
        else:
            self._shelf.clear()
        if wanted:
            for rows in self._embed(wanted.values(), self._settings):
                self.embedded += len(rows)
                yield self._kept(rows)

    def prune(self) -> None:
        """Free the space of earlier jobs of the region, which this one has made useless."""
        for shelf in self._earlier:
            shelf.clear()

    def _kept(self, rows: pa.Table) -> pa.Table:
        self._shelf.put(rows)
        return rows


def earlier_shelves(jobs: Jobs, plan: IngestPlan) -> list[Shelf]:
    """What other jobs of the same region have kept, the newest first; running ones are left alone."""
    return [
        Shelf(jobs.folder(record.id) / "vectors")
        for record in jobs.list()
        if record.kind == KIND
        and record.spec.get("region") == plan.spec.region
        and record.id != plan.job_id
        and record.state is not JobState.RUNNING
    ]
