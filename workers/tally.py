"""The running account of an ingest: every planned patch ends up indexed or skipped with a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from spatial_index.records import GenerationSpec, PatchRecord
from tiling.coverage import Coverage
from tiling.grid import LngLat
from workers.embedding import vectors_of

CANARIES = 16


@dataclass(kw_only=True)
class Tally:
    """What has arrived in the store so far. Its size does not grow with the number of patches."""

    planned: int
    indexed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """Patches of blocks that had to do without a sheet that could not be read."""
    coverage: Coverage = field(default_factory=Coverage)
    canaries: list[PatchRecord] = field(default_factory=list)

    @property
    def accounted(self) -> int:
        """Patches indexed or skipped."""
        return self.indexed + self.skipped.total()

    @property
    def holes(self) -> dict[str, Any]:
        """What is lacking, as JSON values; empty when all sheets could be read."""
        return {"lost": self.lost, "skipped": dict(self.skipped)} if self.lost else {}

    def add(self, records: list[PatchRecord], skipped: list[str]) -> None:
        """Count written records and reasons to skip; every so-manieth record is kept for the gate."""
        stride = max(1, self.planned // CANARIES)
        chosen = records[-self.indexed % stride :: stride]
        # Copies: a view would keep the whole table in memory.
        self.canaries.extend(replace(each, vector=each.vector.copy()) for each in chosen)
        self.indexed += len(records)
        self.coverage.add(record.quadkey for record in records)
        self.skipped.update(skipped)


def to_records(table: pa.Table, spec: GenerationSpec) -> list[PatchRecord]:
    """The indexed rows of a table as the store takes them."""
    vectors = vectors_of(table)
    return [
        PatchRecord(
            location=LngLat(lng=row["lng"], lat=row["lat"]),
            quadkey=row["quadkey"],
            region=spec.region,
            generation=spec.generation,
            side_m=spec.side_m,
            captured_at=row["captured_at"],
            source=row["source"],
            valid_fraction=row["valid_fraction"],
            vector=vectors[index],
        )
        for index, row in enumerate(table.drop_columns(["vector"]).to_pylist())
        if row["skipped"] is None
    ]


def reasons_in(table: pa.Table) -> list[str]:
    """Why the other rows were skipped."""
    return [reason for reason in table.column("skipped").to_pylist() if reason]


def lost_in(table: pa.Table) -> int:
    """Rows of blocks that lost a sheet."""
    return int(table.column("key").to_pylist().count(""))
