"""Own pairs: a CSV or GeoParquet table of street images, where they were taken, and the aerial images of
the place."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clnet_model.benchmarks.base import QueryKind, Split, check_images, choose
from clnet_model.errors import BadPairs

MANIFEST_TREE = """\
FOLDER
├── manifest.csv or manifest.parquet: street_image, lat, lon, aerial_image and, where known, heading_deg
└── the images, at the paths that the manifest gives relative to itself"""

COLUMNS = ("street_image", "lat", "lon", "aerial_image")
KINDS = tuple(kind.value for kind in QueryKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    number: int  # from 1, the header not counted
    street: Path
    aerial: Path
    lng: float
    lat: float
    heading_deg: float | None


def manifest(path: Path, query_kind: str = "panorama") -> Split:
    """A row says that `aerial_image` is right for `street_image`; a street image may have several rows.

    `lat`, `lon` (degrees, WGS84) is where the street image was taken, `heading_deg` where its centre column
    looks (clockwise from true north). The gallery is every aerial image named, in the order of the table.

    Raises:
        BadPairs: names the row and the column that cannot be used, or the first missing image.
    """
    kind = QueryKind(choose("query_kind", query_kind, KINDS))
    rows = _rows(path)
    first: dict[Path, _Row] = {}
    right: dict[Path, set[int]] = {}
    gallery: dict[Path, int] = {}
    for row in rows:
        _check_same_view(path, first.setdefault(row.street, row), row)
        right.setdefault(row.street, set()).add(gallery.setdefault(row.aerial, len(gallery)))
    check_images([*first, *gallery], tree=MANIFEST_TREE)
    headings = [row.heading_deg for row in first.values() if row.heading_deg is not None]
    common = len(set(headings)) == 1
    return Split(
        name=f"{path.parent.name}/{path.name}",
        queries=tuple(first),
        gallery=tuple(gallery),
        positives=tuple(np.array(sorted(found), np.intp) for found in right.values()),
        query_kind=kind,
        centre_heading_deg=headings[0] if common else None,
        query_lnglat=np.array([(row.lng, row.lat) for row in first.values()]),
        query_heading_deg=np.array(headings) if headings and not common else None,
    )


def _rows(path: Path) -> list[_Row]:
    if not path.is_file():
        raise BadPairs(f"{path} is no file; give the manifest itself. Expected is\n{MANIFEST_TREE}")
    columns, table = _table(path)
    lacking = [column for column in COLUMNS if column not in columns]
    if lacking:
        raise BadPairs(
            f"{path}: column {lacking[0]} is missing (it has {', '.join(columns)}). Orthophotos in place of "
            "aerial images are read from folders as `clnet simulate` writes them. "
            f"Expected is\n{MANIFEST_TREE}"
        )
    if not table:
        raise BadPairs(f"{path} has no rows; give at least one pair")
    rows = [_row(path, number, values) for number, values in enumerate(table, 1)]
    _check_headings(path, rows)
    return rows


def _table(path: Path) -> tuple[Sequence[str], list[dict[str, Any]]]:
    try:
        match path.suffix.lower():
            case ".csv":
                with path.open(newline="", encoding="utf-8-sig") as file:
                    reader = csv.DictReader(file)
                    return reader.fieldnames or (), list(reader)
            case ".parquet" | ".geoparquet":
                return _parquet(path)
            case _:
                raise BadPairs(f"{path} is neither .csv nor .parquet; save the manifest as one of them")
    except (OSError, ValueError, csv.Error) as error:
        raise BadPairs(f"{path} cannot be read as a table ({error}); write it again") from error


def _parquet(path: Path) -> tuple[Sequence[str], list[dict[str, Any]]]:
    import pyarrow.parquet  # noqa: PLC0415  0.3 s that CSV manifests and the benchmarks need not wait

    columns = pyarrow.parquet.read_schema(path).names
    wanted = [column for column in (*COLUMNS, "heading_deg") if column in columns]
    return columns, pyarrow.parquet.read_table(path, columns=wanted).to_pylist()


def _row(path: Path, number: int, values: dict[str, Any]) -> _Row:
    where = f"{path}, row {number}"
    if None in values:  # csv collects what has no column there
        raise BadPairs(f"{where}: more fields than columns; quote values that contain a comma")
    heading = values.get("heading_deg")
    return _Row(
        number=number,
        street=path.parent / _text(where, "street_image", values["street_image"]),
        aerial=path.parent / _text(where, "aerial_image", values["aerial_image"]),
        lng=_number(where, "lon", values["lon"], limit=180.0),
        lat=_number(where, "lat", values["lat"], limit=90.0),
        heading_deg=None if _is_empty(heading) else _number(where, "heading_deg", heading, limit=360.0),
    )


def _is_empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _text(where: str, column: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadPairs(f"{where}, column {column}: {value!r} is no path; give one relative to the manifest")
    return value.strip()


def _number(where: str, column: str, value: Any, *, limit: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= limit:
        raise BadPairs(
            f"{where}, column {column}: {value!r} is no number of degrees between {-limit:g} and {limit:g}"
        )
    return number


def _check_same_view(path: Path, first: _Row, row: _Row) -> None:
    for column, before, now in (
        ("lat", first.lat, row.lat),
        ("lon", first.lng, row.lng),
        ("heading_deg", first.heading_deg, row.heading_deg),
    ):
        if before != now:
            raise BadPairs(
                f"{path}, row {row.number}, column {column}: {now}, but {before} in row {first.number} "
                "for the same street image; give every street image one place and heading"
            )


def _check_headings(path: Path, rows: list[_Row]) -> None:
    without = [row.number for row in rows if row.heading_deg is None]
    if without and len(without) < len(rows):
        raise BadPairs(
            f"{path}, row {without[0]}, column heading_deg: empty, while other rows have one; "
            "fill it in everywhere or leave the column out"
        )
