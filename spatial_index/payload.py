"""Patches as the engine's payload, and back; the keys are the stored format."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from mercantile import LngLat

from spatial_index.cells import cells_of
from spatial_index.records import PatchHit, PatchRecord
from spatial_index.selection import MAX_LAT, MAX_LNG, Spot

LOCATION = "location"
CAPTURED_AT = "captured_at"
CELLS = "cells"
SPOT_FIELDS = [LOCATION, CAPTURED_AT, CELLS]
HIT_FIELDS = [LOCATION, "quadkey", "region", "generation", "side_m", CAPTURED_AT, "source"]


def to_payload(record: PatchRecord) -> dict[str, Any]:
    """Everything of a record but its vector; an unknown time is left out, never stored as a stand-in."""
    lng = min(max(float(record.location.lng), -MAX_LNG), MAX_LNG)
    lat = min(max(float(record.location.lat), -MAX_LAT), MAX_LAT)
    payload: dict[str, Any] = {
        LOCATION: {"lon": lng, "lat": lat},
        CELLS: cells_of(record.quadkey),
        "quadkey": record.quadkey,
        "region": record.region,
        "generation": record.generation,
        "side_m": float(record.side_m),
        "source": record.source,
        "valid_fraction": float(record.valid_fraction),
    }
    if record.captured_at is not None:
        payload[CAPTURED_AT] = to_timestamp(record.captured_at)
    return payload


def to_hit(point: uuid.UUID, score: float, payload: Mapping[str, Any]) -> PatchHit:
    """A stored patch as found with `score`."""
    return PatchHit(
        id=point,
        location=to_lnglat(payload),
        quadkey=payload["quadkey"],
        region=payload["region"],
        generation=payload["generation"],
        side_m=float(payload["side_m"]),
        captured_at=from_timestamp(payload.get(CAPTURED_AT)),
        source=payload["source"],
        score=score,
    )


def to_record(payload: Mapping[str, Any], vector: Sequence[float]) -> PatchRecord:
    """A stored patch as it was written."""
    return PatchRecord(
        location=to_lnglat(payload),
        quadkey=payload["quadkey"],
        region=payload["region"],
        generation=payload["generation"],
        side_m=float(payload["side_m"]),
        captured_at=from_timestamp(payload.get(CAPTURED_AT)),
        source=payload["source"],
        valid_fraction=float(payload["valid_fraction"]),
        vector=np.asarray(vector, np.float32),
    )


def to_spot(point: uuid.UUID, payload: Mapping[str, Any]) -> Spot:
    """Where and when a stored patch was taken."""
    return Spot(
        id=point,
        location=to_lnglat(payload),
        captured_at=from_timestamp(payload.get(CAPTURED_AT)),
        cells=tuple(payload.get(CELLS) or ()),
    )


def to_lnglat(payload: Mapping[str, Any]) -> LngLat:
    """The stored position."""
    return LngLat(lng=payload[LOCATION]["lon"], lat=payload[LOCATION]["lat"])


def to_timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC; a time without a zone is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat()


def from_timestamp(text: str | None) -> datetime | None:
    """The moment of an RFC 3339 text; None for none."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
