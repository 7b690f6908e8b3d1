"""One generation on a Qdrant server: our values in, our values out. The server's counterpart of `shard`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import numpy as np
from qdrant_client import models
from shapely.geometry import Polygon

from spatial_index.errors import StoreUnavailable
from spatial_index.meta import GenerationMeta
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
)
from spatial_index.planner import FULL_SCAN_KB, GRAPH_EFFORT, GRAPH_LINKS, Method
from spatial_index.profile import PointSample
from spatial_index.records import GenerationSpec, PatchHit, PatchRecord, Vectors, point_id
from spatial_index.remote import Remote
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

SCROLL_PAGE = 5_000
SETTLE_POLL_S = 0.2
READ_PAGE = 1_000  # with vectors: 2 MB of 384-d ones
PageStart = Any  # an id of whichever protocol the client speaks
_PAYLOAD_BYTES = 600  # one point's payload and id on the wire, with a long source name
_INDEXES = {
    LOCATION: models.PayloadSchemaType.GEO,
    CAPTURED_AT: models.PayloadSchemaType.DATETIME,
    CELLS: models.PayloadSchemaType.KEYWORD,
}


class RemoteCollection:
    """A collection on the server, by its own name (never by an alias, which may move between two calls)."""

    def __init__(self, remote: Remote, name: str) -> None:
        self._remote = remote
        self._name = name

    def create(self, meta: GenerationMeta) -> None:
        """Make the collection. Strict mode: a filter on a field without an index is refused, not slow."""
        settings = self._remote.settings
        self._remote.call(
            self._remote.client.create_collection,
            self._name,
            vectors_config=_vectors(meta.spec),
            hnsw_config=models.HnswConfigDiff(m=0),  # whether it gets a graph is seen when it is full
            strict_mode_config=models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False),
            shard_number=settings.shard_number,
            replication_factor=settings.replication_factor,
            write_consistency_factor=settings.write_consistency_factor,
            metadata=meta.to_json(),
        )

    def create_indexes(self) -> None:
        """Make the payload indexes; done before loading, harmless when they exist."""
        for field, schema in _INDEXES.items():
            self._remote.call(
                self._remote.client.create_payload_index, self._name, field_name=field, field_schema=schema
            )

    def write(self, records: Sequence[PatchRecord], vectors: Vectors) -> None:
        """Insert or replace points, acknowledged batch by batch; `vectors` are the records' own, (N, D)."""
        per_call = max(1, self._remote.settings.batch_bytes // (vectors.shape[1] * 4 + _PAYLOAD_BYTES))
        for start in range(0, len(records), per_call):
            batch = slice(start, start + per_call)
            points = [
                models.PointStruct(
                    id=str(point_id(record.region, record.generation, record.quadkey, record.side_m)),
                    vector=row,
                    payload=to_payload(record),
                )
                for record, row in zip(records[batch], vectors[batch].tolist(), strict=True)
            ]
            self._remote.call(self._remote.client.upsert, self._name, points, wait=True)

    def size(self) -> int:
        """Exact number of points."""
        return self._remote.call(self._remote.client.count, self._name, exact=True).count

    def page(self, offset: PageStart) -> tuple[list[PatchRecord], PageStart]:
        """Records with vectors from an offset on (None: the first), and the next offset; None at the end."""
        points, following = self._remote.call(
            self._remote.client.scroll,
            self._name,
            limit=READ_PAGE,
            offset=offset,
            with_payload=True,
            with_vectors=True,
        )
        return [
            to_record(point.payload or {}, cast(list[float], point.vector)) for point in points
        ], following

    def imagery_range(self) -> tuple[datetime | None, datetime | None]:
        """Earliest and latest capture time among the points that have one."""
        return self._first_capture(models.Direction.ASC), self._first_capture(models.Direction.DESC)

    def between(self, selection: Selection) -> Iterator[Spot]:
        """Points that pass the selection's `outer` and not its `inner`."""
        inner = None if selection.inner == NOTHING else [_condition(selection.inner)]
        condition = models.Filter(must=[_condition(selection.outer)], must_not=inner)
        return (spot for page in self._spots(condition) for spot in page)

    def all_spots(self) -> Iterator[list[Spot]]:
        """All points."""
        return self._spots(None)

    def _spots(self, condition: models.Filter | None) -> Iterator[list[Spot]]:
        offset = None
        while True:
            page, offset = self._remote.call(
                self._remote.client.scroll,
                self._name,
                scroll_filter=condition,
                limit=SCROLL_PAGE,
                offset=offset,
                with_payload=SPOT_FIELDS,
            )
            yield [to_spot(uuid.UUID(str(point.id)), point.payload or {}) for point in page]
            if offset is None:
                return

    def count(self, candidates: Candidates) -> int:
        """Exact number of candidates."""
        client = self._remote.client
        return self._remote.call(client.count, self._name, count_filter=_filter(candidates), exact=True).count

    def nearest(
        self, vectors: Vectors, limit: int, candidates: Candidates, method: Method
    ) -> list[list[PatchHit]]:
        """The best `limit` candidates for each of (Q, D) vectors, in one call."""
        condition = _filter(candidates)
        requests = [
            models.QueryRequest(
                query=row,
                filter=condition,
                limit=limit,
                params=_params(method, limit),
                with_payload=HIT_FIELDS,
            )
            for row in vectors.tolist()
        ]
        found = self._remote.call(self._remote.client.query_batch_points, self._name, requests)
        return [
            [to_hit(uuid.UUID(str(hit.id)), hit.score, hit.payload or {}) for hit in answer.points]
            for answer in found
        ]

    def sample(self, count: int) -> PointSample:
        """Up to `count` points; ids are hashes, so the first by id are as good as drawn."""
        page, _ = self._remote.call(
            self._remote.client.scroll,
            self._name,
            limit=count,
            with_payload=SPOT_FIELDS,
            with_vectors=True,
        )
        return PointSample(
            vectors=np.array([point.vector for point in page], dtype=np.float32),
            locations=tuple(to_spot(uuid.UUID(str(p.id)), p.payload or {}).location for p in page),
        )

    def with_graph(self) -> RemoteCollection:
        """The same collection, when the server has linked its points into a graph."""
        self._remote.call(
            self._remote.client.update_collection,
            self._name,
            hnsw_config=models.HnswConfigDiff(
                m=GRAPH_LINKS, ef_construct=GRAPH_EFFORT, full_scan_threshold=FULL_SCAN_KB
            ),
        )
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until the server has nothing left to optimise.

        Raises:
            StoreUnavailable: it has not come to rest within `settle_s`.
        """
        deadline_s = time.monotonic() + self._remote.settings.settle_s
        while self._remote.call(self._remote.client.get_collection, self._name).status != "green":
            if time.monotonic() > deadline_s:
                raise StoreUnavailable(
                    f"{self._remote.place}/collections/{self._name}",
                    f"it has been optimising for {self._remote.settings.settle_s:.0f} s",
                    "see the server's log, and promote again when the collection is green",
                )
            time.sleep(SETTLE_POLL_S)

    def _first_capture(self, direction: models.Direction) -> datetime | None:
        page, _ = self._remote.call(
            self._remote.client.scroll,
            self._name,
            limit=1,
            order_by=models.OrderBy(key=CAPTURED_AT, direction=direction),
            with_payload=[CAPTURED_AT],
        )
        return from_timestamp((page[0].payload or {}).get(CAPTURED_AT)) if page else None


def _vectors(spec: GenerationSpec) -> models.VectorParams:
    int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
    return models.VectorParams(
        size=spec.dim,
        distance=models.Distance.DOT,
        datatype=models.Datatype.FLOAT16 if spec.storage == "float16" else None,
        quantization_config=models.ScalarQuantization(scalar=int8) if spec.storage == "int8" else None,
        on_disk=spec.storage == "int8" or None,
    )


def _params(method: Method, limit: int) -> models.SearchParams:
    rescored = (
        models.QuantizationSearchParams(rescore=True, oversampling=method.oversampling)
        if method.oversampling
        else None
    )
    match method.name:
        case "exact":
            return models.SearchParams(exact=True)
        case "rescored":
            return models.SearchParams(quantization=rescored)
        case "graph":
            return models.SearchParams(hnsw_ef=method.list_length(limit), quantization=rescored)
        case "acorn":
            everywhere = models.AcornSearchParams(enable=True, max_selectivity=1.0)
            ef = method.list_length(limit)
            return models.SearchParams(hnsw_ef=ef, quantization=rescored, acorn=everywhere)
        case _:
            raise ValueError(f"unknown method {method.name!r}")


def _filter(candidates: Candidates) -> models.Filter | None:
    if candidates.everything:
        return None
    excluded: list[models.Condition] = [
        models.HasIdCondition(has_id=[str(point) for point in candidates.excluded])
    ]
    return models.Filter(
        must=[_condition(candidates.condition)], must_not=excluded if candidates.excluded else None
    )


def _condition(condition: Condition) -> models.Condition:
    match condition:
        case Every():
            return models.Filter(must=[_condition(part) for part in condition.parts])
        case Some():  # never of none: that one holds everything here
            assert condition.parts
            return models.Filter(should=[_condition(part) for part in condition.parts])
        case Disc():  # looked up by its boxes; a condition under must_not is only ever checked point by point
            outside = models.Filter(must_not=[_disc(condition)])
            return models.Filter(should=[_polygon(each) for each in condition.boxes], must_not=[outside])
        case Polygon():
            return _polygon(condition)
        case InCells():
            return models.FieldCondition(key=CELLS, match=models.MatchAny(any=list(condition.names)))
        case Captured():
            between = models.DatetimeRange(gte=condition.start, lt=condition.end)
            return models.FieldCondition(key=CAPTURED_AT, range=between)
        case _:
            raise TypeError(f"the engine knows no condition {type(condition).__name__}")


def _disc(disc: Disc) -> models.FieldCondition:
    centre = models.GeoPoint(lon=disc.centre.lng, lat=disc.centre.lat)
    return models.FieldCondition(
        key=LOCATION, geo_radius=models.GeoRadius(center=centre, radius=disc.radius_m)
    )


def _polygon(polygon: Polygon) -> models.FieldCondition:
    holes = [_ring(hole.coords) for hole in polygon.interiors]
    shape = models.GeoPolygon(exterior=_ring(polygon.exterior.coords), interiors=holes or None)
    return models.FieldCondition(key=LOCATION, geo_polygon=shape)


def _ring(coords: Iterable[Sequence[float]]) -> models.GeoLineString:
    return models.GeoLineString(points=[models.GeoPoint(lon=lng, lat=lat) for lng, lat, *_ in coords])
