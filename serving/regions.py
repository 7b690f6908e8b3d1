"""Changes of which build of a region answers, and what each does to a store. Knows nothing of gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shapely.geometry.base import BaseGeometry

from serving.errors import LiveChanged, UnfinishedGeneration
from serving.locate import Index
from spatial_index.errors import DamagedStore, ModelMismatch, UnknownGeneration
from spatial_index.records import GenerationInfo, PatchRecord, RegionInfo


class RegionStore(Index, Protocol):
    """The part of a store that the service needs: it answers queries and switches builds."""

    def warm_up(self) -> None: ...

    def read(self, region: str, generation: str) -> Iterator[list[PatchRecord]]: ...

    def region(self, name: str) -> RegionInfo: ...

    def generations(self, region: str) -> list[GenerationInfo]: ...

    def promote(self, region: str, generation: str, *, coverage: BaseGeometry) -> None: ...

    def rollback(self, region: str) -> RegionInfo: ...

    def drop_generation(self, region: str, generation: str) -> None: ...

    def drop_region(self, region: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """Make a complete build live."""

    region: str
    generation: str
    expected_live: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """Make the build live that was live before."""

    region: str
    expected_live: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionDeletion:
    """Delete a region with all its builds."""

    region: str
    expected_live: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationDeletion:
    """Delete a build that is not live."""

    region: str
    generation: str


Change = Promotion | Rollback | RegionDeletion | GenerationDeletion


def make(change: Change, store: RegionStore, *, model_digest: str) -> RegionInfo | None:
    """Make a change; the region as it answers afterwards, None when the change deletes.

    Raises:
        UnknownRegion, UnknownGeneration: there is nothing of that name.
        LiveChanged: another build is live than the change expects.
        UnfinishedGeneration: the build was never complete.
        ModelMismatch: the service could not search the region afterwards.
        SpatialIndexError: the store refuses.
    """
    match change:
        case Promotion():
            return _promote(change, store, model_digest)
        case Rollback():
            return _roll_back(change, store, model_digest)
        case RegionDeletion():
            _check_live(store, change.region, change.expected_live)
            _known(store, change.region)
            store.drop_region(change.region)
            return None
        case GenerationDeletion():
            _generation(store, change.region, change.generation)
            store.drop_generation(change.region, change.generation)
            return None
        case _:
            raise TypeError(f"unknown change: {type(change).__name__}")


def generations_of(store: RegionStore, region: str) -> list[GenerationInfo]:
    """All builds of a region, by name.

    Raises:
        UnknownRegion: it has none.
    """
    found = store.generations(region)
    if not found:
        store.region(region)
    return found


def _promote(change: Promotion, store: RegionStore, model_digest: str) -> RegionInfo:
    _check_live(store, change.region, change.expected_live)
    info = _generation(store, change.region, change.generation)
    if not info.complete or info.coverage is None:
        raise UnfinishedGeneration(change.region, change.generation)
    _check_model(info, model_digest)
    if not info.live:
        store.promote(change.region, change.generation, coverage=info.coverage)
    return store.region(change.region)


def _roll_back(change: Rollback, store: RegionStore, model_digest: str) -> RegionInfo:
    _check_live(store, change.region, change.expected_live)
    for info in generations_of(store, change.region):
        if info.previous:
            _check_model(info, model_digest)
    return store.rollback(change.region)


def _known(store: RegionStore, region: str) -> None:
    """What is damaged is there too, and can be deleted."""
    try:
        generations_of(store, region)
    except DamagedStore:
        return


def _generation(store: RegionStore, region: str, generation: str) -> GenerationInfo:
    for info in generations_of(store, region):
        if info.spec.generation == generation:
            return info
    raise UnknownGeneration(region, generation)


def _check_live(store: RegionStore, region: str, expected: str | None) -> None:
    if expected is None:
        return
    live = next((info.spec.generation for info in generations_of(store, region) if info.live), None)
    if live != expected:
        raise LiveChanged(region, expected, live)


def _check_model(info: GenerationInfo, model_digest: str) -> None:
    if info.spec.model_digest != model_digest:
        raise ModelMismatch(info.spec.region, info.spec.model_digest, model_digest)
