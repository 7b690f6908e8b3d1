"""The result of re-localizing a fleet: GeoParquet, a row for each image, in the manifest's order."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from spatial_index.files import disk_error, sync_folder

ROWS_PER_GROUP = 8_192
GIVEN = ("latitude", "longitude", "accuracy_m", "heading_deg")
"""Columns of the manifest that the result has too, under `given_…`."""
KEPT = ("image_id", "image", "sequence", "captured_at")

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("image", pa.string()),
        pa.field("sequence", pa.string()),
        pa.field("captured_at", pa.timestamp("us", "UTC")),
        pa.field("given_latitude", pa.float64()),
        pa.field("given_longitude", pa.float64()),
        pa.field("given_accuracy_m", pa.float64()),
        pa.field("given_heading_deg", pa.float64()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("r68_m", pa.float64()),
        pa.field("r95_m", pa.float64()),
        pa.field("probability", pa.float64()),
        pa.field("heading_deg", pa.float64()),
        pa.field("heading_r68_deg", pa.float64()),
        pa.field("prior_conflict", pa.bool_()),
        pa.field("moved_m", pa.float64()),
        pa.field("smoothed_status", pa.string()),
        pa.field("smoothed_latitude", pa.float64()),
        pa.field("smoothed_longitude", pa.float64()),
        pa.field("smoothed_r68_m", pa.float64()),
        pa.field("smoothed_r95_m", pa.float64()),
        pa.field("region", pa.string()),
        pa.field("generation", pa.string()),
        pa.field("patches", pa.list_(pa.string())),
        pa.field("model_digest", pa.string()),
        pa.field("geometry", pa.binary()),
    ]
)
GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
}


class ResultsWriter:
    """Writes rows as they come; the file appears, whole, when all have been written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        self._waiting: list[dict[str, Any]] = []
        try:
            schema = SCHEMA.with_metadata({b"geo": json.dumps(GEO).encode()})
            self._writer = pq.ParquetWriter(self._draft, schema, compression="zstd")
        except OSError as exc:
            raise disk_error(str(path.parent), exc) from exc

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows with the columns of SCHEMA; those that are missing stay empty."""
        self._waiting += [{**row, "geometry": point_of(row)} for row in rows]
        if len(self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                self._draft.replace(self._path)
                sync_folder(self._path.parent)
        except OSError as exc:
            raise disk_error(str(self._path.parent), exc) from exc
        finally:
            self._draft.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._waiting:
            try:
                self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._writer.schema))
            except OSError as exc:
                raise disk_error(str(self._path.parent), exc) from exc
            self._waiting = []


def read_rows(path: Path, first: int, count: int) -> tuple[list[dict[str, Any]], int]:
    """`count` rows of a result from number `first` on, and how many it has. Reads the groups they lie in."""
    with pq.ParquetFile(path) as file:
        groups, start, rows = [], 0, file.metadata.num_rows
        for number in range(file.num_row_groups):
            end = start + file.metadata.row_group(number).num_rows
            if start < first + count and end > first:
                groups.append((number, start))
            start = end
        if not groups:
            return [], rows
        table = file.read_row_groups([number for number, _ in groups])
        return table.slice(first - groups[0][1], count).to_pylist(), rows


def given_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the result keeps of a manifest's row."""
    return {name: row[name] for name in KEPT} | {f"given_{name}": row[name] for name in GIVEN}


def point_of(row: Mapping[str, Any]) -> bytes | None:
    """The best position that is known: smoothed, else the image's own; WKB."""
    for prefix in ("smoothed_", ""):
        if row.get(f"{prefix}longitude") is not None:
            wkb: bytes = shapely.to_wkb(shapely.Point(row[f"{prefix}longitude"], row[f"{prefix}latitude"]))
            return wkb
    return None
