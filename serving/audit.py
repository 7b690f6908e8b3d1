"""One line of JSON for each call: who, what, when, and how it ended.

Never images, keys, priors or positions.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(kw_only=True, slots=True)
class CallRecord:
    """What is known about a call; fills while the call runs."""

    method: str
    peer: str
    forwarded_for: str | None = None
    """What a proxy in front says about the client; as trustworthy as who can reach the service without it."""
    caller: str | None = None
    """Name of the key; None when it was not recognised."""
    request_id: str | None = None
    image_bytes: int | None = None
    frames: int | None = None
    """Images of a sequence."""
    region: str | None = None
    generation: str | None = None
    status: str | None = None
    """Of a localization."""
    code: str = "OK"
    reason: str | None = None
    duration_ms: float = 0.0
    trace_id: str | None = None

    def line(self, now: datetime) -> str:
        """As it is written; what is not known is left out."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        known["duration_ms"] = round(self.duration_ms, 3)
        return json.dumps({"time": now.isoformat(timespec="milliseconds"), **known}, ensure_ascii=True)


class AuditLog:
    """Appends to a file that several replicas of one machine may share: a line is one write to its end."""

    def __init__(self, path: Path | None) -> None:
        self._file = (
            -1
            if path is None
            else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        )

    def write(self, record: CallRecord) -> None:
        """Add a call; without a file, nothing."""
        if self._file >= 0:
            os.write(self._file, f"{record.line(datetime.now(UTC))}\n".encode())
