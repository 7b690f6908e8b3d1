"""Which generations answer, which did before, and which cannot be read; the same for every kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from spatial_index.errors import DamagedStore, NothingToRollBack, UnknownRegion
from spatial_index.meta import GenerationMeta
from spatial_index.records import GenerationInfo
from spatial_index.roster import Roster
from spatial_index.selection import Spot


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


class Rosters:
    """The rosters of live generations, as far as they were read. Safe to call from several threads."""

    def __init__(self) -> None:
        self._rosters: dict[str, tuple[object, Roster]] = {}

    def of(self, meta: GenerationMeta) -> Roster | None:
        """A live generation's roster, if it was read."""
        build, roster = self._rosters.get(meta.spec.region, (None, None))
        return roster if build == meta.build else None

    def read(self, meta: GenerationMeta, pages: Callable[[], Iterable[Sequence[Spot]]]) -> None:
        """Read a live generation's, unless that was done; `pages` are its patches."""
        if self.of(meta) is not None or meta.release is None:
            return
        roster = Roster.of(meta.spec.region, pages())
        if roster is not None and len(roster) == meta.release.patches:  # else it has changed meanwhile
            self._rosters[meta.spec.region] = (meta.build, roster)

    def keep(self, regions: Iterable[str]) -> None:
        """Forget those of all other regions."""
        for gone in set(self._rosters) - set(regions):
            self._rosters.pop(gone, None)


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
