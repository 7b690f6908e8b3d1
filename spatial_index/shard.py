"""One generation in the embedded engine (qdrant-edge): our values in, our values out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from shapely.geometry import Polygon

from spatial_index.errors import DamagedStore, SpatialIndexError, StoreFull
from spatial_index.files import check_room
from spatial_index.payload import (
    CAPTURED_AT,
    CELLS,
    HIT_FIELDS,
    LOCATION,
    SPOT_FIELDS,
    from_timestamp,
    to_hit,
    to_payload,
    to_record,
    to_spot,
    to_timestamp,
)
from spatial_index.planner import FULL_SCAN_KB, GRAPH_EFFORT, GRAPH_LINKS, Method
from spatial_index.profile import PointSample
from spatial_index.records import PatchHit, PatchRecord, Storage, Vectors, point_id
from spatial_index.selection import (
    NOTHING,
    Candidates,
    Captured,
    Condition,
    Disc,
    Every,
    InCells,
    Selection,
    Some,
    Spot,
)

WRITE_BATCH = 2_000  # points per engine call: 3 MB of 384-d vectors, 0.1 s under the lock
SCROLL_PAGE = 5_000
READ_PAGE = 1_000  # with vectors: 2 MB of 384-d ones
EMPTY_BYTES = (
    16_000_000  # room for the fixed parts of a shard (0.3 MB, 64 KB more a file) and for other writers
)
PageStart = int | uuid.UUID | str | None
_DISK_FULL = "os error 28"  # ENOSPC, as Rust spells it


class Shard:
    """An open engine shard. After `failed` it must be closed and loaded again."""

    def __init__(self, engine: edge.EdgeShard, path: Path) -> None:
        self._engine = engine
        self._path = path
        self.failed = False

    @classmethod
    def create(cls, path: Path, dim: int, storage: Storage) -> Shard:
        """A new empty shard in an existing empty folder, its payload indexes made before any point."""
        config = _config(dim, storage, graph=False)
        shard = cls(_translated(path, edge.EdgeShard.create, str(path), config), path)
        shard._update(edge.UpdateOperation.create_field_index(LOCATION, edge.GeoIndexParams()))
        shard._update(edge.UpdateOperation.create_field_index(CAPTURED_AT, edge.DatetimeIndexParams()))
        shard._update(edge.UpdateOperation.create_field_index(CELLS, edge.KeywordIndexParams()))
        shard.flush()
        return shard

    @classmethod
    def load(cls, path: Path) -> Shard:
        """An existing shard; its log is replayed.

        Raises:
            DamagedStore: the engine cannot read it.
        """
        return cls(_translated(path, edge.EdgeShard.load, str(path)), path)

    @classmethod
    def load_with_graph(cls, path: Path, dim: int, storage: Storage) -> Shard:
        """An existing shard that links its points into a graph when it is optimised."""
        return cls(_translated(path, edge.EdgeShard.load, str(path), _config(dim, storage, graph=True)), path)

    def optimize(self) -> None:
        """Bring int8 vectors and the graph up to date, as far as the shard has them. Keeps other Python
        threads waiting: 2 s for 100,000 points, with a graph some minutes."""
        self._call(self._engine.optimize)

    def flush(self) -> None:
        """Bring everything to the disk itself; acknowledged points survive a killed process without it."""
        self._call(self._engine.flush)

    def close(self) -> None:
        """Give back memory and files."""
        if not self.failed:
            self._call(self._engine.close)
            return
        with suppress(SpatialIndexError):  # it said already why
            self._call(self._engine.close)

    def write(self, records: Sequence[PatchRecord], vectors: Vectors) -> None:
        """Insert or replace points; `vectors` are the records' own, (N, D).

        Raises:
            StoreFull: no room on the disk for the next batch.
        """
        for start in range(0, len(records), WRITE_BATCH):
            batch = slice(start, start + WRITE_BATCH)
            points = [
                edge.Point(
                    point_id(record.region, record.generation, record.quadkey, record.side_m),
                    row,
                    to_payload(record),
                )
                for record, row in zip(records[batch], vectors[batch].tolist(), strict=True)
            ]
            check_room(self._path, EMPTY_BYTES + _write_bytes(len(points), vectors.shape[1]))
            self._update(edge.UpdateOperation.upsert_points(points))

    def size(self) -> int:
        """Exact number of points."""
        return int(self._call(self._engine.count, edge.CountRequest(exact=True)))

    def page(self, offset: PageStart) -> tuple[list[PatchRecord], PageStart]:
        """Records with vectors from an offset on (None: the first), and the next offset; None at the end."""
        points, following = self._call(
            self._engine.scroll,
            edge.ScrollRequest(limit=READ_PAGE, offset=offset, with_payload=True, with_vector=True),
        )
        return [to_record(point.payload or {}, point.vector) for point in points], following

    def imagery_range(self) -> tuple[datetime | None, datetime | None]:
        """Earliest and latest capture time among the points that have one."""
        return self._first_capture(edge.Direction.Asc), self._first_capture(edge.Direction.Desc)

    def between(self, selection: Selection) -> Iterator[Spot]:
        """Points that pass the selection's `outer` and not its `inner`."""
        inner = None if selection.inner == NOTHING else [_condition(selection.inner)]
        condition = edge.Filter(must=[_condition(selection.outer)], must_not=inner)
        offset: PageStart = None
        while True:
            page, offset = self.spots(condition, offset)
            yield from page
            if offset is None:
                return

    def spots(self, condition: edge.Filter | None, offset: PageStart) -> tuple[list[Spot], PageStart]:
        """Points from an offset on (None: the first), and the next offset; None at the end."""
        page, following = self._call(
            self._engine.scroll,
            edge.ScrollRequest(
                filter=condition,
                limit=SCROLL_PAGE,
                offset=offset,
                with_payload=SPOT_FIELDS,
                with_vector=False,
            ),
        )
        return [to_spot(_uuid(point.id), point.payload or {}) for point in page], following

    def count(self, candidates: Candidates) -> int:
        """Exact number of candidates."""
        return int(self._call(self._engine.count, edge.CountRequest(exact=True, filter=_filter(candidates))))

    def nearest(
        self, vectors: Vectors, limit: int, candidates: Candidates, method: Method
    ) -> list[list[PatchHit]]:
        """The best `limit` candidates for each of (Q, D) vectors; queries share one pass over the filter."""
        condition = _filter(candidates)
        requests = [
            edge.QueryRequest(
                query=edge.Query.Nearest(row), filter=condition, limit=limit,
                params=_params(method, limit),
                with_payload=HIT_FIELDS, with_vector=False,
            )
            for row in vectors.tolist()
        ]  # fmt: skip
        found = self._call(self._engine.query_batch, edge.QueryBatchRequest(requests))
        return [[to_hit(_uuid(hit.id), hit.score, hit.payload or {}) for hit in hits] for hits in found]

    def sample(self, count: int) -> PointSample:
        """Up to `count` points; ids are hashes, so the first by id are as good as drawn."""
        page, _ = self._call(
            self._engine.scroll,
            edge.ScrollRequest(limit=count, with_payload=SPOT_FIELDS, with_vector=True),
        )
        return PointSample(
            vectors=np.array([point.vector for point in page], dtype=np.float32),
            locations=tuple(to_spot(_uuid(point.id), point.payload or {}).location for point in page),
        )

    def _first_capture(self, direction: edge.Direction) -> datetime | None:
        page, _ = self._call(
            self._engine.scroll,
            edge.ScrollRequest(
                limit=1,
                order_by=edge.OrderBy(CAPTURED_AT, direction),
                with_payload=[CAPTURED_AT],
                with_vector=False,
            ),
        )
        return from_timestamp((page[0].payload or {}).get(CAPTURED_AT)) if page else None

    def _update(self, operation: edge.UpdateOperation) -> None:
        self._call(self._engine.update, operation)

    def _call(self, function: Callable[..., Any], *args: object) -> Any:
        try:
            return _translated(self._path, function, *args)
        except SpatialIndexError:
            self.failed = True
            raise


