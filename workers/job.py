"""What an ingest job builds, how the result is named, and the running account of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from clnet_model.encoder import Encoder
from spatial_index.records import GenerationSpec, PatchRecord
from tiling.grid import Block, GridSpec, LngLat, plan_blocks
from tiling.ortho import Ortho
from workers.embedding import vectors_of
from workers.errors import NothingToIngest

CANARIES = 16
MIN_VALID_FRACTION = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestJob:
    """What will be built. The generation is named after all that decides its content."""

    spec: GenerationSpec
    blocks: tuple[Block, ...]
    planned: int


@dataclass(kw_only=True)
class Tally:
    """What has arrived in the store so far."""

    indexed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    quadkeys: list[str] = field(default_factory=list)
    canaries: list[PatchRecord] = field(default_factory=list)
    canary_stride: int = 1

    @property
    def accounted(self) -> int:
        """Patches indexed or skipped."""
        return self.indexed + self.skipped.total()

    def add(self, records: Sequence[PatchRecord], reasons: Sequence[str | None]) -> None:
        """Count written records and reasons to skip; every `canary_stride`-th record is kept for the gate."""
        self.canaries.extend(records[-self.indexed % self.canary_stride :: self.canary_stride])
        self.indexed += len(records)
        self.quadkeys.extend(record.quadkey for record in records)
        self.skipped.update(reason for reason in reasons if reason)


def plan_job(
    region: str, ortho: Ortho, encoder: Encoder, grid: GridSpec | None, min_valid_fraction: float
) -> IngestJob:
    """Decide what to build.

    Raises:
        NothingToIngest: no patch centre lies on the orthophoto.
    """
    grid = grid or GridSpec(zoom=encoder.zoom, side_m=encoder.side_m)
    blocks = tuple(plan_blocks(ortho.footprint, grid))
    if not blocks:
        raise NothingToIngest(
            f"no patch centre of zoom {grid.zoom} lies on the orthophoto; give larger sheets"
        )
    identity = (ortho.digest, encoder.digest, grid.zoom, grid.side_m, min_valid_fraction)
    spec = GenerationSpec(
        region=region,
        generation=hashlib.sha256(repr(identity).encode()).hexdigest()[:12],
        model_digest=encoder.digest,
        dim=encoder.dim,
        zoom=grid.zoom,
        side_m=grid.side_m,
    )
    return IngestJob(spec=spec, blocks=blocks, planned=sum(map(len, blocks)))


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
