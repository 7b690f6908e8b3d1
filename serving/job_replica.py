"""The Ray Serve deployment that carries out long jobs, and the store that they build in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle
from shapely.geometry.base import BaseGeometry

from serving.operations import ImagePage, Operation, Operations, Order
from spatial_index.records import GenerationInfo, GenerationSpec, PatchHit, PatchRecord, RegionInfo, Vectors
from spatial_index.store import SearchRequest, SearchResult

OpenOperations = Callable[[Any], Operations]
"""Given the store to build in; runs inside the replica."""


class JobReplica:
    """Takes orders; one replica, so that jobs run one after the other."""

    def __init__(
        self,
        open_operations: OpenOperations,
        index: DeploymentHandle[Any],
        open_index: Callable[[], Any] | None,
    ) -> None:
        """`open_index` opens a store that several processes may use; None: the index replica owns it."""
        self._operations = open_operations(open_index() if open_index else IndexStore(index))

    async def submit(self, order: Order) -> Operation:
        """See `Operations.submit`."""
        return await asyncio.to_thread(self._operations.submit, order)

    async def get(self, operation_id: str) -> Operation:
        """See `Operations.get`."""
        return await asyncio.to_thread(self._operations.get, operation_id)

    async def list(self) -> list[Operation]:
        """See `Operations.list`."""
        return await asyncio.to_thread(self._operations.list)

    async def cancel(self, operation_id: str) -> None:
        """See `Operations.cancel`."""
        await asyncio.to_thread(self._operations.cancel, operation_id)

    async def images(self, operation_id: str, first: int, count: int) -> ImagePage:
        """See `Operations.images`."""
        return await asyncio.to_thread(self._operations.images, operation_id, first, count)


class IndexStore:
    """A `spatial_index.store.Store` whose owner is the index replica.

    An embedded store has one owner process, and that one answers queries; jobs write through it.
    """

    def __init__(self, index: DeploymentHandle[Any]) -> None:
        self._index = index

    def create_generation(self, spec: GenerationSpec) -> None:
        self._call("create_generation", spec)

    def write(self, region: str, generation: str, records: Sequence[PatchRecord]) -> None:
        self._call("write", region, generation, list(records))

    def count(self, region: str, generation: str) -> int:
        return int(self._call("count", region, generation))

    def read(self, region: str, generation: str) -> Iterator[list[PatchRecord]]:
        pages: Any = self._index.options(stream=True).read.remote(region, generation)
        yield from pages

    def promote(self, region: str, generation: str, *, coverage: BaseGeometry) -> None:
        self._call("promote", region, generation, coverage=coverage)

    def rollback(self, region: str) -> RegionInfo:
        info: RegionInfo = self._call("rollback", region)
        return info

    def drop_generation(self, region: str, generation: str) -> None:
        self._call("drop_generation", region, generation)

    def drop_region(self, region: str) -> None:
        self._call("drop_region", region)

    def generations(self, region: str) -> list[GenerationInfo]:
        found: list[GenerationInfo] = self._call("generations", region)
        return found

    def regions(self) -> list[RegionInfo]:
        found: list[RegionInfo] = self._call("regions")
        return found

    def region(self, name: str) -> RegionInfo:
        info: RegionInfo = self._call("region", name)
        return info

    def search(self, request: SearchRequest) -> SearchResult:
        result: SearchResult = self._call("search", request)
        return result

    def warm_up(self) -> None:
        """The owner does that by itself."""

    def probe(self, region: str, generation: str, vectors: Vectors, limit: int) -> list[list[PatchHit]]:
        found: list[list[PatchHit]] = self._call("probe", region, generation, vectors, limit)
        return found

    def close(self) -> None:
        """The owner closes it."""

    def __enter__(self) -> IndexStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, *args: Any, **named: Any) -> Any:
        try:
            return self._index.on_store.remote(method, *args, **named).result()
        except RayTaskError as error:  # the store's own error inside
            raise error.cause from error
