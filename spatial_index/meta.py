"""What a store remembers about a generation beside its points, as plain JSON values.

The embedded store keeps it in a file, the server store in the collection's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from spatial_index.errors import SpatialIndexError
from spatial_index.payload import from_timestamp, to_timestamp
from spatial_index.planner import Profile
from spatial_index.records import GenerationInfo, GenerationSpec, RegionInfo, check_coverage, check_name

FORMAT = 1  # raise it when a stored field changes its meaning


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What became known when a generation was promoted; from then on it is frozen."""

    patches: int
    coverage: BaseGeometry
    imagery_from: datetime | None
    imagery_to: datetime | None
    previous: str | None = None
    """The generation that was live when this one was promoted; a rollback returns to it."""
    profile: Profile | None = None
    """What its planner goes by; None: it is searched exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationMeta:
    """A generation: its settings, and its release once promoted."""

    spec: GenerationSpec
    created_at: datetime
    release: Release | None = None

    @classmethod
    def new(cls, spec: GenerationSpec) -> Self:
        """The meta of a generation created now."""
        return cls(spec=spec, created_at=datetime.now(UTC).replace(microsecond=0))

    def released(self, release: Release) -> GenerationMeta:
        """The same generation, promoted."""
        return replace(self, release=release)

    @property
    def build(self) -> tuple[object, ...]:
        """Changes whenever its points do."""
        release = self.release
        return (
            self.spec.generation,
            self.created_at,
            (release.patches, release.imagery_from, release.imagery_to) if release else None,
        )

    def reopened(self) -> GenerationMeta:
        """The same generation, open for writing again."""
        return replace(self, release=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, every key present: a server merges metadata, and would keep a key left out."""
        return {
            "format": FORMAT,
            "created_at": to_timestamp(self.created_at),
            "spec": asdict(self.spec),
            "release": _release_json(self.release) if self.release else None,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            ValueError: the values are of another format or incomplete.
        """
        if values.get("format") != FORMAT:
            raise ValueError(f"format {values.get('format')!r}, this version reads {FORMAT}")
        try:
            return cls(
                spec=GenerationSpec(**values["spec"]),
                created_at=_moment(values["created_at"]),
                release=_release(values["release"]) if values.get("release") else None,
            )
        except (
            KeyError, IndexError, TypeError, AttributeError, shapely.errors.ShapelyError, SpatialIndexError,
        ) as exc:  # fmt: skip
            raise ValueError(f"incomplete ({exc!r})") from exc

    def region_info(self) -> RegionInfo:
        """The live region that this generation is; only for a released one."""
        assert self.release is not None  # stores promote by writing the release first
        return RegionInfo(
            name=self.spec.region,
            generation=self.spec.generation,
            model_digest=self.spec.model_digest,
            dim=self.spec.dim,
            zoom=self.spec.zoom,
            side_m=self.spec.side_m,
            patches=self.release.patches,
            coverage=self.release.coverage,
            created_at=self.created_at,
            imagery_from=self.release.imagery_from,
            imagery_to=self.release.imagery_to,
        )

    def generation_info(self, *, patches: int, live: bool, previous: bool) -> GenerationInfo:
        """The generation as listed."""
        return GenerationInfo(
            spec=self.spec,
            patches=patches,
            complete=self.release is not None,
            live=live,
            previous=previous,
            created_at=self.created_at,
            coverage=self.release.coverage if self.release else None,
            imagery_from=self.release.imagery_from if self.release else None,
            imagery_to=self.release.imagery_to if self.release else None,
        )


def _release_json(release: Release) -> dict[str, Any]:
    return {
        "patches": release.patches,
        "coverage": json.loads(shapely.to_geojson(release.coverage)),
        "imagery_from": to_timestamp(release.imagery_from) if release.imagery_from else None,
        "imagery_to": to_timestamp(release.imagery_to) if release.imagery_to else None,
        "previous": release.previous,
        "profile": release.profile.to_json() if release.profile else None,
    }


def _release(values: Mapping[str, Any]) -> Release:
    previous, profile = values.get("previous"), values.get("profile")
    return Release(
        patches=int(values["patches"]),
        coverage=check_coverage(shape(values["coverage"])),
        imagery_from=from_timestamp(values.get("imagery_from")),
        imagery_to=from_timestamp(values.get("imagery_to")),
        previous=check_name("generation", previous) if previous is not None else None,
        profile=Profile.from_json(profile) if profile else None,
    )


def _moment(text: str) -> datetime:
    moment = from_timestamp(text)
    if moment is None:
        raise ValueError("empty timestamp")
    return moment
