"""Generations out of a store into files, and back to the bit: for backup, exchange and other tools."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from spatial_index.errors import UnknownGeneration
from spatial_index.files import disk_error
from spatial_index.records import GenerationInfo, PatchRecord
from spatial_index.store import Store
from workers.building import built, half_built, promoted_again
from workers.errors import NothingToExport
from workers.exchange import ROWS_PER_GROUP, read_records, read_spec, schema_of, stac_item, to_table
from workers.gate import check_canaries, check_counts
from workers.tally import Tally

NO_VECTOR = np.empty(0, np.float32)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What was written."""

    region: str
    generation: str
    patches: int
    data: Path
    item: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """What was read. `already_live`: the same generation answers already and nothing was done."""

    region: str
    generation: str
    patches: int
    already_live: bool


def export_region(
    store: Store,
    region: str,
    out: Path,
    *,
    generation: str | None = None,
    float16: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> ExportReport:
    """Write a generation, the live one when none is named, as <region>-<generation>.parquet and .json.

    A killed export leaves no half file under these names. Vectors wait in a temporary file beside them while
    rows are sorted; the other fields, about 200 bytes a patch, in memory.

    Raises:
        UnknownRegion, UnknownGeneration: nothing of that name.
        NothingToExport: the generation was never promoted.
        StoreFull, StoreUnavailable: the disk refuses.
    """
    info = _chosen(store, region, generation)
    name = f"{region}-{info.spec.generation}"
    data, item = out / f"{name}.parquet", out / f"{name}.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _drafted(data) as draft:
            _write_rows(draft, info, store.read(region, info.spec.generation), float16, progress)
        with _drafted(item) as draft:
            draft.write_text(json.dumps(stac_item(info, data.name), indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise disk_error(str(out), exc) from exc
    return ExportReport(
        region=region, generation=info.spec.generation, patches=info.patches, data=data, item=item
    )


def import_region(
    store: Store, path: Path, *, progress: Progress = lambda _done, _total: None
) -> ImportReport:
    """Build the generation that a file holds, check it and make it live: same ids, same vectors.

    Where it was built before, it is made live again.

    Raises:
        BadExchangeFile: not a file of ours, or damaged; what was live stays live.
        IngestFailed: the gate refused.
    """
    spec, planned = read_spec(path)
    report = ImportReport(region=spec.region, generation=spec.generation, patches=planned, already_live=False)
    known = built(store, spec)
    if known and (known.live or (known.patches == planned and promoted_again(store, known))):
        return replace(report, already_live=known.live)
    tally = Tally(planned=planned)
    with half_built(store, spec):
        for records in read_records(path, spec):
            store.write(spec.region, spec.generation, records)
            tally.add(records, [])
            progress(tally.indexed, planned)
        check_counts(store, spec, tally)
        check_canaries(store, spec, tally)
        store.promote(spec.region, spec.generation, coverage=tally.coverage.geometry())
    return report


def _chosen(store: Store, region: str, generation: str | None) -> GenerationInfo:
    name = generation or store.region(region).generation
    for info in store.generations(region):
        if info.spec.generation == name:
            if not info.complete:
                raise NothingToExport(region, name)
            return info
    raise UnknownGeneration(region, name)


def _write_rows(
    draft: Path,
    info: GenerationInfo,
    pages: Iterator[list[PatchRecord]],
    float16: bool,
    progress: Progress,
) -> None:
    """The store gives records in order of their ids; the file has them in quadkey order."""
    schema = schema_of(info, float16=float16)
    with tempfile.TemporaryFile(dir=draft.parent) as spool:
        records: list[PatchRecord] = []
        for page in pages:
            spool.write(np.stack([record.vector for record in page]).tobytes())
            records.extend(replace(record, vector=NO_VECTOR) for record in page)
        spool.flush()
        vectors = np.memmap(spool, np.float32, "r", shape=(len(records), info.spec.dim))
        order = sorted(range(len(records)), key=lambda index: records[index].quadkey)
        with pq.ParquetWriter(draft, schema, compression="zstd", write_page_checksum=True) as writer:
            for start in range(0, len(order), ROWS_PER_GROUP):
                chosen = order[start : start + ROWS_PER_GROUP]
                rows = to_table([records[index] for index in chosen], vectors[chosen], info, schema)
                writer.write_table(rows)
                progress(start + len(chosen), len(order))


@contextmanager
def _drafted(path: Path) -> Iterator[Path]:
    """Write beside the place, then move there."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
