"""Vectors kept on the disk between embedding and writing, so that nothing is ever embedded twice.

A folder of Parquet files, each a group of whole blocks with their keys, brought to the disk before its rows
go anywhere else. Knows nothing of jobs or stores; a shelf may serve any job that asks for the same keys.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spatial_index.files import disk_error, sync_folder
from workers.ingest_plan import KeyedBlock

KEY = "key"


class Shelf:
    """Persisted rows of one job. One process puts, others may take."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = max((int(path.stem) for path in self._parts()), default=0) + 1

    def put(self, rows: pa.Table) -> None:
        """Keep whole blocks; they are on the disk when this returns.

        Raises:
            StoreFull, StoreUnavailable: the disk refuses.
        """
        path = self._folder / f"{self._next:06d}.parquet"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_rows(path, rows)
        except OSError as exc:
            raise disk_error(str(self._folder), exc) from exc
        self._next += 1

    def take(self, wanted: dict[str, KeyedBlock]) -> Iterator[pa.Table]:
        """The rows of every block whose key is wanted, table by table; what was found is wanted no more.

        A file that cannot be read is passed over, and a block that is not whole: they stay wanted.
        """
        for path in self._parts():
            rows = _read(path, wanted)
            if rows is not None:
                for key in pc.unique(rows.column(KEY)).to_pylist():
                    del wanted[key]
                yield rows

    def clear(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def bytes_used(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self._parts())

    def _parts(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.parquet") if path.stem.isdigit())


def write_rows(path: Path, rows: pa.Table) -> None:
    """Write a Parquet file whole; it is on the disk when this returns."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        pq.write_table(rows, file, compression="zstd", compression_level=1, write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def _read(path: Path, wanted: Mapping[str, KeyedBlock]) -> pa.Table | None:
    """The rows of a file's wanted blocks; None if there are none, or if the file is damaged.

    Vectors, which are nearly all of a file, are read only where some are wanted.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            keys = file.read(columns=[KEY]).column(KEY)
            rows_of = Counter(keys.to_pylist())
            whole = [key for key in rows_of if key in wanted and rows_of[key] == len(wanted[key].block)]
            return file.read().filter(pc.is_in(keys, pa.array(whole, pa.string()))) if whole else None
    except (OSError, pa.ArrowException):
        return None
