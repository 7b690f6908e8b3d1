"""The server store: regions on a Qdrant server, shared by many processes.

A generation is a collection `clnet_<region>_<generation>` with its meta in the collection's metadata; the
alias `clnet_<region>` points at the live one. Names hold no underscore, so these never collide.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from qdrant_client import models
from shapely.geometry.base import BaseGeometry

from spatial_index.collection import RemoteCollection
from spatial_index.errors import (
    DamagedStore,
    EmptyGeneration,
    GenerationExists,
    GenerationFrozen,
    GenerationLive,
    StoreUnavailable,
    UnknownGeneration,
)
from spatial_index.live import LiveRegions, Rosters, list_generations, previous_of, rollback_target
from spatial_index.meta import GenerationMeta, Release
from spatial_index.profile import Planning, profile_of
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
from spatial_index.remote import NotFound, Remote, ServerSettings
from spatial_index.routing import Router
from spatial_index.search import Collection, run_probe, run_search
from spatial_index.store import SearchRequest, SearchResult

PREFIX = "clnet"


class ServerStore:
    """A `Store` on a Qdrant server. See `spatial_index.store.Store` for what each call does and raises."""

    def __init__(
        self,
        *,
        url: str,
        api_key: str | None = None,
        settings: ServerSettings | None = None,
        planning: Planning | None = None,
    ) -> None:
        self._planning = planning or Planning()
        self._remote: Remote | None = Remote(url, api_key, settings or ServerSettings())
        self._place = self._remote.place
        self._lock = threading.Lock()  # guards the two fields below
        self._live = LiveRegions(metas={}, damaged={})
        self._live_until = 0.0
        self._router = Router()
        self._rosters = Rosters()

    def create_generation(self, spec: GenerationSpec) -> None:
        collection = self._collection(spec.region, spec.generation)
        meta = self._meta(spec.region, spec.generation)
        if meta is None:
            collection.create(GenerationMeta.new(spec))
        elif meta.spec != spec:
            raise GenerationExists(spec.region, spec.generation, f"with {meta.spec}")
        elif self._live_name(spec.region) == spec.generation:
            raise GenerationExists(spec.region, spec.generation, "it is live")
        elif meta.release:
            self._write_meta(meta.reopened())
        collection.create_indexes()

    def write(self, region: str, generation: str, records: Sequence[PatchRecord]) -> None:
        meta = self._existing(region, generation)
        if meta.release:
            raise GenerationFrozen(region, generation)
        vectors = check_records(records, meta.spec)
        self._collection(region, generation).write(records, vectors)

    def count(self, region: str, generation: str) -> int:
        self._existing(region, generation)
        return self._collection(region, generation).size()

    def read(self, region: str, generation: str) -> Iterator[list[PatchRecord]]:
        self._existing(region, generation)
        collection = self._collection(region, generation)
        offset = None
        while True:
            page, offset = collection.page(offset)
            yield page
            if offset is None:
                return

    def promote(self, region: str, generation: str, *, coverage: BaseGeometry) -> None:
        check_coverage(coverage)
        meta = self._existing(region, generation)
        collection = self._collection(region, generation)
        patches = collection.size()
        if not patches:
            raise EmptyGeneration(region, generation)
        collection.settle()
        profile = profile_of(collection, meta.spec.storage, self._planning, with_graph=collection.with_graph)
        earliest, latest = collection.imagery_range()
        release = Release(
            patches=patches,
            coverage=coverage,
            imagery_from=earliest,
            imagery_to=latest,
            previous=previous_of(meta, self._live_name(region)),
            profile=profile,
        )
        self._write_meta(meta.released(release))
        self._point(region, generation)
        self._forget_live()

    def rollback(self, region: str) -> RegionInfo:
        live = self._read_live().one(check_name("region", region))
        former = rollback_target(live, lambda name: self._meta(region, name))
        info = former.region_info()
        found = self._collection(region, info.generation).size()
        if found != info.patches:
            place = f"{self._place}/collections/{_collection_name(region, info.generation)}"
            raise DamagedStore(place, f"{found} patches, {info.patches} were promoted")
        self._point(region, info.generation)
        self._forget_live()
        return info

    def drop_generation(self, region: str, generation: str) -> None:
        name = _collection_name(region, generation)
        if self._live_name(region) == generation:
            raise GenerationLive(region, generation)
        self._delete(name)

    def drop_region(self, region: str) -> None:
        alias = _alias(region)
        if self._live_name(region) is not None:
            gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
            remote = self._open()
            remote.call(remote.client.update_collection_aliases, [gone])
            self._forget_live()
        for generation in self._generation_names(region):
            self._delete(_collection_name(region, generation))

    def generations(self, region: str) -> list[GenerationInfo]:
        check_name("region", region)
        metas = [self._existing(region, name) for name in self._generation_names(region)]
        return list_generations(metas, self._live_name(region), self._patches)

    def regions(self) -> list[RegionInfo]:
        return [meta.region_info() for meta in self._read_live().chosen()]

    def region(self, name: str) -> RegionInfo:
        return self._read_live().one(name).region_info()

    def search(self, request: SearchRequest) -> SearchResult:
        try:
            return self._search(request, self._recent_live())
        except NotFound:  # the generation was dropped since we looked: the alias points at its successor
            return self._search(request, self._read_live())

    def warm_up(self) -> None:
        live = self._read_live().chosen()
        self._rosters.keep(meta.spec.region for meta in live)
        for meta in live:
            collection = self._collection(meta.spec.region, meta.spec.generation)
            with suppress(NotFound):  # dropped since we looked
                self._rosters.read(meta, collection.all_spots)

    def probe(self, region: str, generation: str, vectors: Vectors, limit: int) -> list[list[PatchHit]]:
        self._existing(region, generation)
        return run_probe(self._collection(region, generation), vectors, limit)

    def close(self) -> None:
        if self._remote:
            self._remote.close()
        self._remote = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _search(self, request: SearchRequest, live: LiveRegions) -> SearchResult:
        collections = [self._live_collection(meta) for meta in live.searchable(request.regions)]
        return run_search(request, collections, self._router)

    def _live_collection(self, meta: GenerationMeta) -> Collection:
        points = partial(self._collection, meta.spec.region, meta.spec.generation)
        return Collection(
            info=meta.region_info(),
            open=points,
            profile=meta.release.profile if meta.release else None,
            roster=partial(self._rosters.of, meta),
        )

    def _patches(self, meta: GenerationMeta) -> int:
        return self._collection(meta.spec.region, meta.spec.generation).size()

    def _open(self) -> Remote:
        if self._remote is None:
            raise StoreUnavailable(self._place, "it was closed", "open it again")
        return self._remote

    def _collection(self, region: str, generation: str) -> RemoteCollection:
        return RemoteCollection(self._open(), _collection_name(region, generation))

    def _meta(self, region: str, generation: str) -> GenerationMeta | None:
        """The generation's meta; None if there is no such generation."""
        remote = self._open()
        name = _collection_name(region, generation)
        try:
            found = remote.call(remote.client.get_collection, name).config.metadata
        except NotFound:
            return None
        try:
            return GenerationMeta.from_json(found or {})
        except ValueError as exc:
            raise DamagedStore(f"{self._place}/collections/{name}", str(exc)) from exc

    def _existing(self, region: str, generation: str) -> GenerationMeta:
        meta = self._meta(region, generation)
        if meta is None:
            raise UnknownGeneration(region, generation)
        return meta

    def _write_meta(self, meta: GenerationMeta) -> None:
        remote = self._open()
        name = _collection_name(meta.spec.region, meta.spec.generation)
        remote.call(remote.client.update_collection, name, metadata=meta.to_json())

    def _point(self, region: str, generation: str) -> None:
        """Make `generation` the live one: one atomic change of the alias."""
        alias = _alias(region)
        create = models.CreateAlias(alias_name=alias, collection_name=_collection_name(region, generation))
        changes: list[models.AliasOperations] = [models.CreateAliasOperation(create_alias=create)]
        if self._live_name(region) is not None:
            delete = models.DeleteAlias(alias_name=alias)
            changes.insert(0, models.DeleteAliasOperation(delete_alias=delete))
        remote = self._open()
        remote.call(remote.client.update_collection_aliases, changes)

    def _delete(self, collection_name: str) -> None:
        remote = self._open()
        remote.call(remote.client.delete_collection, collection_name)

    def _generation_names(self, region: str) -> list[str]:
        remote = self._open()
        start = f"{_alias(region)}_"
        names = [each.name for each in remote.call(remote.client.get_collections).collections]
        return sorted(name.removeprefix(start) for name in names if name.startswith(start))

    def _pointers(self) -> dict[str, str]:
        """Live generation by region."""
        remote = self._open()
        aliases = remote.call(remote.client.get_aliases).aliases
        pairs = [(each.alias_name.split("_"), each.collection_name.split("_")) for each in aliases]
        return {
            alias[1]: collection[2]
            for alias, collection in pairs
            if len(alias) == 2 and alias[0] == PREFIX and collection[:2] == alias and len(collection) == 3
        }

    def _live_name(self, region: str) -> str | None:
        return self._pointers().get(region)

    def _read_live(self) -> LiveRegions:
        """The live generations as the server has them now."""
        metas: dict[str, GenerationMeta] = {}
        damaged: dict[str, DamagedStore] = {}
        for region, name in self._pointers().items():
            try:
                meta = self._meta(region, name)
            except DamagedStore as error:
                damaged[region] = error
            else:
                metas |= {region: meta} if meta and meta.release else {}
        live = LiveRegions(metas=metas, damaged=damaged)
        with self._lock:
            self._live = live
            self._live_until = time.monotonic() + self._open().settings.refresh_s
        return live

    def _recent_live(self) -> LiveRegions:
        """The live generations, at most `refresh_s` old."""
        with self._lock:
            if time.monotonic() < self._live_until:
                return self._live
        return self._read_live()

    def _forget_live(self) -> None:
        with self._lock:
            self._live_until = 0.0


def _alias(region: str) -> str:
    return f"{PREFIX}_{check_name('region', region)}"


def _collection_name(region: str, generation: str) -> str:
    return f"{_alias(region)}_{check_name('generation', generation)}"
