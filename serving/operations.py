"""Long jobs as the service sees them: orders, how they stand, and who carries them out.

Knows nothing of gRPC, nor of how a job is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Literal, Protocol

from shapely.geometry.base import BaseGeometry

from spatial_index.records import Storage

Kind = Literal["ingest", "relocalize"]


class State(Enum):
    """Where a job stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def done(self) -> bool:
        """Nothing more will happen unless the order is given again."""
        return self not in (State.PENDING, State.RUNNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestOrder:
    """Build a region."""

    region: str
    sheets: tuple[str, ...]
    """Paths in the folder of inputs, or URLs."""
    area: BaseGeometry | None = None
    zoom: int | None = None
    side_m: float | None = None
    storage: Storage = "float32"
    skip_bad_sheets: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetOrder:
    """Localize the images of a manifest."""

    manifest: str
    """Path in the folder of inputs."""
    max_images: int | None = None
    rerun: bool = False


Order = IngestOrder | FleetOrder


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A job as it stands."""

    id: str
    kind: Kind
    state: State
    created_at: datetime
    updated_at: datetime
    done: int = 0
    total: int = 0
    unit: str = ""
    region: str = ""
    error: str | None = None
    """Why it failed, for people."""
    reason: str | None = None
    """The same for programs: the error's class."""
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePage:
    """Rows of a fleet's result, and how many there are."""

    rows: Sequence[Mapping[str, Any]]
    total: int


class Operations(Protocol):
    """Takes orders and carries them out one after the other. Safe to call from several threads."""

    def submit(self, order: Order) -> Operation:
        """Check an order and queue it; the same order is the same operation.

        Raises:
            InvalidRequest: it cannot be carried out.
        """

    def get(self, operation_id: str) -> Operation:
        """One operation.

        Raises:
            UnknownOperation: there is none of that id.
        """

    def list(self) -> list[Operation]:
        """All of them, the newest first."""

    def cancel(self, operation_id: str) -> None:
        """Ask it to stop; without effect on one that is done.

        Raises:
            UnknownOperation: there is none of that id.
        """

    def images(self, operation_id: str, first: int, count: int) -> ImagePage:
        """Rows of a fleet's result.

        Raises:
            UnknownOperation: there is none of that id.
            Unfinished: it has not succeeded, or has no images.
        """
