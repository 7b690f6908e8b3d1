"""A generation as files that other tools read: GeoParquet 1.1 with a STAC item beside it.

Columns are the patch's own fields; `geometry` is its footprint, `bbox` covers it ("covering" in GeoParquet).
Rows lie in quadkey order, which is a space-filling curve, so that a reader with a box skips most of the file.
The file's metadata hold what all rows share. Knows nothing of stores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from spatial_index.records import GenerationInfo, GenerationSpec, PatchRecord, point_id
from tiling.grid import LngLat, Patch, tile_of
from workers.errors import BadExchangeFile

FORMAT = 1
OURS = b"clnet"
GEO = b"geo"
ROWS_PER_GROUP = 16_384  # 16 MB of 256-d float32 vectors
EDGES = ("xmin", "ymin", "xmax", "ymax")


def schema_of(info: GenerationInfo, *, float16: bool) -> pa.Schema:
    """The columns, with the metadata that make the file GeoParquet and ours."""
    spec = info.spec
    numbers = pa.float16() if float16 else pa.float32()
    columns = [
        ("id", pa.string()),
        ("quadkey", pa.string()),
        ("geometry", pa.binary()),
        ("bbox", pa.struct([(edge, pa.float64()) for edge in EDGES])),
        ("longitude", pa.float64()),
        ("latitude", pa.float64()),
        ("side_m", pa.float64()),
        ("captured_at", pa.timestamp("us", "UTC")),
        ("source", pa.string()),
        ("valid_fraction", pa.float64()),
        ("model_digest", pa.string()),
        ("vector", pa.list_(numbers, spec.dim)),
    ]
    ours = {"format": FORMAT, "spec": asdict(spec), "patches": info.patches}
    return pa.schema(columns, metadata={OURS: json.dumps(ours), GEO: json.dumps(_geo(info.coverage))})


def to_table(
    records: Sequence[PatchRecord],
    vectors: npt.NDArray[np.floating[Any]],
    info: GenerationInfo,
    schema: pa.Schema,
) -> pa.Table:
    """Rows of records in the given order; `vectors` are theirs, (N, D)."""
    spec = info.spec
    footprints = [Patch(tile=tile_of(record.quadkey), side_m=record.side_m).footprint for record in records]
    bounds = shapely.bounds(footprints)  # (N, 4)
    numbers = schema.field("vector").type.value_type
    flat = pa.array(vectors.astype(numbers.to_pandas_dtype(), copy=False).ravel(), numbers)
    columns = {
        "id": [str(point_id(spec.region, spec.generation, each.quadkey, each.side_m)) for each in records],
        "quadkey": [record.quadkey for record in records],
        "geometry": shapely.to_wkb(footprints),
        "bbox": pa.StructArray.from_arrays([pa.array(edge) for edge in bounds.T], names=EDGES),
        "longitude": [record.location.lng for record in records],
        "latitude": [record.location.lat for record in records],
        "side_m": [record.side_m for record in records],
        "captured_at": [record.captured_at for record in records],
        "source": [record.source for record in records],
        "valid_fraction": [record.valid_fraction for record in records],
        "model_digest": [spec.model_digest] * len(records),
        "vector": pa.FixedSizeListArray.from_arrays(flat, spec.dim),
    }
    return pa.Table.from_pydict(columns, schema=schema)


def read_spec(path: Path) -> tuple[GenerationSpec, int]:
    """What the rows of a file belong to, and how many there are.

    Raises:
        BadExchangeFile: not a file that `clnet export` wrote.
    """
    try:
        with pq.ParquetFile(path) as file:
            ours = json.loads((file.schema_arrow.metadata or {})[OURS])
            spec, found = GenerationSpec(**ours["spec"]), file.metadata.num_rows
            if ours["format"] != FORMAT or found != ours["patches"]:
                raise ValueError(f"format {ours['format']}, {found} of {ours['patches']} patches")
            return spec, found
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as exc:
        raise BadExchangeFile(str(path), repr(exc)) from exc


def read_records(path: Path, spec: GenerationSpec) -> Iterator[list[PatchRecord]]:
    """The rows of a file, group by group.

    Raises:
        BadExchangeFile: damaged, or a row's id is not the one that its fields give.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield _to_records(path, file.read_row_group(group), spec)
    except (OSError, KeyError, pa.ArrowException) as exc:
        raise BadExchangeFile(str(path), repr(exc)) from exc


def stac_item(info: GenerationInfo, data: str) -> dict[str, Any]:
    """A STAC 1.0.0 item that describes the file `data` beside it."""
    spec, coverage = info.spec, info.coverage or shapely.Polygon()
    first, last = info.imagery_from, info.imagery_to
    times = {
        "datetime": None if first else info.created_at.isoformat(),
        **(
            {"start_datetime": first.isoformat(), "end_datetime": (last or first).isoformat()}
            if first
            else {}
        ),
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": f"{spec.region}-{spec.generation}",
        "geometry": mapping(coverage),
        "bbox": list(coverage.bounds),
        "properties": times
        | {
            "created": info.created_at.isoformat(),
            "clnet:region": spec.region,
            "clnet:generation": spec.generation,
            "clnet:model_digest": spec.model_digest,
            "clnet:dim": spec.dim,
            "clnet:zoom": spec.zoom,
            "clnet:side_m": spec.side_m,
            "clnet:patches": info.patches,
        },
        "links": [],
        "assets": {
            "patches": {
                "href": f"./{data}",
                "type": "application/vnd.apache.parquet",
                "title": "Patches with their vectors, GeoParquet 1.1",
                "roles": ["data"],
            }
        },
    }


def _geo(coverage: BaseGeometry | None) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "covering": {"bbox": {edge: ["bbox", edge] for edge in EDGES}},
    }
    if coverage is not None:
        column["bbox"] = list(coverage.bounds)
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _to_records(path: Path, rows: pa.Table, spec: GenerationSpec) -> list[PatchRecord]:
    flat = rows.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = flat.astype(np.float32, copy=False).reshape(len(rows), spec.dim)
    columns = ("id", "quadkey", "longitude", "latitude", "side_m", "captured_at", "source", "valid_fraction")
    records = []
    for row, vector in zip(rows.select(columns).to_pylist(), vectors, strict=True):
        if row["id"] != str(point_id(spec.region, spec.generation, row["quadkey"], row["side_m"])):
            raise BadExchangeFile(str(path), f"row {row['id']} is not patch {row['quadkey']} of this region")
        records.append(
            PatchRecord(
                location=LngLat(lng=row["longitude"], lat=row["latitude"]),
                quadkey=row["quadkey"],
                region=spec.region,
                generation=spec.generation,
                side_m=row["side_m"],
                captured_at=row["captured_at"],
                source=row["source"],
                valid_fraction=row["valid_fraction"],
                vector=vector,
            )
        )
    return records
