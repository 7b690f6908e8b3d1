"""The embedded store: regions in a folder, searched by Qdrant's own engine inside this process.

One process owns the folder. One lock guards every call: the engine spreads a search over its own threads, so
concurrent callers gain nothing from running side by side, and no shard is ever dropped under a search.

What is damaged is found when it is asked for, so that the store opens, the other regions answer, and the
damaged one can be dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from shapely.geometry.base import BaseGeometry

from spatial_index.errors import (
    DamagedStore,
    EmptyGeneration,
    GenerationExists,
    GenerationFrozen,
    GenerationLive,
    StoreUnavailable,
    UnknownGeneration,
)
from spatial_index.files import disk_error
from spatial_index.folder import StoreFolder
from spatial_index.live import LiveRegions, Rosters, list_generations, previous_of, rollback_target
from spatial_index.meta import GenerationMeta, Release
from spatial_index.planner import Profile
from spatial_index.profile import Planning
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
from spatial_index.selection import Spot
from spatial_index.shard import PageStart, Shard
from spatial_index.shards import Shards
from spatial_index.store import SearchRequest, SearchResult


class EmbeddedStore:
    """A `Store` in a folder. See `spatial_index.store.Store` for what each call does and raises."""

    def __init__(self, directory: Path, *, create: bool = False, planning: Planning | None = None) -> None:
        self._lock = threading.RLock()
        self._place = str(directory)
        self._folder: StoreFolder | None = StoreFolder(directory, create=create)
        self._shards = Shards(self._folder, planning or Planning())
        self._router = Router()
        self._rosters = Rosters()
        try:
            with self._open() as folder:
                self._live = _read_live(folder)
        except BaseException:
            self.close()
            raise

    def create_generation(self, spec: GenerationSpec) -> None:
        with self._open() as folder:
            meta = folder.read_meta(spec.region, spec.generation)
            if meta is not None:
                _resume(folder, meta, spec)
                return
            self._shards.close(spec.region, spec.generation)
            self._shards.create(spec)
            folder.write_meta(GenerationMeta.new(spec))

    def write(self, region: str, generation: str, records: Sequence[PatchRecord]) -> None:
        with self._open() as folder:
            meta = _existing(folder, region, generation)
            if meta.release:
                raise GenerationFrozen(region, generation)
            vectors = check_records(records, meta.spec)
            self._shards.get(meta).write(records, vectors)

    def count(self, region: str, generation: str) -> int:
        with self._open() as folder:
            return self._shards.get(_existing(folder, region, generation)).size()

    def read(self, region: str, generation: str) -> Iterator[list[PatchRecord]]:
        offset: PageStart = None
        while True:
            with self._open() as folder:  # other threads go on between two pages
                page, offset = self._shards.get(_existing(folder, region, generation)).page(offset)
            yield page
            if offset is None:
                return

    def promote(self, region: str, generation: str, *, coverage: BaseGeometry) -> None:
        check_coverage(coverage)
        with self._open() as folder:
            meta = _existing(folder, region, generation)
            if not self._shards.get(meta).size():
                raise EmptyGeneration(region, generation)
            previous = previous_of(meta, folder.live(region))
            shard, profile = self._shards.settle(meta)
            folder.write_meta(meta.released(_release(shard, coverage, previous, profile)))
            folder.point(region, generation)
            self._live = _read_live(folder)

    def rollback(self, region: str) -> RegionInfo:
        with self._open() as folder:
            live = self._live.one(check_name("region", region))
            former = rollback_target(live, lambda name: folder.read_meta(region, name))
            self._shards.get(former)  # it is what was promoted, or nothing changes
            folder.point(region, former.spec.generation)
            self._live = _read_live(folder)
            return former.region_info()

    def drop_generation(self, region: str, generation: str) -> None:
        with self._open() as folder:
            check_name("region", region)
            check_name("generation", generation)
            if folder.live(region) == generation:
                raise GenerationLive(region, generation)
            self._shards.close(region, generation)
            folder.remove(region, generation)

    def drop_region(self, region: str) -> None:
        with self._open() as folder:
            check_name("region", region)
            self._shards.close(region)
            folder.remove_region(region)
            self._live = _read_live(folder)

    def generations(self, region: str) -> list[GenerationInfo]:
        with self._open() as folder:
            check_name("region", region)
            metas = [_existing(folder, region, name) for name in folder.generations(region)]
            return list_generations(metas, folder.live(region), self._patches)

    def regions(self) -> list[RegionInfo]:
        with self._open():
            return [meta.region_info() for meta in self._live.chosen()]

    def region(self, name: str) -> RegionInfo:
        with self._open():
            return self._live.one(name).region_info()

    def search(self, request: SearchRequest) -> SearchResult:
        with self._open():
            live = [self._live_collection(meta) for meta in self._live.searchable(request.regions)]
            return run_search(request, live, self._router)

    def warm_up(self) -> None:
        with self._open():
            live = self._live.chosen()
        self._rosters.keep(meta.spec.region for meta in live)
        for meta in live:
            self._rosters.read(meta, partial(self._spots, meta))

    def probe(self, region: str, generation: str, vectors: Vectors, limit: int) -> list[list[PatchHit]]:
        with self._open() as folder:
            return run_probe(self._shards.get(_existing(folder, region, generation)), vectors, limit)

    def close(self) -> None:
        with self._lock:
            try:
                self._shards.close()
            finally:
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
            try:
                yield self._folder
            except OSError as exc:
                raise disk_error(self._place, exc) from exc

    def _spots(self, meta: GenerationMeta) -> Iterator[list[Spot]]:
        """All patches of a generation."""
        offset: PageStart = None
        while True:
            with self._open():  # searches go on between two pages
                page, offset = self._shards.get(meta).spots(None, offset)
            yield page
            if offset is None:
                return

    def _live_collection(self, meta: GenerationMeta) -> Collection:
        return Collection(
            info=meta.region_info(),
            open=partial(self._shards.get, meta),
            profile=meta.release.profile if meta.release else None,
            roster=partial(self._rosters.of, meta),
        )

    def _patches(self, meta: GenerationMeta) -> int:
        return meta.release.patches if meta.release else self._shards.get(meta).size()


def _read_live(folder: StoreFolder) -> LiveRegions:
    metas: dict[str, GenerationMeta] = {}
    damaged: dict[str, DamagedStore] = {}
    for region in folder.regions():
        try:
            meta = folder.live_meta(region)
        except DamagedStore as error:
            damaged[region] = error
        else:
            metas |= {region: meta} if meta else {}
    return LiveRegions(metas=metas, damaged=damaged)


def _resume(folder: StoreFolder, meta: GenerationMeta, spec: GenerationSpec) -> None:
    if meta.spec != spec:
        raise GenerationExists(spec.region, spec.generation, f"with {meta.spec}")
    if folder.live(spec.region) == spec.generation:
        raise GenerationExists(spec.region, spec.generation, "it is live")
    if meta.release:
        folder.write_meta(meta.reopened())


def _existing(folder: StoreFolder, region: str, generation: str) -> GenerationMeta:
    check_name("region", region)
    check_name("generation", generation)
    meta = folder.read_meta(region, generation)
    if meta is None:
        raise UnknownGeneration(region, generation)
    return meta


def _release(shard: Shard, coverage: BaseGeometry, previous: str | None, profile: Profile | None) -> Release:
    """What the shard holds."""
    earliest, latest = shard.imagery_range()
    return Release(
        patches=shard.size(),
        coverage=coverage,
        imagery_from=earliest,
        imagery_to=latest,
        previous=previous,
        profile=profile,
    )
