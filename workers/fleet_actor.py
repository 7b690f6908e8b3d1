"""What runs inside a worker for a fleet: a chunk's images are read and embedded. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from workers.embedding import one_ahead
from workers.fetch import fetch_all

if TYPE_CHECKING:
    from workers.chunks import Chunks
    from workers.relocalize import Embedder

NUMBER = "number"


class FleetActor:
    """Reads the next chunk's images while the encoder works on this one's."""

    def __init__(self, make_embedder: Callable[[int | None], Embedder], threads: int | None = None) -> None:
        self._embed = make_embedder(threads)
        self._reader = ThreadPoolExecutor(1)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        items = [(item[NUMBER], rows_in(item["rows"])) for item in batch.to_pylist()]
        read = one_ahead(lambda item: (*item, images_of(item[1])), items, self._reader)
        for number, rows, images in read:
            table = self._embed(rows, images)
            yield table.append_column(NUMBER, pa.array([number] * len(rows), pa.int64()))


def embed_fleet_here(
    chunks: Chunks, make_embedder: Callable[[int | None], Embedder], numbers: Sequence[int]
) -> Generator[tuple[int, pa.Table]]:
    """Read and embed chunks in this process, in order: for trials and tests."""
    actor = FleetActor(make_embedder)
    for number in numbers:
        for table in actor(pa.Table.from_pylist([chunk_to_item(chunks, number)])):
            yield from split_by_number(table)


def images_of(rows: list[dict[str, Any]]) -> list[bytes | str]:
    """The rows' files, or what is wrong; rows with a fault are not read."""
    fetched = iter(fetch_all([row["image"] for row in rows if not row["fault"]]))
    return [row["fault"] or next(fetched) for row in rows]


def chunk_to_item(chunks: Chunks, number: int) -> dict[str, Any]:
    """A chunk as Ray carries it."""
    sink = pa.BufferOutputStream()
    rows = chunks.rows_table(number)
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return {NUMBER: number, "rows": sink.getvalue().to_pybytes()}


def rows_in(data: bytes) -> list[dict[str, Any]]:
    """The rows that `chunk_to_item` packed."""
    rows: list[dict[str, Any]] = pa.ipc.open_stream(data).read_all().to_pylist()
    return rows


def split_by_number(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Ray may have put several chunks together."""
    for number in pc.unique(table.column(NUMBER)).to_pylist():
        yield number, table.filter(pc.equal(table.column(NUMBER), number)).drop_columns([NUMBER])
