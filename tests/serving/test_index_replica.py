"""The replica that owns the store: what jobs do to it and what admins order come one after the other."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import shapely

from serving.errors import LiveChanged
from serving.regions import Promotion
from serving.replicas import IndexReplica
from serving.tracing import TraceSettings
from spatial_index.records import GenerationInfo, GenerationSpec

AREA = shapely.box(7.0, 46.0, 7.1, 46.1)


def build(name: str) -> GenerationInfo:
    spec = GenerationSpec(region="r", generation=name, model_digest="m", dim=2, zoom=20, side_m=70.0)
    return GenerationInfo(
        spec=spec,
        patches=1,
        live=name == "a",
        previous=False,
        complete=True,
        coverage=AREA,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        imagery_from=None,
        imagery_to=None,
    )


class SlowStore:
    """Builds a, b, c of one region; whoever looks which is live waits for `go`."""

    def __init__(self) -> None:
        self.looked, self.go = threading.Event(), threading.Event()
        self._live = "a"

    def regions(self) -> list:
        return []

    def warm_up(self) -> None: ...

    def search(self, request) -> None: ...

    def region(self, name: str) -> str:
        return self._live

    def generations(self, region: str) -> list[GenerationInfo]:
        found = [replace(build(name), live=name == self._live) for name in "abc"]
        self.looked.set()
        assert self.go.wait(10.0)
        return found

    def promote(self, region: str, generation: str, *, coverage) -> None:
        self._live = generation


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


def test_a_job_promotes_before_or_after_an_admins_change_never_within(store):
    async def run() -> str:
        replica = IndexReplica(lambda: store, traces=TraceSettings(), shadow_share=0.0)
        order = Promotion(region="r", generation="c", expected_live="a")
        admin = asyncio.create_task(replica.change(order, None, b"", "m"))
        await asyncio.to_thread(store.looked.wait, 10.0)  # a is live, the admin's check has seen it
        job = asyncio.create_task(replica.on_store("promote", "r", "b", coverage=AREA))
        await asyncio.sleep(0.2)
        store.go.set()
        await asyncio.gather(admin, job)
        return await admin

    assert asyncio.run(run()) == "c"  # what answered when the admin's change was made
    assert store.region("r") == "b"


def test_an_admin_who_comes_after_a_jobs_promotion_is_told(store):
    store.go.set()

    async def run() -> None:
        replica = IndexReplica(lambda: store, traces=TraceSettings(), shadow_share=0.0)
        await replica.on_store("promote", "r", "b", coverage=AREA)
        await replica.change(Promotion(region="r", generation="c", expected_live="a"), None, b"", "m")

    with pytest.raises(LiveChanged):
        asyncio.run(run())
