"""Who searches in `benchmarks/search.py`: this project's stores, and what one would otherwise take.

Each builds itself in a folder, opens it again in another process, and answers one query at a time with rows
of the world. Rivals are used as their documentation's first pages do, and given the exact shape wherever
they can take one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyproj
import shapely
from mercantile import LngLat
from search_world import DIM, FIRST_DAY, HITS, Ask, Vectors, World
from shapely.geometry import MultiPoint, Polygon, box
from shapely.ops import transform

from spatial_index.priors import AllOf, CirclePrior, CorridorPrior, PolygonPrior, Prior, TimePrior
from spatial_index.records import GenerationSpec, PatchRecord, Storage
from spatial_index.store import SearchRequest, Store, open_store

BATCH = 2_000
MODEL = "benchmark"


class Contender(Protocol):
    """Builds and answers."""

    def build(self, world: World, folder: Path) -> dict[str, float]:
        """`ingest_s` and `build_s`: points in, and ready for queries."""

    def open(self, world: World, folder: Path) -> None: ...

    def ask(self, ask: Ask) -> tuple[Sequence[int], str]:
        """Rows found, best first, and how."""


class Ours:
    """A store of this project."""

    def __init__(self, storage: Storage, url: str | None) -> None:
        self._storage, self._url = storage, url
        self._store: Store | None = None
        self._rows: dict[str, int] = {}

    def build(self, world: World, folder: Path) -> dict[str, float]:
        spec = GenerationSpec(
            region="world", generation=self._storage, model_digest=MODEL, dim=DIM,
            zoom=len(world.quadkeys[0]), side_m=70.0, storage=self._storage,
        )  # fmt: skip
        with open_store(directory=folder / "store", url=self._url, create=True) as store:
            if self._url:
                store.drop_region("world")
            store.create_generation(spec)
            ingest_s = 0.0
            for records in self._batches(world, spec):
                started_s = time.perf_counter()
                store.write(spec.region, spec.generation, records)
                ingest_s += time.perf_counter() - started_s
            started_s = time.perf_counter()
            store.promote(spec.region, spec.generation, coverage=coverage_of(world))
            return {"ingest_s": ingest_s, "build_s": time.perf_counter() - started_s}

    @staticmethod
    def _batches(world: World, spec: GenerationSpec) -> Iterator[list[PatchRecord]]:
        for first in range(0, len(world), BATCH):
            yield [
                PatchRecord(
                    location=LngLat(float(world.lng[row]), float(world.lat[row])),
                    quadkey=world.quadkeys[row], region=spec.region, generation=spec.generation,
                    side_m=spec.side_m, captured_at=world.captured_at(row), source="sheet.tif",
                    valid_fraction=1.0, vector=world.vectors[row],
                )
                for row in range(first, min(first + BATCH, len(world)))
            ]  # fmt: skip

    def open(self, world: World, folder: Path) -> None:
        self._store = open_store(directory=folder / "store", url=self._url)
        self._store.warm_up()
        self._rows = {key: row for row, key in enumerate(world.quadkeys)}

    def ask(self, ask: Ask) -> tuple[Sequence[int], str]:
        assert self._store is not None
        found = self._store.search(
            SearchRequest(vectors=ask.vector[None], limit=HITS, model_digest=MODEL, prior=ask.prior)
        )
        return [self._rows[hit.quadkey] for hit in found.hits[0]], found.plan


class QdrantDefaults:
    """A Qdrant server as its quick start has it: payload indexes, filter, default search."""

    def __init__(self, url: str) -> None:
        from qdrant_client import QdrantClient

        port = int(url.rpartition(":")[2])
        self._client = QdrantClient(url=url, prefer_grpc=True, grpc_port=port + 1, timeout=600)

    def build(self, world: World, folder: Path) -> dict[str, float]:
        from qdrant_client import models as q

        self._client.delete_collection("naive")
        self._client.create_collection(
            "naive", vectors_config=q.VectorParams(size=DIM, distance=q.Distance.COSINE)
        )
        self._client.create_payload_index("naive", "place", q.PayloadSchemaType.GEO)
        self._client.create_payload_index("naive", "captured_at", q.PayloadSchemaType.DATETIME)
        started_s = time.perf_counter()
        for first in range(0, len(world), BATCH):
            rows = range(first, min(first + BATCH, len(world)))
            self._client.upsert("naive", wait=False, points=q.Batch(
                ids=list(rows),
                vectors=world.vectors[first : first + BATCH].tolist(),
                payloads=[
                    {"place": {"lon": float(world.lng[row]), "lat": float(world.lat[row])},
                     "captured_at": world.captured_at(row).isoformat()}
                    for row in rows
                ],
            ))  # fmt: skip
        ingest_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        while not self._is_ready(len(world)):
            time.sleep(0.5)
        return {"ingest_s": ingest_s, "build_s": time.perf_counter() - started_s}

    def _is_ready(self, points: int) -> bool:
        info = self._client.get_collection("naive")
        return info.points_count == points and info.status.value == "green"

    def open(self, world: World, folder: Path) -> None:
        pass

    def ask(self, ask: Ask) -> tuple[Sequence[int], str]:
        found = self._client.query_points(
            "naive", query=ask.vector.tolist(), query_filter=qdrant_filter(ask.prior), limit=HITS
        )
        return [int(point.id) for point in found.points], "graph"


def qdrant_filter(prior: Prior | None) -> Any:
    from qdrant_client import models as q

    if prior is None:
        return None
    must: list[Any] = []
    for part in parts_of(prior):
        if isinstance(part, TimePrior):
            must.append(q.FieldCondition(key="captured_at", range=q.DatetimeRange(gte=part.start)))
        elif isinstance(part, CirclePrior):
            centre = q.GeoPoint(lon=part.centre.lng, lat=part.centre.lat)
            must.append(q.FieldCondition(
                key="place", geo_radius=q.GeoRadius(center=centre, radius=part.radius_m)
            ))  # fmt: skip
        else:
            corners = [q.GeoPoint(lon=x, lat=y) for x, y in outline(part).exterior.coords]
            polygon = q.GeoPolygon(exterior=q.GeoLineString(points=corners))
            must.append(q.FieldCondition(key="place", geo_polygon=polygon))
    return q.Filter(must=must)


class TreeAndNumpy:
    """An STRtree says which patches pass; their vectors are compared, all of them."""

    def build(self, world: World, folder: Path) -> dict[str, float]:
        started_s = time.perf_counter()
        np.save(folder / "vectors.npy", world.vectors)
        ingest_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        shapely.STRtree(shapely.points(world.lng, world.lat)).query(box(0, 0, 1, 1))
        return {"ingest_s": ingest_s, "build_s": time.perf_counter() - started_s}

    def open(self, world: World, folder: Path) -> None:
        self._vectors = np.load(folder / "vectors.npy")
        self._places = Places(world)

    def ask(self, ask: Ask) -> tuple[Sequence[int], str]:
        if ask.prior is None:
            return best(np.arange(len(self._vectors)), self._vectors @ ask.vector), "exact"
        rows = self._places.inside(ask.prior)
        return best(rows, self._vectors[rows] @ ask.vector), "exact"


class Faiss:
    """FAISS HNSW, its defaults: over-fetch and filter afterwards, or a selector of the rows that pass."""

    def __init__(self, how: str) -> None:
        self._how = how

    def build(self, world: World, folder: Path) -> dict[str, float]:
        import faiss

        started_s = time.perf_counter()
        index = faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
        index.add(world.vectors)
        build_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        faiss.write_index(index, str(folder / "hnsw.faiss"))
        return {"ingest_s": time.perf_counter() - started_s, "build_s": build_s}

    def open(self, world: World, folder: Path) -> None:
        import faiss

        self._faiss, self._index = faiss, faiss.read_index(str(folder / "hnsw.faiss"))
        self._places = Places(world)

    def ask(self, ask: Ask) -> tuple[Sequence[int], str]:
        search = self._faiss.SearchParametersHNSW
        query = ask.vector[None]
        if ask.prior is None:
            return self._index.search(query, HITS, params=search(efSearch=64))[1][0].tolist(), "graph"
        if self._how == "selector":
            rows = self._places.inside(ask.prior)
            chosen = self._faiss.IDSelectorBatch(rows)
            found = self._index.search(query, HITS, params=search(efSearch=64, sel=chosen))[1][0]
            return [int(row) for row in found if row >= 0], "selector"
        fetched = int(min(10_000, max(64, 2 * HITS / ask.share)))
        found = self._index.search(query, fetched, params=search(efSearch=fetched))[1][0]
        found = found[found >= 0]
        return found[self._places.among(found, ask.prior)][:HITS].tolist(), f"post-filter of {fetched}"


class Lance:
    """LanceDB: IVF-PQ, columns indexed, the shape's bounding box as a pre-filter and the shape afterwards."""

    def build(self, world: World, folder: Path) -> dict[str, float]:
        import lancedb
        import pyarrow as pa

        started_s = time.perf_counter()
        schema = pa.schema({"row": pa.int64(), "vector": pa.list_(pa.float32(), DIM), "lng": pa.float64(),
                            "lat": pa.float64(), "captured_at": pa.timestamp("us")})  # fmt: skip
        table = lancedb.connect(folder / "lance").create_table("patches", schema=schema)
        for first in range(0, len(world), 50 * BATCH):
            rows = range(first, min(first + 50 * BATCH, len(world)))
            part = slice(first, first + 50 * BATCH)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(world.vectors[part].ravel()), DIM)
            days = [world.captured_at(row).replace(tzinfo=None) for row in rows]
            table.add(pa.table(
                [list(rows), vectors, world.lng[part], world.lat[part], days], schema=schema
            ))  # fmt: skip
        ingest_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        table.create_index(metric="cosine", vector_column_name="vector")
        for column in ("lng", "lat", "captured_at"):
            table.create_scalar_index(column)
        return {"ingest_s": ingest_s, "build_s": time.perf_counter() - started_s}

    def open(self, world: World, folder: Path) -> None:
        import lancedb

        self._table = lancedb.connect(folder / "lance").open_table("patches")
        self._places = Places(world)

    def ask(self, ask: Ask) -> tuple[Sequence[int], str]:
        search = self._table.search(ask.vector).distance_type("cosine").select(["row", "_distance"])
        if ask.prior is None:
            return [found["row"] for found in search.limit(HITS).to_list()], "IVF-PQ"
        clauses = []
        for part in parts_of(ask.prior):
            if isinstance(part, TimePrior):
                assert isinstance(part.start, datetime)
                clauses.append(f"captured_at >= timestamp '{part.start:%Y-%m-%d %H:%M:%S}'")
                continue
            west, south, east, north = outline(part).bounds
            clauses.append(f"lng >= {west} AND lng <= {east} AND lat >= {south} AND lat <= {north}")
        rows = search.where(" AND ".join(clauses), prefilter=True).limit(4 * HITS).to_list()
        found = np.array([each["row"] for each in rows], dtype=np.int64)
        return found[self._places.among(found, ask.prior)][:HITS].tolist(), "IVF-PQ"


