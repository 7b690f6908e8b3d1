"""The runs of an ingest's plan: what was built of it, what that lacks, and how the next one is named.

A live generation is never written again. Where a plan is built again, because sheets could not be read or all
shall be embedded anew, the new one takes another name: NAME, NAME-2, NAME-3 …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from spatial_index.files import disk_error, read_json, write_json
from spatial_index.records import GenerationInfo, GenerationSpec
from spatial_index.store import Store
from workers.ingest_plan import IngestPlan
from workers.jobs import Jobs

HOLES = "holes.json"
"""In the job's folder: what each generation lacks; none for one that lacks nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One build of a plan that was promoted."""

    number: int
    info: GenerationInfo
    holes: Mapping[str, Any]
    """See `Tally.holes`; empty for a whole one."""

    @property
    def live(self) -> bool:
        """Whether it answers queries."""
        return self.info.live


def last_run(store: Store, jobs: Jobs, plan: IngestPlan) -> Run | None:
    """The last build of a plan that the store still has."""
    holes = _read_holes(jobs, plan)
    runs = [
        Run(number=number, info=info, holes=holes.get(info.spec.generation, {}))
        for info in store.generations(plan.spec.region)
        if info.complete and (number := _number(info.spec, plan.spec))
    ]
    return max(runs, key=lambda run: run.number, default=None)


def standing_run(store: Store, jobs: Jobs, plan: IngestPlan) -> Run | None:
    """The last build of a plan, if it lacks nothing."""
    run = last_run(store, jobs, plan)
    return run if run and not run.holes else None


def after(run: Run | None, plan: IngestPlan) -> IngestPlan:
    """The plan under the name of its next run."""
    if run is None:
        return plan
    return plan.called(f"{plan.spec.generation}-{run.number + 1}")


def note_holes(jobs: Jobs, plan: IngestPlan, holes: Mapping[str, Any]) -> None:
    """Note what the plan's generation lacks, before it goes live.

    Raises:
        StoreFull, StoreUnavailable: the disk refuses.
    """
    known = _read_holes(jobs, plan)
    if holes == known.get(plan.spec.generation, {}):
        return
    path = jobs.folder(plan.job_id) / HOLES
    try:
        write_json(path, {**known, plan.spec.generation: holes})
    except OSError as exc:
        raise disk_error(str(path), exc) from exc


def _read_holes(jobs: Jobs, plan: IngestPlan) -> Mapping[str, Any]:
    try:
        return read_json(jobs.folder(plan.job_id) / HOLES)
    except (FileNotFoundError, ValueError):
        return {}


def _number(found: GenerationSpec, spec: GenerationSpec) -> int:
    """Which run of a spec another one is, from 1; 0: of another."""
    name = re.fullmatch(rf"{re.escape(spec.generation)}(?:-(\d+))?", found.generation)
    if name is None or replace(found, generation=spec.generation) != spec:
        return 0
    return int(name[1] or 1)
