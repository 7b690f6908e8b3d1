"""Builds a region: orthophoto in, a live, verified generation out.

Knows the order of things; what will be built is `workers.job`, what runs inside the actors
`workers.embedding`, what must hold before promotion `workers.gate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pyarrow as pa
from shapely.geometry.base import BaseGeometry

from clnet_model.encoder import Encoder, load_encoder
from spatial_index.records import GenerationSpec
from spatial_index.store import Store
from tiling.coverage import area_km2, coverage_of
from tiling.grid import Block, GridSpec
from tiling.ortho import OnError, Ortho
from workers.embedding import EmbedSettings
from workers.gate import check_canaries, check_counts
from workers.job import CANARIES, MIN_VALID_FRACTION, IngestJob, Tally, plan_job, to_records
from workers.pipeline import embed_on_ray

Embed = Callable[[Iterable[Block], EmbedSettings], Iterator[pa.Table]]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestProgress:
    """How far the job is, in patches."""

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

    `already_live`: the same generation answers already and nothing was done.
    """

    region: str
    generation: str
    model_digest: str
    planned: int
    indexed: int
    skipped: dict[str, int]
    promoted: bool
    already_live: bool
    area_km2: float
    wall_s: float

    @property
    def patches_per_s(self) -> float:
        """Planned patches per second of wall time, start-up included."""
        return self.planned / self.wall_s if self.wall_s else 0.0


def ingest(
    region: str,
    ortho: Ortho,
    *,
    store: Store,
    checkpoint: Path | None = None,
    grid: GridSpec | None = None,
    min_valid_fraction: float = MIN_VALID_FRACTION,
    on_error: OnError = "fail",
    embed: Embed = embed_on_ray,
    load: Callable[[Path | None], Encoder] = load_encoder,
    progress: Callable[[IngestProgress], None] = lambda _: None,
) -> IngestReport:
    """Cut, embed and store every patch of the orthophoto, check the result, make it the live generation.

    The same imagery, model and grid give the same generation; where that one is live, nothing is done.

    Args:
        grid: where patches lie; None takes what the model was trained with.
        on_error: what a sheet that fails to decode stops: the job, or its own patches.
        embed: where the work runs; `partial(embed_on_ray, address=…)` names a cluster.

    Raises:
        WorkerError: nothing to index, the gate refused, a worker died or the cluster is not there.
        TilingError, ModelError, SpatialIndexError: as named.
    """
    started_s = monotonic()
    encoder = load(checkpoint)
    job = plan_job(region, ortho, encoder, grid, min_valid_fraction)
    if is_live(store, job.spec):
        return live_report(store, job, started_s)
    settings = EmbedSettings(
        ortho=ortho,
        load=load,
        checkpoint=checkpoint,
        min_valid_fraction=min_valid_fraction,
        on_error=on_error,
    )
    with half_built(store, job.spec):
        tally = write_all(store, job, embed(job.blocks, settings), progress)
        coverage = coverage_of(tally.quadkeys)
        check_counts(store, job, tally)
        check_canaries(store, job, tally)
        store.promote(region, job.spec.generation, coverage=coverage)
    return live_now(job, tally, coverage, started_s)


def is_live(store: Store, spec: GenerationSpec) -> bool:
    """Whether this very generation answers queries already."""
    return any(info.live and info.spec == spec for info in store.generations(spec.region))


@contextmanager
def half_built(store: Store, spec: GenerationSpec) -> Iterator[None]:
    """A fresh generation that vanishes again unless all goes well."""
    store.drop_generation(spec.region, spec.generation)  # left by a job that was killed
    store.create_generation(spec)
    try:
        yield
    except BaseException:
        store.drop_generation(spec.region, spec.generation)
        raise


def write_all(
    store: Store, job: IngestJob, tables: Iterator[pa.Table], progress: Callable[[IngestProgress], None]
) -> Tally:
    """Write what arrives and account for every row."""
    tally = Tally(canary_stride=max(1, job.planned // CANARIES))
    for table in tables:
        records = to_records(table, job.spec)
        store.write(job.spec.region, job.spec.generation, records)
        tally.add(records, table.column("skipped").to_pylist())
        progress(IngestProgress(planned=job.planned, indexed=tally.indexed, skipped=tally.skipped.total()))
    return tally


def live_report(store: Store, job: IngestJob, started_s: float) -> IngestReport:
    """The report of a job with nothing to do."""
    info = store.region(job.spec.region)
    return IngestReport(
        region=job.spec.region,
        generation=job.spec.generation,
        model_digest=job.spec.model_digest,
        planned=job.planned,
        indexed=info.patches,
        skipped={},
        promoted=False,
        already_live=True,
        area_km2=area_km2(info.coverage),
        wall_s=monotonic() - started_s,
    )


def live_now(job: IngestJob, tally: Tally, coverage: BaseGeometry, started_s: float) -> IngestReport:
    """The report of a job that ended in a promotion."""
    return IngestReport(
        region=job.spec.region,
        generation=job.spec.generation,
        model_digest=job.spec.model_digest,
        planned=job.planned,
        indexed=tally.indexed,
        skipped=dict(tally.skipped),
        promoted=True,
        already_live=False,
        area_km2=area_km2(coverage),
        wall_s=monotonic() - started_s,
    )
