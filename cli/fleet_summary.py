"""A fleet's results in a few figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.relocalize import FleetReport

LOCALIZED = "LOCALIZED"
COLUMNS = ["status", "moved_m", "r68_m", "prior_conflict", "smoothed_status"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSummary:
    """Distances are of the images that were LOCALIZED by themselves; None without any."""

    job_id: str
    images: int
    embedded: int
    counts: dict[str, int]
    """Images by status, most first."""
    smoothed_localized: int
    """Images that are LOCALIZED when their track is considered."""
    prior_conflicts: int
    moved_p50_m: float | None
    """From the given position to the computed one."""
    moved_p95_m: float | None
    r68_p50_m: float | None
    embed_s: float
    locate_s: float


def summarize(results: Path, report: FleetReport) -> FleetSummary:
    """Read the results once, in parts."""
    counts: Counter[str] = Counter()
    smoothed = conflicts = 0
    moved, radii = [np.empty(0)], [np.empty(0)]
    for rows in _parts(results):
        statuses = rows.column("status").to_numpy(zero_copy_only=False)
        counts.update(statuses.tolist())
        smoothed += rows.column("smoothed_status").to_pylist().count(LOCALIZED)
        conflicts += rows.column("prior_conflict").to_pylist().count(True)
        localized = rows.filter(pa.array(statuses == LOCALIZED))
        moved.append(localized.column("moved_m").drop_null().to_numpy())
        radii.append(localized.column("r68_m").drop_null().to_numpy())
    return FleetSummary(
        job_id=report.job_id,
        images=report.images,
        embedded=report.embedded,
        counts=dict(counts.most_common()),
        smoothed_localized=smoothed,
        prior_conflicts=conflicts,
        moved_p50_m=_quantile(moved, 0.5),
        moved_p95_m=_quantile(moved, 0.95),
        r68_p50_m=_quantile(radii, 0.5),
        embed_s=report.embed_s,
        locate_s=report.locate_s,
    )


def write_summary(summary: FleetSummary, path: Path) -> None:
    """Write the figures as JSON."""
    path.write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")


def _parts(results: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(results) as file:
        for batch in file.iter_batches(columns=COLUMNS):
            yield pa.Table.from_batches([batch])


def _quantile(parts: list[np.ndarray], share: float) -> float | None:
    values = np.concatenate(parts)
    return float(np.quantile(values, share)) if len(values) else None