def _translated(path: Path, function: Callable[..., Any], *args: object) -> Any:
    """Call the engine, which raises a bare Exception for everything, and a BaseException when it panics.

    Raises:
        StoreFull: the disk is full.
        DamagedStore: anything else.
    """
    try:
        return function(*args)
    except BaseException as exc:
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        reason = " ".join(str(exc).split())
        if _DISK_FULL in reason:
            raise StoreFull(str(path), reason) from exc
        raise DamagedStore(str(path), f"the engine failed: {reason}") from exc


def flush_bytes(count: int) -> int:
    """Disk room that a flush of `count` points may take; measured: 70 bytes a point."""
    return 200 * count


def _write_bytes(count: int, dim: int) -> int:
    """Disk room that writing `count` points may take, log and later flush included.

    Measured: WRITE_MEASURED.
    """
    return count * (12 * dim + 2_000)


def optimize_bytes(count: int, dim: int) -> int:
    """Disk room that optimising takes: a second copy of everything, int8 vectors and a graph beside it."""
    return count * (5 * dim + 1_000)


def _config(dim: int, storage: Storage, *, graph: bool) -> edge.EdgeConfig:
    datatype = edge.VectorStorageDatatype.Float16 if storage == "float16" else None
    in_memory = edge.ScalarQuantizationConfig(type=edge.ScalarType.Int8, memory=edge.Memory.Pinned)
    vectors = edge.EdgeVectorParams(
        size=dim,
        distance=edge.Distance.Dot,  # vectors arrive normalised
        datatype=datatype,
        quantization_config=in_memory if storage == "int8" else None,
        memory=edge.Memory.Cold if storage == "int8" else None,
        hnsw_config=edge.HnswIndexConfig(
            m=GRAPH_LINKS if graph else 0, ef_construct=GRAPH_EFFORT, full_scan_threshold=FULL_SCAN_KB
        ),
    )
    at_once = edge.EdgeOptimizersConfig(indexing_threshold=1)  # KB: we say when, and then all of it
    return edge.EdgeConfig(vectors=vectors, optimizers=at_once, wal_enabled=True)


