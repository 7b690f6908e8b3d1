"""What runs inside a worker for a fleet: images are read and embedded, and answered. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from workers.chunks import STAMP, UNREAD
from workers.embedding import one_ahead
from workers.fetch import fetch_all, stamp_of

if TYPE_CHECKING:
    from workers.chunks import Chunks
    from workers.relocalize import Embedder, Localizer

NUMBER = "number"

Row = Mapping[str, Any]


class FleetActor:
    """Reads and looks at the next chunk's images while the encoder works on this one's."""

    def __init__(self, make_embedder: Callable[[int | None], Embedder], threads: int | None = None) -> None:
        self._embedder = make_embedder(threads)
        self._reader = ThreadPoolExecutor(1)
        self._lookers = ThreadPoolExecutor(threads or 1)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        items = [(item[NUMBER], unpacked(item["rows"]).to_pylist()) for item in batch.to_pylist()]
        for looks, known in one_ahead(self._look, items, self._reader):
            table = self._embedder.embed(looks)
            for name in known.column_names:
                table = table.append_column(name, known.column(name))
            yield table

    def _look(self, item: tuple[int, list[Row]]) -> tuple[list[Any], pa.Table]:
        """What is to be embedded of a chunk's images, and what is known of their files."""
        number, rows = item
        stamps = [None if row["fault"] else stamp_of(row["image"]) for row in rows]  # before they are read
        images = images_of(rows)
        pairs = zip(rows, images, strict=True)
        unread = [isinstance(image, str) and not row["fault"] for row, image in pairs]
        known = pa.table(
            {
                NUMBER: pa.array([number] * len(rows), pa.int64()),
                UNREAD: pa.array(unread, pa.bool_()),
                STAMP: pa.array(stamps, pa.string()),
            }
        )
        return list(self._lookers.map(self._embedder.look, rows, images)), known


class AnswerActor:
    """Answers chunks."""

    def __init__(self, localizer: Localizer) -> None:
        self._localizer = localizer

    def answer(self, rows: bytes, seen: bytes) -> list[dict[str, Any]]:
        """The answers of a chunk: its rows and what was embedded of them, both packed."""
        return answered(unpacked(rows).to_pylist(), unpacked(seen), self._localizer)


def embed_fleet_here(
    chunks: Chunks, make_embedder: Callable[[int | None], Embedder], numbers: Sequence[int]
) -> Generator[tuple[int, pa.Table]]:
    """Read and embed chunks in this process, in order: for trials and tests."""
    actor = FleetActor(make_embedder)
    for number in numbers:
        for table in actor(pa.Table.from_pylist([chunk_to_item(chunks, number)])):
            yield from split_by_number(table)


def answer_fleet_here(chunks: Chunks, localizer: Localizer) -> Generator[list[dict[str, Any]]]:
    """The answers of chunk after chunk, made in this process."""
    for number in range(len(chunks)):
        yield answered(chunks.rows_of(number), chunks.get(number), localizer)


def answered(rows: Sequence[Row], seen: pa.Table, localizer: Localizer) -> list[dict[str, Any]]:
    """An answer for each row; rows and images that cannot be used get a status that says so."""
    faults = seen.column("fault").to_pylist()
    usable = [index for index, (row, fault) in enumerate(zip(rows, faults, strict=True)) if not fault]
    found = iter(localizer.answers([rows[index] for index in usable], seen.take(usable)))
    return [_unusable(row, fault) if fault else next(found) for row, fault in zip(rows, faults, strict=True)]


def images_of(rows: Sequence[Row]) -> list[bytes | str]:
    """The rows' files, or what is wrong; rows with a fault are not read."""
    fetched = iter(fetch_all([row["image"] for row in rows if not row["fault"]]))
    return [row["fault"] or next(fetched) for row in rows]


def chunk_to_item(chunks: Chunks, number: int) -> dict[str, Any]:
    """A chunk's images that are to be embedded, as Ray carries them."""
    return {NUMBER: number, "rows": packed(chunks.wanted(number))}


def packed(table: pa.Table) -> bytes:
    """A table in bytes, which Ray carries without what the table was cut from."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def unpacked(data: bytes) -> pa.Table:
    """The table that was packed."""
    return pa.ipc.open_stream(data).read_all()


def split_by_number(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Ray may have put several chunks together."""
    for number in pc.unique(table.column(NUMBER)).to_pylist():
        yield number, table.filter(pc.equal(table.column(NUMBER), number)).drop_columns([NUMBER])


def _unusable(row: Row, fault: str) -> dict[str, Any]:
    return {"status": "INVALID_ROW" if row["fault"] else "UNREADABLE_IMAGE", "reason": fault}
