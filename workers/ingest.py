"""Builds a region: orthophoto in, a live, verified generation out.

Knows the order of things; what will be built is `workers.ingest_plan`, what runs inside the actors
`workers.embedding`, where vectors wait `workers.shelf`, what must hold before promotion `workers.gate`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from time import monotonic

import pyarrow as pa
from shapely.geometry.base import BaseGeometry

from clnet_model.encoder import Encoder, load_encoder
from spatial_index.records import Storage
from spatial_index.store import Store
from tiling.grid import GridSpec
from tiling.ortho import OnError, Ortho
from workers.building import half_built, promoted_again
from workers.embedding import EmbedSettings
from workers.gate import check_canaries, check_counts
from workers.ingest_plan import KIND, MIN_VALID_FRACTION, IngestPlan, plan_ingest
from workers.ingest_report import IngestProgress, IngestReport, built_report, live_report
from workers.jobs import Jobs, JobState, RunningJob
from workers.pipeline import embed_on_ray
from workers.runs import after, last_run, note_holes, standing_run
from workers.tally import Tally, lost_in, reasons_in, to_records
from workers.vector_source import Embed, VectorSource


def ingest(
    region: str,
    ortho: Ortho,
    *,
    store: Store,
    jobs: Jobs,
    checkpoint: Path | None = None,
    grid: GridSpec | None = None,
    area: BaseGeometry | None = None,
    min_valid_fraction: float = MIN_VALID_FRACTION,
    storage: Storage = "float32",
    on_error: OnError = "fail",
    resume: bool = True,
    embed: Embed = embed_on_ray,
    load: Callable[[Path | None], Encoder] = load_encoder,
    progress: Callable[[IngestProgress], None] = lambda _: None,
) -> IngestReport:
    """Cut, embed and store every patch of the orthophoto, check the result, make it the live generation.

    The same imagery, model, grid and area give the same generation and the same job; where that one is live
    and lacks no sheet, nothing is done; where it was live before, it is made live again. Vectors are kept in
    the job's folder before they are stored: a job that ran before, and blocks whose sheets an earlier job of
    the region has seen unchanged, are not embedded again.

    Args:
        grid: where patches lie; None takes what the model was trained with.
        area: WGS84 (Multi)Polygon that patch centres lie in; None takes the sheets' footprint.
        storage: how vectors are kept; see docs/search.md.
        on_error: what a sheet that fails to decode stops: the job, or its own patches.
        resume: False embeds everything again, into another generation where that one was live.
        embed: where the work runs; `partial(embed_on_ray, address=…)` names a cluster.

    Raises:
        JobCancelled, JobInUse: see `workers.jobs`.
        WorkerError: nothing to index, the gate refused, a worker died or the cluster is not there.
        TilingError, ModelError, SpatialIndexError: as named.
    """
    started_s = monotonic()
    plan = plan_ingest(
        region,
        ortho,
        load(checkpoint),
        grid=grid,
        area=area,
        min_valid_fraction=min_valid_fraction,
        storage=storage,
    )
    return build(
        plan,
        store=store,
        jobs=jobs,
        checkpoint=checkpoint,
        on_error=on_error,
        resume=resume,
        embed=embed,
        load=load,
        progress=progress,
        started_s=started_s,
    )


def build(
    plan: IngestPlan,
    *,
    store: Store,
    jobs: Jobs,
    checkpoint: Path | None = None,
    on_error: OnError = "fail",
    resume: bool = True,
    embed: Embed = embed_on_ray,
    load: Callable[[Path | None], Encoder] = load_encoder,
    progress: Callable[[IngestProgress], None] = lambda _: None,
    started_s: float | None = None,
) -> IngestReport:
    """Build what was planned, and nothing else; arguments and errors as of `ingest`.

    Args:
        started_s: when the job's time began, of `monotonic()`; None: now.

    Raises:
        ModelChanged: the checkpoint does not hold the plan's model any more.
    """
    started_s = monotonic() if started_s is None else started_s
    jobs.create(plan.job_id, KIND, plan.to_json())
    standing = standing_run(store, jobs, plan) if resume else None
    if standing and standing.live:
        return already_live(store, plan.called(standing.info.spec.generation), jobs, started_s)
    settings = EmbedSettings(
        ortho=plan.ortho,
        load=load,
        checkpoint=checkpoint,
        model_digest=plan.spec.model_digest,
        min_valid_fraction=plan.min_valid_fraction,
        on_error=on_error,
    )
    with jobs.run(plan.job_id) as job:
        if standing and promoted_again(store, standing.info):
            report = live_report(store, plan.called(standing.info.spec.generation), started_s, promoted=True)
        else:
            source = VectorSource(plan, jobs, settings, embed, resume=resume)
            report = next_run(
                plan,
                source,
                store=store,
                jobs=jobs,
                job=job,
                progress=progress,
                started_s=started_s,
                resume=resume,
            )
        job.succeed(asdict(report))
    return report


def next_run(
    plan: IngestPlan,
    source: VectorSource,
    *,
    store: Store,
    jobs: Jobs,
    job: RunningJob,
    progress: Callable[[IngestProgress], None],
    started_s: float,
    resume: bool,
) -> IngestReport:
    """Write the plan's next run and make it live, unless the live one lacks the very same."""
    last = last_run(store, jobs, plan)
    plan = after(last, plan)
    with half_built(store, plan.spec):
        tally = write_all(store, plan, source.tables(), job, progress)
        coverage = tally.coverage.geometry()
        check_counts(store, plan.spec, tally)
        check_canaries(store, plan.spec, tally)
        better = not (resume and last and last.live and last.holes == tally.holes)
        if better:
            note_holes(jobs, plan, tally.holes)
            store.promote(plan.spec.region, plan.spec.generation, coverage=coverage)
    source.prune()
    if last and not better:
        plan = plan.called(last.info.spec.generation)
    return built_report(plan, tally, source.embedded, coverage, started_s, promoted=better)


def already_live(store: Store, plan: IngestPlan, jobs: Jobs, started_s: float) -> IngestReport:
    """Nothing to do, but for the record of a job that was killed between its promotion and its end."""
    report = live_report(store, plan, started_s)
    if jobs.read(plan.job_id).state is not JobState.SUCCEEDED:
        with jobs.run(plan.job_id) as job:
            job.succeed(asdict(report))
    return report


def write_all(
    store: Store,
    plan: IngestPlan,
    tables: Generator[pa.Table],
    job: RunningJob,
    progress: Callable[[IngestProgress], None],
) -> Tally:
    """Write what arrives and account for every row.

    Raises:
        JobCancelled: between two tables.
    """
    tally = Tally(planned=plan.planned)
    spec = plan.spec
    with closing(tables):  # workers stop with us
        for table in tables:
            records = to_records(table, spec)
            store.write(spec.region, spec.generation, records)
            tally.add(records, reasons_in(table))
            tally.lost += lost_in(table)
            job.report(tally.accounted, plan.planned, "patches")
            progress(
                IngestProgress(
                    job_id=plan.job_id,
                    planned=plan.planned,
                    indexed=tally.indexed,
                    skipped=tally.skipped.total(),
                )
            )
            job.check_cancelled()
    return tally
