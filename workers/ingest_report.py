"""What an ingest says about itself, while it runs and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from shapely.geometry.base import BaseGeometry

from spatial_index.store import Store
from tiling.coverage import area_km2
from workers.ingest_plan import IngestPlan
from workers.tally import Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestProgress:
    """How far the job is, in patches."""

    job_id: str
    planned: int
    indexed: int
    skipped: int

    @property
    def share(self) -> float:
        """0 to 1."""
        return (self.indexed + self.skipped) / self.planned


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What became of every planned patch.

    `embedded` counts the patches that were cut and embedded in this run; an earlier one had kept the others.
    `already_live`: the same generation answers already and nothing was done.
    """

    job_id: str
    region: str
    generation: str
    model_digest: str
    planned: int
    indexed: int
    skipped: dict[str, int]
    embedded: int
    promoted: bool
    already_live: bool
    area_km2: float
    wall_s: float

    @property
    def patches_per_s(self) -> float:
        """Planned patches per second of wall time, start-up included."""
        return self.planned / self.wall_s if self.wall_s else 0.0


def live_report(store: Store, plan: IngestPlan, started_s: float, *, promoted: bool = False) -> IngestReport:
    """The report of a job with nothing to do, but for a promotion of what was built before."""
    info = store.region(plan.spec.region)
    return IngestReport(
        job_id=plan.job_id,
        region=plan.spec.region,
        generation=plan.spec.generation,
        model_digest=plan.spec.model_digest,
        planned=plan.planned,
        indexed=info.patches,
        skipped={},
        embedded=0,
        promoted=promoted,
        already_live=not promoted,
        area_km2=area_km2(info.coverage),
        wall_s=monotonic() - started_s,
    )


def built_report(
    plan: IngestPlan,
    tally: Tally,
    embedded: int,
    coverage: BaseGeometry,
    started_s: float,
    *,
    promoted: bool,
) -> IngestReport:
    """The report of a job that built a generation; not promoted, it was no better than the live one."""
    return IngestReport(
        job_id=plan.job_id,
        region=plan.spec.region,
        generation=plan.spec.generation,
        model_digest=plan.spec.model_digest,
        planned=plan.planned,
        indexed=tally.indexed,
        skipped=dict(tally.skipped),
        embedded=embedded,
        promoted=promoted,
        already_live=not promoted,
        area_km2=area_km2(coverage),
        wall_s=monotonic() - started_s,
    )
