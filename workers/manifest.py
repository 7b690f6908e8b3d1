"""The operator's table of street images, checked up front and put into the one form that the rest works on.

Parquet, GeoParquet (points), CSV, or a folder of images with EXIF positions. A wrong table is refused as a
whole; wrong rows are reported each by itself and stay in the result with the reason. Knows no images, but for
the EXIF of those in a folder.

| column | meaning |
|---|---|
| `image` | path (beside the manifest, or absolute) or URL (`https://`, `s3://`, `gs://`); required |
| `image_id` | unique name; `image` when left out |
| `latitude`, `longitude` | rough position, WGS84; empty: unknown |
| `accuracy_m` | radius that holds the true position with 95 % probability; 50 when left out |
| `captured_at` | time, UTC where no zone is given |
| `sequence` | vehicle or drive; images of one are smoothed together, by time |
| `heading_deg`, `heading_accuracy_deg` | direction of the centre column, from true north; ± (else 15) |
| `hfov_deg`, `pitch_deg` | of a perspective photo; without `hfov_deg` the image is a panorama |
| `distance_m`, `course_deg` | driven since the image before, and in which direction |
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import shapely

from workers.errors import BadManifest
from workers.exif import position_of

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
CHECKED_AT_ONCE = 50_000
DEFAULT_ACCURACY_M = 50.0
DEFAULT_HEADING_ACCURACY_DEG = 15.0

MOMENT = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("image", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("accuracy_m", pa.float64()),
        pa.field("captured_at", MOMENT),
        pa.field("sequence", pa.string()),
        pa.field("heading_deg", pa.float64()),
        pa.field("heading_accuracy_deg", pa.float64()),
        pa.field("hfov_deg", pa.float64()),
        pa.field("pitch_deg", pa.float64()),
        pa.field("distance_m", pa.float64()),
        pa.field("course_deg", pa.float64()),
        pa.field("fault", pa.string()),
    ]
)
LIMITS: dict[str, tuple[float, float]] = {
    "latitude": (-90.0, 90.0),
    "longitude": (-180.0, 180.0),
    "accuracy_m": (0.1, 1e6),
    "heading_deg": (-360.0, 720.0),
    "heading_accuracy_deg": (0.0, 180.0),
    "hfov_deg": (5.0, 170.0),
    "pitch_deg": (-60.0, 60.0),
    "distance_m": (0.0, 100_000.0),
    "course_deg": (-360.0, 720.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFault:
    """A row that cannot be used."""

    row: int
    """Counted from 1, as the operator's table has it, its header left out."""
    image: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Manifest:
    """A checked table: columns as SCHEMA has them, rows by sequence and time."""

    table: pa.Table
    faults: tuple[RowFault, ...]

    @property
    def digest(self) -> str:
        """Names the content: the same rows in another order or file format are the same manifest."""
        sha = hashlib.sha256()
        for batch in self.table.to_batches(max_chunksize=65_536):
            sha.update(repr(batch.to_pydict()).encode())
        return sha.hexdigest()[:16]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        BadManifest: it cannot be read, lacks a column, or holds values of a wrong type.
    """
    if path.is_dir():
        raw, base = _from_folder(path), path.absolute()
    elif path.is_file():
        raw, base = _from_file(path), path.absolute().parent
    else:
        raise BadManifest(str(path), "does not exist", "give a .parquet or .csv file, or a folder of images")
    if not raw.num_rows:
        raise BadManifest(str(path), "holds no images", "give a table with a row for each image")
    return _checked(_typed(_with_positions(raw, path), path), base)


def sampled(manifest: Manifest, count: int) -> Manifest:
    """At most `count` rows, evenly spread over sequences and times."""
    rows = manifest.table.num_rows
    if rows <= count:
        return manifest
    chosen = [number * rows // count for number in range(count)]
    return Manifest(table=manifest.table.take(chosen), faults=manifest.faults)


def _from_file(path: Path) -> pa.Table:
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".parquet": pq.read_table, ".geoparquet": pq.read_table, ".csv": _from_csv
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise BadManifest(str(path), f"ends in {path.suffix or 'nothing'}", "give .parquet or .csv")
    try:
        return reader(path)
    except (OSError, pa.ArrowException) as exc:
        reason = str(exc).splitlines()[0]
        raise BadManifest(str(path), f"cannot be read ({reason})", "write it again") from exc


def _from_csv(path: Path) -> pa.Table:
    """Only numbers are told by their looks: an `image_id` may be 0001, and times may differ in their form."""
    texts = {field.name: pa.string() for field in SCHEMA if not pa.types.is_floating(field.type)}
    return pacsv.read_csv(
        path, convert_options=pacsv.ConvertOptions(column_types=texts, strings_can_be_null=True)
    )


def _from_folder(folder: Path) -> pa.Table:
    """Images below a folder, with what their EXIF says."""
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    rows = [{"image": str(path.relative_to(folder)), **position_of(path)} for path in images]
    return pa.Table.from_pylist(rows, schema=pa.schema([f for f in SCHEMA if f.name in EXIF_COLUMNS]))


EXIF_COLUMNS = {"image", "latitude", "longitude", "captured_at", "heading_deg", "accuracy_m"}


def _with_positions(raw: pa.Table, path: Path) -> pa.Table:
    """GeoParquet keeps positions as points."""
    if "geometry" not in raw.column_names or "latitude" in raw.column_names:
        return raw
    try:
        points = shapely.from_wkb(raw.column("geometry").to_pylist())
        lngs, lats = shapely.get_x(points), shapely.get_y(points)
    except (shapely.errors.ShapelyError, TypeError) as exc:
        raise BadManifest(str(path), "has a geometry column that is not WKB", "write GeoParquet") from exc
    return raw.append_column("longitude", pa.array(lngs, pa.float64(), from_pandas=True)).append_column(
        "latitude", pa.array(lats, pa.float64(), from_pandas=True)
    )


def _typed(raw: pa.Table, path: Path) -> pa.Table:
    """All columns of SCHEMA, cast; those that are missing are empty."""
    if "image" not in raw.column_names:
        found = ", ".join(raw.column_names)
        raise BadManifest(str(path), f"has no column 'image' (it has {found})", "name the column of paths so")
    if ("latitude" in raw.column_names) != ("longitude" in raw.column_names):
        raise BadManifest(str(path), "has one of latitude and longitude", "give both, or none")
    columns = []
    for field in SCHEMA:
        if field.name == "fault" or field.name not in raw.column_names:
            columns.append(pa.nulls(raw.num_rows, field.type))
            continue
        columns.append(_cast(raw.column(field.name), field, path))
    return pa.table(columns, schema=SCHEMA)


def _cast(column: pa.ChunkedArray, field: pa.Field, path: Path) -> pa.ChunkedArray:
    try:
        if pa.types.is_timestamp(field.type):
            return _moments(column)
        return column.cast(field.type)
    except pa.ArrowException as exc:
        reason = f"has a column {field.name!r} of {column.type} that is no {field.type}"
        raise BadManifest(str(path), reason, "see the columns in docs/fleet.md") from exc


def _moments(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times in whole microseconds; UTC where no zone is given, which each text says for itself.

    Raises:
        pyarrow.ArrowException: a value is no time.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")
        zoned = pc.match_substring_regex(texts, r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$")
        nothing = pa.scalar(None, texts.type)
        given = pc.if_else(zoned, texts, nothing).cast(MOMENT)
        plain = pc.if_else(zoned, nothing, texts).cast(pa.timestamp(MOMENT.unit))
        return pc.coalesce(given, pc.assume_timezone(plain, "UTC"))
    if pa.types.is_timestamp(column.type) and not column.type.tz:
        column = pc.assume_timezone(column, "UTC")
    return column.cast(options=pc.CastOptions(target_type=MOMENT, allow_time_truncate=True))


def _checked(table: pa.Table, base: Path) -> Manifest:
    seen: set[str] = set()
    faults: list[RowFault] = []
    parts = []
    first = 1
    for part in chunks_of(table, CHECKED_AT_ONCE):
        rows = part.to_pylist()
        for number, row in enumerate(rows, start=first):
            row["image_id"] = row["image_id"] or row["image"]
            row["sequence"] = row["sequence"] or None
            row["fault"] = fault_of(row, seen)
            seen.add(row["image_id"] or "")
            if row["fault"]:
                faults.append(RowFault(row=number, image=str(row["image"]), reason=row["fault"]))
            elif "://" not in row["image"]:
                row["image"] = str(base / row["image"])
        parts.append(pa.Table.from_pylist(rows, schema=SCHEMA))
        first += len(rows)
    order = [(name, "ascending", "at_start") for name in ("sequence", "captured_at", "image_id")]
    whole = pa.concat_tables(parts)
    rows_in_order = pc.sort_indices(whole, sort_keys=order)
    return Manifest(table=whole.take(rows_in_order), faults=tuple(faults))


def fault_of(row: dict[str, Any], seen: set[str]) -> str | None:
    """What is wrong with a row; the first thing only."""
    if not row["image"]:
        return "image is empty"
    if row["image_id"] in seen:
        return f"image_id {row['image_id']!r} is there twice"
    if (row["latitude"] is None) != (row["longitude"] is None):
        return "one of latitude and longitude is empty"
    for name, (low, high) in LIMITS.items():
        if row[name] is not None and within_limits(row, name) is None:
            return f"{name} is {row[name]:g}, not within {low:g} to {high:g}"
    if row["sequence"] is not None and row["captured_at"] is None:
        return "captured_at is empty; images of a sequence need their times"
    return None


def within_limits(row: Mapping[str, Any], name: str) -> float | None:
    """A row's value; None where it is empty or cannot be true."""
    value: float | None = row[name]
    low, high = LIMITS[name]
    return value if value is not None and math.isfinite(value) and low <= value <= high else None


def chunks_of(table: pa.Table, size: int) -> Iterator[pa.Table]:
    """Consecutive rows."""
    for first in range(0, table.num_rows, size):
        yield table.slice(first, size)
