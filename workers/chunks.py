"""A manifest cut into chunks, and what was embedded of each, kept as a file of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spatial_index.files import disk_error
from workers.shelf import write_rows

CHUNK_ROWS = 64


class Chunks:
    """Consecutive rows of a manifest, CHUNK_ROWS each; files by number."""

    def __init__(self, folder: Path, rows: pa.Table) -> None:
        self._folder = folder
        self.rows = rows

    def __len__(self) -> int:
        return (len(self.rows) + CHUNK_ROWS - 1) // CHUNK_ROWS

    def count(self, number: int) -> int:
        """Rows of a chunk."""
        return min(CHUNK_ROWS, len(self.rows) - number * CHUNK_ROWS)

    def rows_of(self, number: int) -> list[dict[str, Any]]:
        """The manifest's rows."""
        rows: list[dict[str, Any]] = self.rows_table(number).to_pylist()
        return rows

    def rows_table(self, number: int) -> pa.Table:
        """The manifest's rows, as a table."""
        return self.rows.slice(number * CHUNK_ROWS, CHUNK_ROWS)

    def missing(self) -> list[int]:
        """Chunks that are not there, or damaged."""
        return [number for number in range(len(self)) if self._read(number) is None]

    def get(self, number: int) -> pa.Table:
        """What was embedded; only for chunks that are not missing."""
        table = self._read(number)
        assert table is not None
        return table

    def put(self, number: int, table: pa.Table) -> None:
        """Keep a chunk; it is on the disk when this returns.

        Raises:
            StoreFull, StoreUnavailable: the disk refuses.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_rows(self._path(number), table)
        except OSError as exc:
            raise disk_error(str(self._folder), exc) from exc

    def clear(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, number: int) -> pa.Table | None:
        path = self._path(number)
        if not path.exists():
            return None
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            return None
        return table if len(table) == self.count(number) else None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:07d}.parquet"
