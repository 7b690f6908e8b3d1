"""Stores to test against, and patches to fill them with.

Those against a real Qdrant server need its binary; see `tests/spatial_index/qdrant_server.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import mercantile
import numpy as np
import pytest
from mercantile import LngLat
from shapely.geometry import box

from spatial_index.records import GenerationSpec, PatchRecord
from spatial_index.store import Store, open_store
from tests.spatial_index.qdrant_server import QdrantServer, free_pair, qdrant_binary, qdrant_servers

REGIONS = ("brig", "oslo", "suva", "world")
NO_QDRANT = "no Qdrant server: set CLNET_TEST_QDRANT to one"
NEEDS_QDRANT = [] if qdrant_binary() else [pytest.mark.skip(reason=NO_QDRANT)]


@pytest.fixture(scope="session")
def make_qdrant() -> Iterator[Callable[..., QdrantServer]]:
    """Makes servers, each in an empty folder; all are stopped and removed afterwards."""
    if qdrant_binary() is None:
        pytest.skip(NO_QDRANT)
    with qdrant_servers() as make:
        yield make


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port that is free now."""
    return free_pair


@pytest.fixture(scope="session")
def qdrant_url(make_qdrant: Callable[..., QdrantServer]) -> str:
    """A real Qdrant server on loopback that all tests share."""
    server = make_qdrant()
    server.start()
    return server.url


@pytest.fixture(scope="session", params=["embedded", pytest.param("server", marks=NEEDS_QDRANT)])
def open_empty(request: pytest.FixtureRequest) -> Callable[..., Store]:
    """Opens an empty store of each kind; the folder is the embedded one's."""
    url = request.getfixturevalue("qdrant_url") if request.param == "server" else None

    def make(folder: Path, *, clean: bool = True) -> Store:
        opened = open_store(directory=folder, url=url, create=True)
        for region in REGIONS if clean else ():
            opened.drop_region(region)
        return opened

    return make


@pytest.fixture
def store(open_empty: Callable[..., Store], tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    with open_empty(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="session")
def unit_vectors() -> Callable[..., np.ndarray]:
    """(N, D) random unit vectors from a seed."""

    def make(count: int, *, dim: int = 8, seed: int = 0) -> np.ndarray:
        rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return make


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., GenerationSpec]:
    """A generation's settings with the defaults of these tests."""

    def make(region: str = "brig", generation: str = "g1", **changes: object) -> GenerationSpec:
        values = {"model_digest": "m1", "dim": 8, "zoom": 10, "side_m": 70.0} | changes
        return GenerationSpec(region=region, generation=generation, **values)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def make_records() -> Callable[..., list[PatchRecord]]:
    """Records at given positions, their quadkeys numbered."""

    def make(
        spec: GenerationSpec,
        places: list[LngLat],
        vectors: np.ndarray,
        *,
        captured_at: datetime | None = None,
    ) -> list[PatchRecord]:
        return [
            PatchRecord(
                location=place,
                quadkey=np.base_repr(index, 4).zfill(spec.zoom),
                region=spec.region,
                generation=spec.generation,
                side_m=spec.side_m,
                captured_at=captured_at,
                source="sheet.tif",
                valid_fraction=1.0,
                vector=vector,
            )
            for index, (place, vector) in enumerate(zip(places, vectors, strict=True))
        ]

    return make


@pytest.fixture(scope="session")
def place_records() -> Callable[[list[PatchRecord], int], list[PatchRecord]]:
    """Gives records the quadkeys of the tiles that they stand in, of a zoom so high that none shares one."""

    def place(records: list[PatchRecord], zoom: int) -> list[PatchRecord]:
        tiles = [mercantile.tile(*record.location, zoom, truncate=True) for record in records]
        assert len(set(tiles)) == len(records)
        return [
            replace(record, quadkey=mercantile.quadkey(tile))
            for record, tile in zip(records, tiles, strict=True)
        ]

    return place


@pytest.fixture(scope="session")
def fill(make_records: Callable[..., list[PatchRecord]]) -> Callable[..., list[PatchRecord]]:
    """Create, write and promote a generation in one go; returns what was written."""

    def make(
        store: Store, spec: GenerationSpec, places: list[LngLat], vectors: np.ndarray
    ) -> list[PatchRecord]:
        records = make_records(spec, places, vectors)
        store.create_generation(spec)
        store.write(spec.region, spec.generation, records)
        store.promote(spec.region, spec.generation, coverage=_around(places))
        return records

    return make


@pytest.fixture(scope="session")
def grid() -> Callable[..., list[LngLat]]:
    """About square rows of positions, 0.0005° apart, around a centre."""

    def make(count: int, *, lng: float = 7.98, lat: float = 46.31) -> list[LngLat]:
        across = int(np.ceil(np.sqrt(count)))
        return [LngLat(lng + (i % across) * 5e-4, lat + (i // across) * 5e-4) for i in range(count)]

    return make


def _around(places: list[LngLat]) -> object:
    lngs, lats = [p.lng for p in places], [p.lat for p in places]
    pad = 0.001
    return box(
        max(min(lngs) - pad, -180),
        max(min(lats) - pad, -90),
        min(max(lngs) + pad, 180),
        min(max(lats) + pad, 90),
    )
