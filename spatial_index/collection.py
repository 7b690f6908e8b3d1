"""One generation on a Qdrant server: our values in, our values out. The server's counterpart of `shard`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

from qdrant_client import models
from shapely.geometry import Polygon

from spatial_index.meta import GenerationMeta
from spatial_index.payload import (
    CAPTURED_AT,
    HIT_FIELDS,
    LOCATION,
    SPOT_FIELDS,
    from_timestamp,
    to_hit,
    to_payload,
    to_record,
    to_spot,
)
from spatial_index.planner import Plan
from spatial_index.records import PatchHit, PatchRecord, Vectors, point_id
from spatial_index.remote import Remote
from spatial_index.selection import (
    NOTHING,
    Candidates,
    Captured,
    Condition,
    Disc,
    Every,
    Selection,
    Some,
    Spot,
)

SCROLL_PAGE = 5_000
READ_PAGE = 1_000  # with vectors: 2 MB of 384-d ones
PageStart = Any  # an id of whichever protocol the client speaks
_PAYLOAD_BYTES = 600  # one point's payload and id on the wire, with a long source name
_INDEXES = {
    LOCATION: models.PayloadSchemaType.GEO,
    CAPTURED_AT: models.PayloadSchemaType.DATETIME,
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
            vectors_config=models.VectorParams(size=meta.spec.dim, distance=models.Distance.DOT),
            hnsw_config=models.HnswConfigDiff(m=0),  # no plan searches the graph: do not spend on building it
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
            yield from (to_spot(uuid.UUID(str(point.id)), point.payload or {}) for point in page)
            if offset is None:
                return

    def count(self, candidates: Candidates) -> int:
        """Exact number of candidates."""
        client = self._remote.client
        return self._remote.call(client.count, self._name, count_filter=_filter(candidates), exact=True).count

    def nearest(
        self, vectors: Vectors, limit: int, candidates: Candidates, plan: Plan
    ) -> list[list[PatchHit]]:
        """The best `limit` candidates for each of (Q, D) vectors, in one call."""
        condition = _filter(candidates)
        requests = [
            models.QueryRequest(
                query=row, filter=condition, limit=limit, params=_params(plan), with_payload=HIT_FIELDS
            )
            for row in vectors.tolist()
        ]
        found = self._remote.call(self._remote.client.query_batch_points, self._name, requests)
        return [
            [to_hit(uuid.UUID(str(hit.id)), hit.score, hit.payload or {}) for hit in answer.points]
            for answer in found
        ]

    def _first_capture(self, direction: models.Direction) -> datetime | None:
        page, _ = self._remote.call(
            self._remote.client.scroll,
            self._name,
            limit=1,
            order_by=models.OrderBy(key=CAPTURED_AT, direction=direction),
            with_payload=[CAPTURED_AT],
        )
        return from_timestamp((page[0].payload or {}).get(CAPTURED_AT)) if page else None


def _params(plan: Plan) -> models.SearchParams:
    match plan.name:
        case "exact":
            return models.SearchParams(exact=True)
        case _:
            raise ValueError(f"unknown plan {plan.name!r}")


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
