"""What can go wrong in the spatial index, as one family.

SpatialIndexError
├── BadPrior             a prior that cannot mean a place
├── BadRecord            a patch that must not be stored
├── BadSearch            a search request that cannot be answered
├── BadRegionName        a region or generation name outside the naming rule
├── UnknownRegion        no live region of that name
├── UnknownGeneration    no such generation of the region
├── GenerationExists     the name is taken by a generation with other settings
├── GenerationFrozen     a promoted generation is never written again
├── GenerationLive       the live generation is never dropped under its readers
├── NothingToRollBack    no complete generation was live before this one
├── EmptyGeneration      nothing to promote
├── ModelMismatch        query and region were embedded by different models
├── StoreMissing         no store at that place
├── StoreInUse           another process owns the store folder
├── StoreUnavailable     the store does not answer
├── StoreFull            no room on the disk
└── DamagedStore         the folder or collection is not what it should be

All arguments are positional and kept in `args`, so that errors survive pickling between processes.
"""

from __future__ import annotations

from collections.abc import Sequence


class SpatialIndexError(Exception):
    """Base of every error this room raises on purpose."""


class _BadValue(SpatialIndexError):
    """A value outside its limit: carries the field, the value, the limit and the remedy."""

    subject = "value"

    def __init__(self, field: str, value: object, limit: str, remedy: str) -> None:
        super().__init__(field, value, limit, remedy)
        self.field = field
        self.value = value
        self.limit = limit
        self.remedy = remedy

    def __str__(self) -> str:
        return (
            f"bad {self.subject}: {self.field} is {_short(self.value)}, must be {self.limit}; {self.remedy}"
        )


class BadPrior(_BadValue):
    """A prior that cannot mean a place on Earth."""

    subject = "prior"


class BadRecord(_BadValue):
    """A patch, vector or coverage that the engine would store silently and never find again."""

    subject = "record"


class BadSearch(_BadValue):
    """A search request that cannot be answered as asked."""

    subject = "search"


class BadRegionName(SpatialIndexError):
    """A name that cannot be a folder, a collection and a URL segment alike."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind = kind
        self.name = name

    def __str__(self) -> str:
        return (
            f"bad {self.kind} name {_short(self.name)}: use 1 to 63 of a-z, 0-9 and '-', "
            "starting and ending with a letter or digit (for example 'brig-2024')"
        )


class UnknownRegion(SpatialIndexError):
    """No live region of that name."""

    def __init__(self, name: str, live: Sequence[str]) -> None:
        super().__init__(name, tuple(live))
        self.name = name
        self.live = tuple(live)

    def __str__(self) -> str:
        known = ", ".join(sorted(self.live)) or "none yet"
        return f"unknown region {_short(self.name)}; live regions: {known}; ingest it or check the spelling"


class UnknownGeneration(SpatialIndexError):
    """No such generation of the region."""

    def __init__(self, region: str, generation: str) -> None:
        super().__init__(region, generation)
        self.region = region
        self.generation = generation

    def __str__(self) -> str:
        return f"region {self.region!r} has no generation {self.generation!r}; check the name or create it"


class GenerationExists(SpatialIndexError):
    """The generation name is taken by the live generation or by one with other settings."""

    def __init__(self, region: str, generation: str, reason: str) -> None:
        super().__init__(region, generation, reason)
        self.region = region
        self.generation = generation
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"generation {self.generation!r} of region {self.region!r} already exists ({self.reason}); "
            "use another generation name, or drop it first"
        )


class GenerationFrozen(SpatialIndexError):
    """A promoted generation is immutable: searches rely on it."""

    def __init__(self, region: str, generation: str) -> None:
        super().__init__(region, generation)
        self.region = region
        self.generation = generation

    def __str__(self) -> str:
        return (
            f"generation {self.generation!r} of region {self.region!r} was promoted and takes no writes; "
            "create a new generation"
        )


class GenerationLive(SpatialIndexError):
    """The live generation cannot be dropped under its readers."""

    def __init__(self, region: str, generation: str) -> None:
        super().__init__(region, generation)
        self.region = region
        self.generation = generation

    def __str__(self) -> str:
        return (
            f"generation {self.generation!r} is live in region {self.region!r}; "
            "promote another one first, or drop the whole region"
        )


class NothingToRollBack(SpatialIndexError):
    """There is no complete generation to return to."""

    def __init__(self, region: str, generation: str, reason: str) -> None:
        super().__init__(region, generation, reason)
        self.region = region
        self.generation = generation
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"region {self.region!r} cannot be rolled back from generation {self.generation!r}: "
            f"{self.reason}; promote another generation, or ingest the region again"
        )


class EmptyGeneration(SpatialIndexError):
    """A generation without a single patch is never promoted."""

    def __init__(self, region: str, generation: str) -> None:
        super().__init__(region, generation)
        self.region = region
        self.generation = generation

    def __str__(self) -> str:
        return (
            f"generation {self.generation!r} of region {self.region!r} holds 0 patches, needs at least 1; "
            "check that the imagery covers the region before promoting"
        )


class ModelMismatch(SpatialIndexError):
    """Vectors of different models share no space: their scores would be noise."""

    def __init__(self, region: str, region_digest: str, query_digest: str) -> None:
        super().__init__(region, region_digest, query_digest)
        self.region = region
        self.region_digest = region_digest
        self.query_digest = query_digest

    def __str__(self) -> str:
        return (
            f"region {self.region!r} was embedded by model {self.region_digest}, the query by model "
            f"{self.query_digest}; query with the region's model or ingest the region again with the new one"
        )


class StoreMissing(SpatialIndexError):
    """There is no store at that place."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no store at {self.path} ({self.reason}); ingest a region to create it, or name the right folder"
        )


class StoreInUse(SpatialIndexError):
    """Another process owns the store folder."""

    def __init__(self, path: str, pid: int | None) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        owner = f"process {self.pid}" if self.pid else "another process"
        return (
            f"store {self.path} is in use by {owner}; stop that process, use another folder, "
            "or run a Qdrant server (CLNET_QDRANT_URL) to share one store"
        )


class StoreUnavailable(SpatialIndexError):
    """The store does not answer, or cannot serve us."""

    def __init__(self, place: str, reason: str, remedy: str) -> None:
        super().__init__(place, reason, remedy)
        self.place = place
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"store {self.place} is unavailable: {self.reason}; {self.remedy}"


class StoreFull(SpatialIndexError):
    """There is no room on the disk; nothing of the refused step was done."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"store {self.path} has no room left: {self.reason}; free some space and go on "
            "(acknowledged patches are kept, what is live stays live)"
        )


class DamagedStore(SpatialIndexError):
    """What lies in the store is not what was promoted; it is reported, never half-read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"store is damaged at {self.path}: {self.reason}; "
            "restore a backup, or drop the region and ingest it again"
        )


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
