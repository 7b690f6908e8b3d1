"""Orders on real imagery: what is there already, and what changes while an order waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from cli.job_orders import Workshop
from cli.operations import OperationQueue
from serving.operations import IngestOrder, State
from spatial_index.store import open_store
from tiling.grid import GridSpec
from tiling.ortho import open_ortho
from workers.embedding import embed_here
from workers.ingest import ingest
from workers.jobs import Jobs

ORDER = IngestOrder(region="town", sheets=("sheet.tif",), zoom=20)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    (tmp_path / "inputs").mkdir()
    write_sheet(tmp_path / "inputs" / "sheet.tif", seed=0)
    with open_store(directory=tmp_path / "store", create=True) as store:
        yield Workshop(inputs=tmp_path / "inputs", jobs=Jobs(tmp_path / "jobs"), store=store)


def write_sheet(path: Path, *, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(1, 256, (3, 30, 30), np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=240, height=240, count=3, dtype="uint8",
        crs="EPSG:2056", transform=from_origin(2_642_000, 1_130_000, 0.5, 0.5),
    ) as file:  # fmt: skip
        file.write(coarse.repeat(8, axis=1).repeat(8, axis=2))


def test_a_region_that_an_ingest_by_hand_has_built_is_an_operation_that_has_succeeded(shop):
    built = ingest(
        "town",
        open_ortho([str(shop.inputs / "sheet.tif")]),
        store=shop.store,
        jobs=shop.jobs,
        grid=GridSpec(zoom=20, side_m=shop.encoder.side_m),
        embed=embed_here,
    )
    ordered = OperationQueue(shop).submit(ORDER)
    assert (ordered.id, ordered.state) == (built.job_id, State.SUCCEEDED)
    assert ordered.result["indexed"] == built.indexed > 0


def test_a_sheet_that_is_replaced_while_an_order_waits_fails_it_and_builds_nothing(shop):
    queue = OperationQueue(shop)
    ordered = queue.submit(ORDER)
    write_sheet(shop.inputs / "sheet.tif", seed=1)
    queue.work_once()
    found = queue.get(ordered.id)
    assert (found.state, found.reason) == (State.FAILED, "BadJob")
    assert shop.store.generations("town") == []
    assert [record.id for record in shop.jobs.list()] == [ordered.id]
    anew = queue.submit(ORDER)
    assert (anew.id != ordered.id, anew.state) == (True, State.PENDING)
