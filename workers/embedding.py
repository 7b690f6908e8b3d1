"""Blocks of ground in, tables of vectors out: what runs inside a worker.

Knows nothing of Ray. Pixels live and die in here. The table has one row per planned patch, so that nothing
can get lost between planning and writing: an indexed patch has a vector, a skipped one has a reason.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tiling.errors import UnreadableSheet
from tiling.grid import Block, GridSpec, Tile
from tiling.ortho import OnError, Ortho, PatchImage, cut
from tiling.sheets import Sheet
from workers.errors import ModelChanged
from workers.ingest_plan import KeyedBlock

if TYPE_CHECKING:  # torch takes seconds to import
    from clnet_model.encoder import Encoder

NO_IMAGERY = "no imagery"
TOO_MUCH_NODATA = "too much nodata"

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedSettings:
    """All that a worker needs to turn blocks into vectors."""

    ortho: Ortho
    load: Callable[[Path | None], Encoder]
    checkpoint: Path | None
    model_digest: str
    """The model that the job was planned for; `checkpoint` may have been replaced since."""
    min_valid_fraction: float
    on_error: OnError


@dataclass(frozen=True, kw_only=True, slots=True)
class _CutBlock:
    """A block's pixels. A block that lost a sheet has no key: it is tried again next time."""

    key: str
    images: list[PatchImage]
    lost: list[Sheet]


def embed_here(blocks: Iterable[KeyedBlock], settings: EmbedSettings) -> Iterator[pa.Table]:
    """Read, cut and embed blocks in this process, in order: for trials and tests.

    Raises:
        tiling.errors.UnreadableSheet: a sheet fails to decode and `on_error` is "fail".
        ModelChanged: the checkpoint holds another model than the settings name.
    """
    rows = [block_to_row(block) for block in blocks]
    yield from BlockEmbedder(settings)(pa.Table.from_pylist(rows))


class BlockEmbedder:
    """A worker: reads the next block while the encoder works on this one.

    What comes out of a block depends on the block and the files alone, never on what was read before.

    Args:
        threads: for the encoder; None leaves the framework's own choice.
    """

    def __init__(self, settings: EmbedSettings, threads: int | None = None) -> None:
        self._settings = settings
        self._encoder = settings.load(settings.checkpoint)
        self._reader = ThreadPoolExecutor(1)  # for good: memory stays with the thread that used it
        torch = sys.modules.get("torch")  # an encoder may do without
        if torch and threads:
            torch.set_num_threads(threads)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        if self._encoder.digest != self._settings.model_digest:  # not in __init__: Ray would lose the error
            raise ModelChanged(self._settings.model_digest, self._encoder.digest)
        blocks = map(row_to_block, batch.to_pylist())
        for part in one_ahead(self._cut, blocks, self._reader):
            yield self._embed(part)

    def _cut(self, keyed: KeyedBlock) -> _CutBlock:
        """The block's patches; under "skip", without the sheets that turn out to be unreadable in it."""
        ortho = self._settings.ortho
        lost: list[Sheet] = []
        while True:
            try:
                images = list(cut(ortho, keyed.block, size_px=self._encoder.patch_px))
                return _CutBlock(key="" if lost else keyed.key, images=images, lost=lost)
            except UnreadableSheet as error:
                if self._settings.on_error == "fail":
                    raise
                lost.append(next(sheet for sheet in ortho.sheets if sheet.path == error.path))
                ortho = ortho.without(error.path)

    def _embed(self, part: _CutBlock) -> pa.Table:
        reasons = [self._reason_to_skip(image, part.lost) for image in part.images]
        kept = np.array([reason is None for reason in reasons])  # (N,)
        vectors = np.zeros((len(kept), self._encoder.dim), np.float32)
        if kept.any():
            pixels = np.stack([image.pixels for image, keep in zip(part.images, kept, strict=True) if keep])
            vectors[kept] = self._encoder.embed_aerial(pixels)  # (K, S, S, 3) -> (K, D)
        return _to_table(part, reasons, vectors)

    def _reason_to_skip(self, image: PatchImage, lost: Sequence[Sheet]) -> str | None:
        if image.valid_fraction >= self._settings.min_valid_fraction and image.valid_fraction > 0:
            return None
        for sheet in lost:
            if sheet.footprint.intersects(image.patch.footprint):
                return f"unreadable sheet {sheet.name}"
        return TOO_MUCH_NODATA if image.valid_fraction > 0 else NO_IMAGERY


def one_ahead(make: Callable[[T], U], items: Iterable[T], pool: Executor) -> Iterator[U]:
    """`map(make, items)`, with the next result in the making in the pool while the caller uses this one."""
    waiting: Future[U] | None = None
    for item in items:
        following = pool.submit(make, item)
        if waiting is not None:
            yield waiting.result()
        waiting = following
    if waiting is not None:
        yield waiting.result()


def vectors_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """(N, D) vectors of a table's rows."""
    column = table.column("vector").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(table), -1)


def _to_table(part: _CutBlock, reasons: list[str | None], vectors: npt.NDArray[np.float32]) -> pa.Table:
    images = part.images
    centres = [image.patch.centre for image in images]
    return pa.table(
        {
            "key": pa.array([part.key] * len(images), pa.string()),
            "quadkey": pa.array([image.patch.quadkey for image in images], pa.string()),
            "lng": pa.array([centre.lng for centre in centres], pa.float64()),
            "lat": pa.array([centre.lat for centre in centres], pa.float64()),
            "captured_at": pa.array([image.captured_at for image in images], pa.timestamp("us", "UTC")),
            "source": pa.array([image.source for image in images], pa.string()),
            "valid_fraction": pa.array([image.valid_fraction for image in images], pa.float64()),
            "skipped": pa.array(reasons, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )


def block_to_row(keyed: KeyedBlock) -> dict[str, Any]:
    block = keyed.block
    x, y, zoom = block.tile
    return {
        "key": keyed.key,
        "x": x,
        "y": y,
        "z": zoom,
        "zoom": block.grid.zoom,
        "side_m": block.grid.side_m,
        "members": block.members,
    }


def row_to_block(row: dict[str, Any]) -> KeyedBlock:
    grid = GridSpec(zoom=row["zoom"], side_m=row["side_m"])
    block = Block(tile=Tile(row["x"], row["y"], row["z"]), grid=grid, members=row["members"])
    return KeyedBlock(block=block, key=row["key"])