class Places:
    """What rivals without geometry need beside them: patches by place."""

    def __init__(self, world: World) -> None:
        self._points = shapely.points(world.lng, world.lat)
        self._tree = shapely.STRtree(self._points)
        self._world = world

    def inside(self, prior: Prior) -> np.ndarray:
        """Rows that a prior passes."""
        shape, *times = parts_of(prior)
        rows = self._tree.query(outline(shape), predicate="contains")
        return rows[self._in_time(rows, times)]

    def among(self, rows: np.ndarray, prior: Prior) -> np.ndarray:
        """Which of the rows a prior passes."""
        shape, *times = parts_of(prior)
        inside = shapely.contains_xy(outline(shape), self._world.lng[rows], self._world.lat[rows])
        return np.asarray(inside & self._in_time(rows, times))

    def _in_time(self, rows: np.ndarray, times: Sequence[Prior]) -> np.ndarray:
        passes = np.ones(len(rows), dtype=bool)
        for part in times:
            assert isinstance(part, TimePrior) and part.start is not None
            passes &= self._world.flight[rows] >= (part.start - FIRST_DAY).days // 365
        return passes


def parts_of(prior: Prior) -> tuple[Prior, ...]:
    """The shape, and the time range if there is one."""
    return prior.priors if isinstance(prior, AllOf) else (prior,)


