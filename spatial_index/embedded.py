"""The embedded store: regions in a folder, searched by Qdrant's own engine inside this process.

One process owns the folder. One lock guards every call: the engine spreads a search over its own threads, so
concurrent callers gain nothing from running side by side, and no shard is ever dropped under a search.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shapely.geometry.base import BaseGeometry

from spatial_index.errors import (
    DamagedStore,
    EmptyGeneration,
    GenerationExists,
    GenerationFrozen,
    GenerationLive,
    StoreUnavailable,
    UnknownGeneration,
    UnknownRegion,
)
from spatial_index.folder import StoreFolder
from spatial_index.meta import GenerationMeta, Release
from spatial_index.records import (
    GenerationInfo,
    GenerationSpec,
    PatchHit,
    PatchRecord,
    RegionInfo,
    Vectors,
    check_coverage,
    check_name,
    check_records,
)
from spatial_index.routing import Router
from spatial_index.search import Collection, run_probe, run_search
from spatial_index.shard import Shard
from spatial_index.store import SearchRequest, SearchResult


class EmbeddedStore:
    """A `Store` in a folder. See `spatial_index.store.Store` for what each call does and raises."""

    def __init__(self, directory: Path, *, create: bool = False) -> None:
        self._lock = threading.RLock()
        self._folder: StoreFolder | None = StoreFolder(directory, create=create)
        self._place = str(directory)
        self._shards: dict[tuple[str, str], Shard] = {}
        self._router = Router()
        try:
            self._live = self._read_live(self._folder)
        except DamagedStore:
            self.close()
            raise

    def create_generation(self, spec: GenerationSpec) -> None:
        with self._open() as folder:
            meta = folder.read_meta(spec.region, spec.generation)
            if meta is not None:
                self._resume(folder, meta, spec)
                return
            folder.clear(spec.region, spec.generation)
            path = folder.shard(spec.region, spec.generation)
            self._shards[spec.region, spec.generation] = Shard.create(path, spec.dim)
            folder.write_meta(GenerationMeta.new(spec))

    def write(self, region: str, generation: str, records: Sequence[PatchRecord]) -> None:
        with self._open() as folder:
            meta = _existing(folder, region, generation)
            if meta.release:
                raise GenerationFrozen(region, generation)
            vectors = check_records(records, meta.spec)
            self._shard(folder, region, generation).write(records, vectors)

    def count(self, region: str, generation: str) -> int:
        with self._open() as folder:
            _existing(folder, region, generation)
            return self._shard(folder, region, generation).size()

    def promote(self, region: str, generation: str, *, coverage: BaseGeometry) -> None:
        check_coverage(coverage)
        with self._open() as folder:
            meta = _existing(folder, region, generation)
            shard = self._shard(folder, region, generation)
            released = meta.released(_release(shard, meta.spec, coverage))
            folder.write_meta(released)
            folder.point(region, generation)
            self._live[region] = released

    def drop_generation(self, region: str, generation: str) -> None:
        with self._open() as folder:
            check_name("region", region)
            check_name("generation", generation)
            if folder.live(region) == generation:
                raise GenerationLive(region, generation)
            self._close_shards(lambda key: key == (region, generation))
            folder.remove(region, generation)

    def drop_region(self, region: str) -> None:
        with self._open() as folder:
            check_name("region", region)
            self._live.pop(region, None)
            self._close_shards(lambda key: key[0] == region)
            folder.remove_region(region)

    def generations(self, region: str) -> list[GenerationInfo]:
        with self._open() as folder:
            check_name("region", region)
            live = folder.live(region)
            names = folder.generations(region)
            return [self._generation_info(folder, region, name, live=name == live) for name in names]

    def regions(self) -> list[RegionInfo]:
        with self._open():
            return [self._live[name].region_info() for name in sorted(self._live)]

    def region(self, name: str) -> RegionInfo:
        with self._open():
            return self._live_meta(name).region_info()

    def search(self, request: SearchRequest) -> SearchResult:
        with self._open() as folder:
            live = [self._collection(folder, meta) for meta in self._live.values()]
            return run_search(request, live, self._router)

    def probe(self, region: str, generation: str, vectors: Vectors, limit: int) -> list[list[PatchHit]]:
        with self._open() as folder:
            _existing(folder, region, generation)
            return run_probe(self._shard(folder, region, generation), vectors, limit)

    def close(self) -> None:
        with self._lock:
            self._close_shards(lambda key: True)
            if self._folder:
                self._folder.release()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _open(self) -> Iterator[StoreFolder]:
        with self._lock:
            if self._folder is None:
                raise StoreUnavailable(self._place, "it was closed", "open it again")
            yield self._folder

    def _read_live(self, folder: StoreFolder) -> dict[str, GenerationMeta]:
        pointers = [(region, folder.live(region)) for region in folder.regions()]
        return {region: _live_meta(folder, region, live) for region, live in pointers if live is not None}

    def _live_meta(self, name: str) -> GenerationMeta:
        if name not in self._live:
            raise UnknownRegion(name, sorted(self._live))
        return self._live[name]

    def _collection(self, folder: StoreFolder, meta: GenerationMeta) -> Collection:
        points = partial(self._shard, folder, meta.spec.region, meta.spec.generation)
        return Collection(info=meta.region_info(), open=points)

    def _shard(self, folder: StoreFolder, region: str, generation: str) -> Shard:
        """The generation's shard, loaded on first use and checked against its release."""
        key = (region, generation)
        if key not in self._shards:
            shard = Shard.load(folder.shard(region, generation))
            meta = _existing(folder, region, generation)
            if meta.release and shard.size() != meta.release.patches:
                found = shard.size()
                shard.close()
                reason = f"{found} patches, {meta.release.patches} were promoted"
                raise DamagedStore(str(folder.shard(region, generation)), reason)
            self._shards[key] = shard
        return self._shards[key]

    def _resume(self, folder: StoreFolder, meta: GenerationMeta, spec: GenerationSpec) -> None:
        if meta.spec != spec:
            raise GenerationExists(spec.region, spec.generation, f"with {meta.spec}")
        if folder.live(spec.region) == spec.generation:
            raise GenerationExists(spec.region, spec.generation, "it is live")
        if meta.release:
            folder.write_meta(meta.reopened())

    def _generation_info(self, folder: StoreFolder, region: str, name: str, *, live: bool) -> GenerationInfo:
        meta = _existing(folder, region, name)
        patches = meta.release.patches if meta.release else self._shard(folder, region, name).size()
        return meta.generation_info(patches=patches, live=live)

    def _close_shards(self, which: Callable[[Any], bool]) -> None:
        for key in [key for key in self._shards if which(key)]:
            self._shards.pop(key).close()


def _existing(folder: StoreFolder, region: str, generation: str) -> GenerationMeta:
    check_name("region", region)
    check_name("generation", generation)
    meta = folder.read_meta(region, generation)
    if meta is None:
        raise UnknownGeneration(region, generation)
    return meta


def _live_meta(folder: StoreFolder, region: str, generation: str) -> GenerationMeta:
    meta = folder.read_meta(region, generation)
    if meta is None or meta.release is None:
        path = str(folder.root / "regions" / region)
        raise DamagedStore(
            path, f"the live pointer names generation {generation!r}, which is missing or unfinished"
        )
    return meta


def _release(shard: Shard, spec: GenerationSpec, coverage: BaseGeometry) -> Release:
    """Bring the shard to the disk and note what it holds."""
    shard.flush()
    patches = shard.size()
    if not patches:
        raise EmptyGeneration(spec.region, spec.generation)
    earliest, latest = shard.imagery_range()
    return Release(patches=patches, coverage=coverage, imagery_from=earliest, imagery_to=latest)
