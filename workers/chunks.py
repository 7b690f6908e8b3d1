"""A manifest cut into chunks, and what was embedded of each, kept as a file of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spatial_index.files import disk_error
from workers.fetch import stamp_of
from workers.shelf import write_rows

CHUNK_ROWS = 64
UNREAD = "unread"
"""Column of what is kept: the image could not be read, which may have been the network's fault."""
STAMP = "stamp"
"""Column of what is kept: see `stamp_of`, when the image was read."""


class Chunks:
    """Consecutive rows of a manifest, CHUNK_ROWS each; files by number."""

    def __init__(self, folder: Path, rows: pa.Table) -> None:
        self._folder = folder
        self._wanted: dict[int, list[int]] = {}
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

    def missing(self) -> dict[int, int]:
        """Chunks with images that are to be embedded, and how many: those that are not there or damaged,
        could not be read, or were replaced since."""
        found = {number: self._stale(number) for number in range(len(self))}
        self._wanted = {number: stale for number, stale in found.items() if stale}
        return {number: len(stale) for number, stale in self._wanted.items()}

    def wanted(self, number: int) -> pa.Table:
        """The manifest's rows of a chunk that are to be embedded; only for chunks that are missing."""
        return self.rows_table(number).take(self._wanted[number])

    def get(self, number: int) -> pa.Table:
        """What was embedded; only for chunks that are not missing."""
        table = self._read(number)
        assert table is not None
        return table

    def put(self, number: int, table: pa.Table) -> None:
        """Keep what was embedded of the rows that were wanted; it is on the disk when this returns.

        Raises:
            StoreFull, StoreUnavailable: the disk refuses.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_rows(self._path(number), self._whole(number, table))
        except OSError as exc:
            raise disk_error(str(self._folder), exc) from exc

    def clear(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _stale(self, number: int) -> list[int]:
        """Positions in a chunk of the rows that are to be embedded."""
        kept = self._read(number)
        if kept is None:
            return list(range(self.count(number)))
        rows = self.rows_table(number).select(["image", "fault"]).to_pylist()
        known = kept.select([UNREAD, STAMP]).to_pylist()
        return [
            position
            for position, (row, was) in enumerate(zip(rows, known, strict=True))
            if was[UNREAD] or not (row["fault"] or stamp_of(row["image"]) in (None, was[STAMP]))
        ]

    def _whole(self, number: int, table: pa.Table) -> pa.Table:
        """A chunk's rows: what was kept, and `table` in the place of those that were wanted."""
        wanted, count = self._wanted[number], self.count(number)
        if len(wanted) == count:
            return table
        kept = self.get(number)
        order = list(range(count))
        for row, position in enumerate(wanted):
            order[position] = count + row
        return pa.concat_tables([kept, table.select(kept.column_names).cast(kept.schema)]).take(order)

    def _read(self, number: int) -> pa.Table | None:
        path = self._path(number)
        if not path.exists():
            return None
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            return None
        whole = len(table) == self.count(number) and {UNREAD, STAMP} <= set(table.column_names)
        return table if whole else None  # an earlier version kept less

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:07d}.parquet"