def outline(prior: Prior) -> Polygon:
    """A shape as one polygon in degrees; circles and corridors with 64 corners a quarter."""
    if isinstance(prior, PolygonPrior):
        (polygon,) = getattr(prior.polygon, "geoms", (prior.polygon,))
        return polygon
    if isinstance(prior, CirclePrior):
        middle, shape, metres = prior.centre, None, prior.radius_m
    else:
        assert isinstance(prior, CorridorPrior)
        centre = prior.line.interpolate(0.5, normalized=True)
        middle, shape, metres = LngLat(centre.x, centre.y), prior.line, prior.half_width_m
    crs = f"+proj=aeqd +lat_0={middle.lat} +lon_0={middle.lng} +datum=WGS84"
    flat = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    line = shapely.Point(0, 0) if shape is None else transform(flat.transform, shape)
    back = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    return transform(back.transform, line.buffer(metres, quad_segs=64))


def best(rows: np.ndarray, scores: Vectors) -> list[int]:
    """The HITS rows with the highest scores."""
    if len(rows) > HITS:
        top = np.argpartition(-scores, HITS)[:HITS]
        rows, scores = rows[top], scores[top]
    return rows[np.argsort(-scores)].tolist()


def coverage_of(world: World) -> shapely.MultiPolygon:
    """A box around each city."""
    places = np.column_stack([world.lng, world.lat])
    order = np.argsort(places[:, 0])
    gaps = np.flatnonzero(np.diff(places[order, 0]) > 0.5)
    edges = [0, *(gaps + 1), len(places)]
    boxes = [MultiPoint(places[order[a:b]]).envelope.buffer(0.001) for a, b in pairwise(edges)]
    return shapely.union_all(boxes)


