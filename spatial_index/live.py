"""Which generations answer, which did before, and which cannot be read; the same for every kind of store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spatial_index.cells import Cells
from spatial_index.errors import DamagedStore, NothingToRollBack, UnknownRegion
from spatial_index.meta import GenerationMeta
from spatial_index.records import GenerationInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRegions:
    """The live generation of each region, and the regions that have one but cannot be read.

    A damaged region stops neither the others nor the store, as long as they are asked for by name. What
    concerns all regions is refused instead of answered without it: an answer that lacks a region looks
    like an answer.
    """

    metas: Mapping[str, GenerationMeta]
    damaged: Mapping[str, DamagedStore]

    def one(self, name: str) -> GenerationMeta:
        """The live generation of one region.

        Raises:
            DamagedStore: it cannot be read.
            UnknownRegion: not live.
        """
        if name in self.damaged:
            raise DamagedStore(*self.damaged[name].args)
        if name not in self.metas:
            raise UnknownRegion(name, sorted(self.metas))
        return self.metas[name]

    def chosen(self, names: Sequence[str] = ()) -> list[GenerationMeta]:
        """The named regions, none named meaning all, by name.

        Raises:
            DamagedStore: one of them cannot be read.
            UnknownRegion: one of them is not live.
        """
        wanted = set(names) if names else self.metas.keys() | self.damaged.keys()
        return [self.one(name) for name in sorted(wanted)]

    def searchable(self, names: Sequence[str] = ()) -> list[GenerationMeta]:
        """All readable regions, by name, once it is sure that none of the named ones is missing.

        Raises:
            DamagedStore, UnknownRegion: as `chosen`.
        """
        self.chosen(names)
        return [self.metas[name] for name in sorted(self.metas)]


class CellTables:
    """The cells of each region's live generation, read once."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[object, Cells | None]] = {}

    def of(self, meta: GenerationMeta, read: Callable[[], Mapping[str, int]]) -> Cells | None:
        """The cells of a live generation; None where an earlier version wrote it without."""
        region = meta.spec.region
        known = self._tables.get(region)
        if known is None or known[0] != meta.build:
            counts = read()
            complete = meta.release is not None and sum(counts.values()) == meta.release.patches
            known = self._tables[region] = (meta.build, Cells.of(counts) if complete else None)
        return known[1]


def previous_of(meta: GenerationMeta, live: str | None) -> str | None:
    """What a rollback returns to once `meta` is promoted while `live` is the live one.

    That is `live` itself; a generation promoted again while it is live keeps its own.
    """
    if live == meta.spec.generation:
        return meta.release.previous if meta.release else None
    return live


def rollback_target(live: GenerationMeta, read: Callable[[str], GenerationMeta | None]) -> GenerationMeta:
    """The generation that was live when `live` was promoted.

    Raises:
        NothingToRollBack: there was none, or it is no longer complete.
    """
    region, previous = live.spec.region, live.release.previous if live.release else None
    if previous is None:
        raise NothingToRollBack(region, live.spec.generation, "no other was live before it")
    former = read(previous)
    if former is None:
        raise NothingToRollBack(region, live.spec.generation, f"{previous!r} before it was dropped")
    if former.release is None:
        reason = f"{previous!r} before it was opened for writing again"
        raise NothingToRollBack(region, live.spec.generation, reason)
    return former


def list_generations(
    metas: Sequence[GenerationMeta], live: str | None, count: Callable[[GenerationMeta], int]
) -> list[GenerationInfo]:
    """A region's generations as listed."""
    previous = {meta.release.previous for meta in metas if meta.release and meta.spec.generation == live} - {
        None
    }
    return [
        meta.generation_info(
            patches=count(meta),
            live=meta.spec.generation == live,
            previous=meta.release is not None and meta.spec.generation in previous,
        )
        for meta in metas
    ]
