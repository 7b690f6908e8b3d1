"""What somebody else changed on the server is named, and stops its region alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from spatial_index.errors import DamagedStore
from spatial_index.store import SearchRequest, Store, open_store


def ask(*regions: str) -> SearchRequest:
    return SearchRequest(
        vectors=np.eye(8, dtype=np.float32)[:1], limit=50, model_digest="m1", regions=regions
    )


@pytest.fixture
def store(qdrant_url, make_spec, fill, grid, unit_vectors) -> Iterator[Store]:
    """Two regions on a server: brig, whose live generation is g2 after g1, and oslo."""
    with open_store(directory=Path("unused"), url=qdrant_url) as opened:
        for region in ("brig", "oslo", "suva", "world"):
            opened.drop_region(region)
        fill(opened, make_spec(generation="g1"), grid(10), unit_vectors(10))
        fill(opened, make_spec(generation="g2"), grid(12), unit_vectors(12))
        fill(opened, make_spec("oslo"), grid(5, lng=10.7, lat=59.9), unit_vectors(5))
        yield opened
        opened.drop_region("brig")


@pytest.fixture
def client(qdrant_url) -> Iterator[QdrantClient]:
    """Somebody else."""
    other = QdrantClient(url=qdrant_url, check_compatibility=False)
    yield other
    other.close()


def test_foreign_metadata_stops_its_region_alone(store, client):
    client.update_collection("clnet_brig_g2", metadata={"format": 99})

    for call in (store.regions, lambda: store.region("brig"), lambda: store.rollback("brig")):
        with pytest.raises(DamagedStore, match=r"clnet_brig_g2: format 99.*drop the region"):
            call()
    for request in (ask("brig"), ask()):
        with pytest.raises(DamagedStore):
            store.search(request)
    assert store.search(ask("oslo")).candidates == 5
    assert store.region("oslo").patches == 5

    store.drop_region("brig")
    assert store.search(ask()).candidates == 5


def test_there_is_no_rollback_to_a_generation_that_lost_patches(store, client):
    [first], _ = client.scroll("clnet_brig_g1", limit=1)
    client.delete("clnet_brig_g1", models.PointIdsList(points=[first.id]), wait=True)

    with pytest.raises(DamagedStore, match=r"clnet_brig_g1: 9 patches, 10 were promoted"):
        store.rollback("brig")
    assert store.region("brig").generation == "g2"
    assert store.search(ask("brig")).candidates == 12
