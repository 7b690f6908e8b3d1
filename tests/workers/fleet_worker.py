"""Re-localizes a fleet in a process of its own, slowly, so that it can be killed half-way.

Usage: fleet_worker.py MANIFEST OUT JOBS SECONDS_PER_CHUNK
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from workers.chunks import Chunks
from workers.fleet_actor import embed_fleet_here
from workers.jobs import Jobs
from workers.manifest import read_manifest
from workers.relocalize import Embedder, Row, relocalize


class EchoLocalizer:
    """Finds an image where its bytes say; its tracks count what they have seen."""

    def __init__(self, portable_bytes: int | None = None) -> None:
        self.portable_bytes = portable_bytes
        self.make_embedder: Callable[[int | None], Embedder] = echo_embedder
        self.identity: Mapping[str, Any] = {"model_digest": "echo"}

    def answers(self, rows: Sequence[Row], seen: pa.Table) -> list[dict[str, Any]]:
        return [
            {"status": "LOCALIZED", "latitude": 46.0, "longitude": value / 2**32, "moved_m": 1.0}
            for value in seen.column("value").to_pylist()
        ]

    def follower(self, sequence: str) -> EchoFollower:
        return EchoFollower()


class EchoFollower:
    """Its state shows whether it was started anew, or skipped a row."""

    def __init__(self) -> None:
        self._sum = 0.0

    def advance(self, row: Row, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        self._sum = (self._sum + answer.get("longitude", 0.5)) % 180
        return {"smoothed_status": "LOCALIZED", "smoothed_latitude": 46.0, "smoothed_longitude": self._sum}


class EchoEmbedder:
    """Sums bytes."""

    def look(self, row: Row, image: bytes | str) -> int | str:
        return zlib.crc32(image) if isinstance(image, bytes) else image

    def embed(self, looks: Sequence[int | str]) -> pa.Table:
        values = [look if isinstance(look, int) else None for look in looks]
        faults = [look if isinstance(look, str) else None for look in looks]
        return pa.table({"fault": pa.array(faults, pa.string()), "value": pa.array(values, pa.int64())})


def echo_embedder(_: int | None) -> Embedder:
    return EchoEmbedder()


def main(manifest: str, out: str, jobs: str, chunk_s: str) -> None:
    """Run the job to its end, or to ours."""

    def slowly(
        chunks: Chunks, make: Callable[[int | None], Embedder], numbers: Sequence[int]
    ) -> Generator[tuple[int, pa.Table]]:
        for number, table in embed_fleet_here(chunks, make, numbers):
            time.sleep(float(chunk_s))
            yield number, table

    relocalize(
        read_manifest(Path(manifest)),
        Path(out),
        localizer=EchoLocalizer(),
        jobs=Jobs(Path(jobs)),
        embed=slowly,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