def _params(method: Method, limit: int) -> edge.SearchParams:
    rescored = (
        edge.QuantizationSearchParams(rescore=True, oversampling=method.oversampling)
        if method.oversampling
        else None
    )
    match method.name:
        case "exact":
            return edge.SearchParams(exact=True)
        case "rescored":
            return edge.SearchParams(quantization=rescored)
        case "graph":
            return edge.SearchParams(hnsw_ef=method.list_length(limit), quantization=rescored)
        case "acorn":
            everywhere = edge.AcornSearchParams(enable=True, max_selectivity=1.0)
            ef = method.list_length(limit)
            return edge.SearchParams(hnsw_ef=ef, quantization=rescored, acorn=everywhere)
        case _:
            raise ValueError(f"unknown method {method.name!r}")


def _filter(candidates: Candidates) -> edge.Filter | None:
    if candidates.everything:
        return None
    excluded: list[edge.ConditionType] = [edge.HasIdCondition(set(candidates.excluded))]
    return edge.Filter(
        must=[_condition(candidates.condition)], must_not=excluded if candidates.excluded else None
    )


def _condition(condition: Condition) -> edge.ConditionType:
    match condition:
        case Every():
            return edge.Filter(must=[_condition(part) for part in condition.parts])
        case Some():  # never of none: that one holds everything here
            assert condition.parts
            return edge.Filter(should=[_condition(part) for part in condition.parts])
        case Disc():  # looked up by its boxes; a condition under must_not is only ever checked point by point
            outside = edge.Filter(must_not=[_disc(condition)])
            return edge.Filter(should=[_polygon(each) for each in condition.boxes], must_not=[outside])
        case Polygon():
            return _polygon(condition)
        case Captured():
            return _captured(condition)
        case InCells():
            return edge.FieldCondition(CELLS, match=edge.MatchAny(list(condition.names)))
        case _:
            raise TypeError(f"the engine knows no condition {type(condition).__name__}")


def _captured(captured: Captured) -> edge.FieldCondition:
    since = to_timestamp(captured.start) if captured.start else None
    before = to_timestamp(captured.end) if captured.end else None
    return edge.FieldCondition(CAPTURED_AT, range=edge.RangeDateTime(gte=since, lt=before))


def _disc(disc: Disc) -> edge.FieldCondition:
    centre = edge.GeoPoint(disc.centre.lng, disc.centre.lat)
    return edge.FieldCondition(LOCATION, geo_radius=edge.GeoRadius(centre, disc.radius_m))


def _polygon(polygon: Polygon) -> edge.FieldCondition:
    holes = [_ring(hole.coords) for hole in polygon.interiors]
    shape = edge.GeoPolygon(_ring(polygon.exterior.coords), holes or None)
    return edge.FieldCondition(LOCATION, geo_polygon=shape)


def _ring(coords: Iterable[Sequence[float]]) -> list[edge.GeoPoint]:
    return [edge.GeoPoint(lng, lat) for lng, lat, *_ in coords]


def _uuid(point: object) -> uuid.UUID:
    return point if isinstance(point, uuid.UUID) else uuid.UUID(str(point))
