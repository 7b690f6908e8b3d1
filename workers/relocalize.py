"""Re-localizes a fleet: a table of street images in, corrected positions out.

    manifest ─chunks─► read, embed (Ray) ─► kept on disk ─► search, fuse (Ray) ─► smooth ─► results.parquet

Embedding takes most of the time, and runs wherever Ray has room, in any order. What it gives is kept chunk by
chunk, so that nothing is embedded twice. Answers are made of what was kept, and come back in the order of the
rows; tracks are followed here. The rows are the same whatever was killed before. How an image is localized is
the `Localizer`'s business.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import pyarrow as pa

from workers.chunks import Chunks
from workers.fleet_actor import answer_fleet_here
from workers.fleet_results import ResultsWriter, given_columns
from workers.jobs import JobRecord, Jobs, RunningJob
from workers.manifest import Manifest

KIND = "relocalize"

Row = Mapping[str, Any]
Embed = Callable[[Chunks, Callable[[int | None], "Embedder"], Sequence[int]], Generator[tuple[int, pa.Table]]]
Answer = Callable[[Chunks, "Localizer"], Generator[list[dict[str, Any]]]]


class Embedder(Protocol):
    """Embeds images inside a worker."""

    def look(self, row: Row, image: bytes | str) -> Any:
        """What is to be embedded of an image, or what is wrong with it; an image that could not be read is
        what went wrong. Called from several threads."""

    def embed(self, looks: Sequence[Any]) -> pa.Table:
        """A row for each look, with a `fault` where the image is unusable."""


class Follower(Protocol):
    """Follows one sequence."""

    def advance(self, row: Row, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """The smoothed columns of the next image. Rows that cannot be used come too: the vehicle drove on."""


class Localizer(Protocol):
    """How images are localized. Where `portable_bytes` is given, it can be sent to other processes."""

    make_embedder: Callable[[int | None], Embedder]
    """Goes to the workers and is called there, with the number of threads."""

    @property
    def portable_bytes(self) -> int | None:
        """What it weighs; None: it stays here."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what the embedder gives, as JSON values."""

    def answers(self, rows: Sequence[Row], seen: pa.Table) -> list[dict[str, Any]]:
        """The result's columns for images that were embedded."""

    def follower(self, sequence: str) -> Follower:
        """A new one for each sequence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetProgress:
    """How far the job is, in images."""

    job_id: str
    stage: str
    """"embed" or "locate"."""
    done: int
    total: int
    counts: Mapping[str, int] = field(default_factory=dict)
    """By status, of those located."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetReport:
    """What became of every image."""

    job_id: str
    images: int
    embedded: int
    """Now; the others were embedded by an earlier run."""
    counts: Mapping[str, int]
    embed_s: float
    locate_s: float


def relocalize(
    manifest: Manifest,
    out: Path,
    *,
    localizer: Localizer,
    jobs: Jobs,
    embed: Embed,
    answer: Answer = answer_fleet_here,
    resume: bool = True,
    progress: Callable[[FleetProgress], None] = lambda _: None,
) -> FleetReport:
    """Locate every image of a manifest and write the results, one row for each, ordered by sequence and time.

    The same manifest and model are the same job: run again, it embeds only what no earlier run has, what that
    could not read, and files that were replaced since.

    Args:
        out: GeoParquet; replaced when all rows are there.
        embed, answer: where the work runs; see `workers.fleet_pipeline`.
        resume: False embeds everything again.

    Raises:
        JobCancelled, JobInUse: see `workers.jobs`.
        WorkerError: a worker died or the cluster is not there.
        ModelError, SpatialIndexError: as named.
    """
    job_id = record_job(manifest, localizer, jobs).id
    with jobs.run(job_id) as job:
        chunks = Chunks(jobs.folder(job_id) / "chunks", manifest.table)
        if not resume:
            chunks.clear()
        started_s = monotonic()
        embedded = embed_missing(chunks, localizer, embed, job, progress)
        embedded_s = monotonic()
        with ResultsWriter(out) as writer, closing(answer(chunks, localizer)) as answers:
            located = located_chunks(chunks, localizer, answers)
            counts = locate_all(located, writer, len(chunks.rows), job, progress)
        report = FleetReport(
            job_id=job_id,
            images=manifest.table.num_rows,
            embedded=embedded,
            counts=dict(counts),
            embed_s=embedded_s - started_s,
            locate_s=monotonic() - embedded_s,
        )
        job.succeed(asdict(report))
    return report


def record_job(manifest: Manifest, localizer: Localizer, jobs: Jobs) -> JobRecord:
    """The record of a fleet's job, made with the first call."""
    spec = {"manifest": manifest.digest, "images": manifest.table.num_rows, **localizer.identity}
    return jobs.create(job_id_of(manifest, localizer), KIND, spec)


def job_id_of(manifest: Manifest, localizer: Localizer) -> str:
    """The same work has the same id, so that starting it again is going on with it."""
    identity = repr((manifest.digest, sorted(localizer.identity.items())))
    return f"{KIND}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def embed_missing(
    chunks: Chunks,
    localizer: Localizer,
    embed: Embed,
    job: RunningJob,
    progress: Callable[[FleetProgress], None],
) -> int:
    """Embed and keep whatever is not there; images embedded."""
    missing = chunks.missing()
    total = len(chunks.rows)
    done = before = total - sum(missing.values())
    progress(FleetProgress(job_id=job.record.id, stage="embed", done=done, total=total))
    if not missing:
        return 0
    with closing(embed(chunks, localizer.make_embedder, list(missing))) as tables:  # workers stop with us
        for number, table in tables:
            chunks.put(number, table)
            done += missing[number]
            job.report(done, total, "images embedded")
            progress(FleetProgress(job_id=job.record.id, stage="embed", done=done, total=total))
            job.check_cancelled()
    return done - before


def locate_all(
    located: Iterator[list[dict[str, Any]]],
    writer: ResultsWriter,
    total: int,
    job: RunningJob,
    progress: Callable[[FleetProgress], None],
) -> Counter[str]:
    """Write chunk after chunk; images by status."""
    counts: Counter[str] = Counter()
    for rows in located:
        writer.write(rows)
        counts.update(row["status"] for row in rows)
        done = counts.total()
        job.report(done, total, "images located")
        progress(FleetProgress(job_id=job.record.id, stage="locate", done=done, total=total, counts=counts))
        job.check_cancelled()
    return counts


def located_chunks(
    chunks: Chunks, localizer: Localizer, answers: Iterator[list[dict[str, Any]]]
) -> Iterator[list[dict[str, Any]]]:
    """The result's rows, chunk by chunk. One follower lives at a time: rows come by sequence and time."""
    current: str | None = None
    follower: Follower | None = None
    for number, answered in enumerate(answers):
        located = []
        for row, answer in zip(chunks.rows_of(number), answered, strict=True):
            if row["sequence"] != current:
                current = row["sequence"]
                follower = None if current is None else localizer.follower(current)
            smoothed = follower.advance(row, answer) if follower else {}
            located.append({**given_columns(row), **answer, **smoothed})
        yield located