def contender_of(name: str, url: str | None) -> Contender:
    """By the name that the results carry."""
    if name in OURS:
        storage, on_server = OURS[name]
        return Ours(storage, url if on_server else None)
    match name:
        case "Qdrant server, defaults":
            assert url is not None
            return QdrantDefaults(url)
        case "STRtree + numpy":
            return TreeAndNumpy()
        case "FAISS HNSW, post-filter":
            return Faiss("post-filter")
        case "FAISS HNSW, id selector":
            return Faiss("selector")
        case "LanceDB IVF-PQ":
            return Lance()
    raise KeyError(name)


OURS: dict[str, tuple[Storage, bool]] = {
    "embedded, float32": ("float32", False),
    "embedded, float16": ("float16", False),
    "embedded, int8": ("int8", False),
    "server, float32": ("float32", True),
    "server, int8": ("int8", True),
}
RIVALS = (
    "Qdrant server, defaults",
    "FAISS HNSW, post-filter",
    "FAISS HNSW, id selector",
    "LanceDB IVF-PQ",
    "STRtree + numpy",
)


def needs_server(name: str) -> bool:
    return name == RIVALS[0] or OURS.get(name, ("float32", False))[1]


def memory_mb(pid: int | None) -> dict[str, int]:
    """Resident now, and of that what is no file's page."""
    lines = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "rss_mb": int(status["VmRSS"].split()[0]) // 1024,
        "own_mb": int(status["RssAnon"].split()[0]) // 1024,
    }
