"""Ingests in a process of its own, block by block and slowly, so that it can be killed half-way.

Usage: ingest_worker.py SHEET STORE JOBS SECONDS_PER_BLOCK
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from spatial_index.store import open_store
from tiling.grid import GridSpec
from tiling.ortho import open_ortho
from workers.embedding import EmbedSettings, embed_here
from workers.ingest import ingest
from workers.ingest_plan import KeyedBlock
from workers.jobs import Jobs


def main(sheet: str, store: str, jobs: str, block_s: str) -> None:
    """Run the job to its end, or to ours."""
    spec = importlib.util.spec_from_file_location("fakes", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    fakes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fakes)

    def slowly(blocks: Iterable[KeyedBlock], settings: EmbedSettings) -> Iterator[pa.Table]:
        for rows in embed_here(blocks, settings):
            time.sleep(float(block_s))
            yield rows

    with open_store(directory=Path(store), create=True) as opened:
        ingest(
            "town",
            open_ortho([Path(sheet)]),
            store=opened,
            jobs=Jobs(Path(jobs)),
            grid=GridSpec(zoom=22),
            embed=slowly,
            load=lambda _: fakes.ThumbnailEncoder(),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
