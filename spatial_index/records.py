"""What the index stores and returns: patches, hits, generations, regions; and the checks before storing.

Knows nothing of Qdrant. The checks exist because the engine accepts anything: a longitude of 500 or a NaN
vector is stored without a word and never found again.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, get_args

import numpy as np
from mercantile import LngLat
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from spatial_index.errors import BadRecord, BadRegionName

# Never change this value: every stored point id depends on it.
POINT_NAMESPACE = uuid.UUID("6f1b7d0e-5a0c-5e0e-9a53-2f6d3c1e8b47")
MAX_NORM_ERROR = 1e-3  # float16 round trips move a unit vector's norm by about 3e-4
NAME_RULE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

Vectors = NDArray[np.float32]

Storage = Literal["float32", "float16", "int8"]
"""How vectors are kept. `int8`: float32 on the disk, and int8 in memory to search first."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PatchRecord:
    """One aerial patch as it is stored."""

    location: LngLat
    """Patch centre, WGS84."""
    quadkey: str
    region: str
    generation: str
    side_m: float
    captured_at: datetime | None
    """When the imagery was taken; a time without a zone is UTC; None when unknown."""
    source: str
    valid_fraction: float
    vector: Vectors
    """(D,), L2-normalised."""


class PatchHit(NamedTuple):
    """One patch found by a search. A tuple, because a search with many headings makes thousands."""

    id: uuid.UUID
    location: LngLat
    quadkey: str
    region: str
    generation: str
    side_m: float
    captured_at: datetime | None
    source: str
    score: float
    """Cosine similarity, -1..1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSpec:
    """One build of a region with one model and one grid.

    Raises:
        BadRegionName: the region or generation name breaks the naming rule.
    """

    region: str
    generation: str
    model_digest: str
    dim: int
    zoom: int
    side_m: float
    storage: Storage = "float32"

    def __post_init__(self) -> None:
        check_name("region", self.region)
        check_name("generation", self.generation)
        if self.storage not in get_args(Storage):
            raise BadRecord("storage", self.storage, ", ".join(get_args(Storage)), "float32 loses nothing")
        if self.dim < 1:
            raise BadRecord("dim", self.dim, "1 or more", "take it from the encoder")
        if not 0 <= self.zoom <= 30:
            raise BadRecord("zoom", self.zoom, "0 to 30", "the default grid uses 20")
        if not (math.isfinite(self.side_m) and self.side_m > 0):
            raise BadRecord("side_m", self.side_m, "greater than 0 metres", "the default grid uses 70")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationInfo:
    """A generation in the store, live or not."""

    spec: GenerationSpec
    patches: int
    complete: bool
    """Promoted at least once, hence frozen."""
    live: bool
    previous: bool
    """What a rollback makes live."""
    created_at: datetime
    coverage: BaseGeometry | None
    """WGS84 (Multi)Polygon; None until promoted, as are the times."""
    imagery_from: datetime | None
    imagery_to: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionInfo:
    """A live region: what answers queries now."""

    name: str
    generation: str
    model_digest: str
    dim: int
    zoom: int
    side_m: float
    patches: int
    coverage: BaseGeometry
    """WGS84 (Multi)Polygon."""
    created_at: datetime
    imagery_from: datetime | None
    imagery_to: datetime | None


def point_id(region: str, generation: str, quadkey: str, side_m: float) -> uuid.UUID:
    """The same patch always gets the same id, so that writing twice is writing once.

    `side_m` is written as Python writes a float (70 and 70.0 give the same id).
    """
    return uuid.uuid5(POINT_NAMESPACE, f"{region}/{generation}/{quadkey}/{float(side_m)}")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can be a folder, a collection and a URL segment alike.

    Raises:
        BadRegionName: it cannot.
    """
    if not isinstance(name, str) or not NAME_RULE.fullmatch(name):
        raise BadRegionName(kind, name)
    return name


def check_records(records: Sequence[PatchRecord], spec: GenerationSpec) -> Vectors:
    """Check a batch against its generation and return its vectors, (N, D).

    Raises:
        BadRecord: the first value that the engine would swallow silently.
    """
    for record in records:
        _check_place(record)
        _check_belongs(record, spec)
    return _check_vectors([record.vector for record in records], spec.dim)


def check_unit_rows(vectors: NDArray[np.floating]) -> str | None:
    """Say what is wrong with the rows of (N, D), or None: they must be finite and of length 1."""
    if not np.isfinite(vectors).all():
        return "not finite"
    norms = np.linalg.norm(vectors, axis=1)  # (N,)
    worst = float(norms[np.argmax(np.abs(norms - 1.0))])
    return None if abs(worst - 1.0) <= MAX_NORM_ERROR else f"of length {worst:.4g}"


def check_coverage(coverage: BaseGeometry) -> BaseGeometry:
    """Return `coverage` if it is a valid, non-empty WGS84 area.

    Raises:
        BadRecord: it is not.
    """
    if not isinstance(coverage, (Polygon, MultiPolygon)) or coverage.is_empty:
        raise BadRecord(
            "coverage", coverage.geom_type, "a non-empty Polygon or MultiPolygon", "union the patch tiles"
        )
    west, south, east, north = coverage.bounds
    if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise BadRecord(
            "coverage",
            coverage.bounds,
            "within ±180 longitude and ±90 latitude",
            "give it in WGS84 (lng, lat)",
        )
    if not coverage.is_valid:
        raise BadRecord("coverage", "invalid", "a valid geometry", "repair it with shapely.make_valid")
    return coverage


def _check_place(record: PatchRecord) -> None:
    lng, lat = record.location
    if not (math.isfinite(lng) and -180 <= lng <= 180):
        raise BadRecord("location.lng", lng, "-180 to 180", "the order is (lng, lat) in WGS84 degrees")
    if not (math.isfinite(lat) and -90 <= lat <= 90):
        raise BadRecord("location.lat", lat, "-90 to 90", "the order is (lng, lat) in WGS84 degrees")
    if not 0.0 <= record.valid_fraction <= 1.0:
        raise BadRecord("valid_fraction", record.valid_fraction, "0 to 1", "divide by the number of pixels")


def _check_belongs(record: PatchRecord, spec: GenerationSpec) -> None:
    if (record.region, record.generation) != (spec.region, spec.generation):
        found, wanted = f"{record.region}/{record.generation}", f"{spec.region}/{spec.generation}"
        raise BadRecord("region/generation", found, repr(wanted), "write each record to its own generation")
    if record.side_m != spec.side_m:
        raise BadRecord(
            "side_m", record.side_m, f"{spec.side_m} as in the generation", "use one grid per generation"
        )
    if len(record.quadkey) != spec.zoom or record.quadkey.strip("0123"):
        raise BadRecord(
            "quadkey", record.quadkey, f"{spec.zoom} digits of 0 to 3", "use one grid per generation"
        )


def _check_vectors(rows: Sequence[Vectors], dim: int) -> Vectors:
    for row in rows:
        if np.shape(row) != (dim,):
            raise BadRecord("vector shape", np.shape(row), f"({dim},)", "embed with the generation's model")
    vectors = np.asarray(rows, dtype=np.float32).reshape(len(rows), dim)  # (N, D)
    fault = check_unit_rows(vectors) if len(rows) else None
    if fault:
        raise BadRecord("vector", fault, "finite and of length 1", "store the encoder's output unchanged")
    return vectors
