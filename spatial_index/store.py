"""The store as its users see it: one protocol, opened by one function, in a folder or on a server.

Knows neither Qdrant nor folders; the adapters do, and are imported only when opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from shapely.geometry.base import BaseGeometry

from spatial_index.priors import Prior
from spatial_index.records import GenerationInfo, GenerationSpec, PatchHit, PatchRecord, RegionInfo, Vectors


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SearchRequest:
    """Nearest patches to each of Q vectors, inside a prior; regions that it does not touch are left alone."""

    vectors: Vectors
    """(Q, D), L2-normalised; several are several questions about one place, such as headings tried."""
    limit: int
    """Hits per vector."""
    model_digest: str
    prior: Prior | None = None
    regions: tuple[str, ...] = ()
    """Names of live regions; none named means all of them."""
    exact: bool = False
    """Compare every candidate, whatever that takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """What was found, and how."""

    hits: list[list[PatchHit]]
    """Q lists, each by descending score."""
    candidates: int
    """Exact number of patches that pass the filter; 0 means that the prior touches no patch."""
    plan: str
    """Names of the methods used, `exact` where every candidate was compared."""
    plan_reason: str
    """By region: the method, the counts that led to it, and what it costs beside the exact scan."""


class Store(Protocol):
    """Regions of patches. A region answers from its one live generation; searches never see the others.

    Safe to call from several threads.
    """

    def create_generation(self, spec: GenerationSpec) -> None:
        """Make an empty generation, or continue one that has the same spec and is not live.

        Raises:
            GenerationExists: it is live, or has another spec.
        """

    def write(self, region: str, generation: str, records: Sequence[PatchRecord]) -> None:
        """Add patches, replacing the same ones written before. Acknowledged writes survive a killed process.

        Raises:
            BadRecord: a value that could not be found again; nothing of `records` is written.
            StoreFull: no room on the disk; some of `records` may be written, nothing acknowledged is lost.
            UnknownGeneration: create it first.
            GenerationFrozen: it was promoted; create_generation opens it again unless it is live.
        """

    def count(self, region: str, generation: str) -> int:
        """Exact number of patches in a generation, live or not.

        Raises:
            UnknownGeneration: there is none of that name.
        """

    def read(self, region: str, generation: str) -> Iterator[list[PatchRecord]]:
        """Every patch of a generation with its vector as stored, page by page, in order of point ids.

        For copies of a promoted generation; what is written meanwhile may be missed.

        Raises:
            UnknownGeneration: there is none of that name.
            DamagedStore: it cannot be read.
        """

    def promote(self, region: str, generation: str, *, coverage: BaseGeometry) -> None:
        """Make a generation the live one, atomically. The former one stays.

        `coverage` is its WGS84 area and holds every patch centre: searches elsewhere leave the region alone.

        Raises:
            EmptyGeneration: it holds no patch.
            StoreFull: no room on the disk; the former one stays live.
            BadRecord: `coverage` is not a WGS84 area.
            UnknownGeneration: there is none of that name.
        """

    def rollback(self, region: str) -> RegionInfo:
        """Make the previous generation live again, atomically; return the region as it answers now.

        The previous one of a generation is what was live when it was promoted for the last time. So rollbacks
        one after the other walk back through the promotions, and promoting again what was rolled back makes
        a later rollback return to where it was left.

        Raises:
            UnknownRegion: not live.
            NothingToRollBack: none was live before, or it was dropped or opened for writing again.
            DamagedStore: it is no longer what was promoted; the live one stays.
        """

    def drop_generation(self, region: str, generation: str) -> None:
        """Delete a generation that is not live; a missing one is no error.

        Raises:
            GenerationLive: it answers queries.
        """

    def drop_region(self, region: str) -> None:
        """Delete a region with all its generations; a missing one is no error."""

    def generations(self, region: str) -> list[GenerationInfo]:
        """All generations of a region, by name; none for a name that was never used."""

    def regions(self) -> list[RegionInfo]:
        """The live regions, by name.

        Raises:
            DamagedStore: one of them cannot be read; the others answer by name.
        """

    def region(self, name: str) -> RegionInfo:
        """One live region.

        Raises:
            UnknownRegion: not live.
            DamagedStore: it cannot be read.
        """

    def search(self, request: SearchRequest) -> SearchResult:
        """The nearest patches inside the prior.

        Raises:
            BadSearch: the request cannot be answered as asked.
            UnknownRegion: a region named in the request or its prior is not live.
            ModelMismatch: a region that would answer was embedded by another model.
            DamagedStore: a region that was named, or with none named any region, cannot be read.
        """

    def warm_up(self) -> None:
        """Read into memory where the patches of the live regions are, as far as that was not done.

        Searches inside a prior are faster from then on, and find the same; until a region gets another live
        generation. Takes 10 s and 150 MB for a million patches; searches go on meanwhile.

        Raises:
            DamagedStore, StoreUnavailable: see `search`.
        """

    def probe(self, region: str, generation: str, vectors: Vectors, limit: int) -> list[list[PatchHit]]:
        """The nearest patches to each of (Q, D) vectors in one generation, live or not.

        For checks before promotion; queries go through `search`.

        Raises:
            UnknownGeneration: there is none of that name.
        """

    def close(self) -> None:
        """Give the store back; using it afterwards raises StoreUnavailable."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_store(
    *,
    directory: Path,
    url: str | None = None,
    api_key: str | None = None,
    create: bool = False,
    shards: int | None = None,
    replicas: int | None = None,
) -> Store:
    """Open the Qdrant server at `url`, or without one the embedded store in `directory`.

    `create` makes the folder when it is missing; a server needs no creation. `shards` and `replicas` say how
    a cluster of servers spreads the generations that are created from now on; None leaves it to the server.

    Raises:
        StoreMissing: the folder is not a store.
        StoreInUse: another process owns the folder.
        StoreUnavailable: the server does not answer or is too old.
        DamagedStore: what lies there cannot be read.
    """
    if url:
        from spatial_index.remote import ServerSettings  # noqa: PLC0415  an adapter loads its engine
        from spatial_index.server import ServerStore  # noqa: PLC0415

        settings = ServerSettings(shard_number=shards, replication_factor=replicas)
        return ServerStore(url=url, api_key=api_key, settings=settings)
    from spatial_index.embedded import EmbeddedStore  # noqa: PLC0415  an adapter loads its engine

    return EmbeddedStore(directory, create=create)
