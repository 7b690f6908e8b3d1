"""The promotion gate: numbers must reconcile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spatial_index.store import open_store
from tiling.ortho import Ortho
from workers.errors import IngestFailed
from workers.gate import check_counts
from workers.job import IngestJob, Tally, plan_job


@pytest.fixture
def job(ortho: Ortho, load_thumbnail: Any) -> IngestJob:
    return plan_job("town", ortho, load_thumbnail(None), None, 0.5)


def test_a_patch_unaccounted_for_stops_promotion(job: IngestJob, tmp_path: Path) -> None:
    with open_store(directory=tmp_path / "store", create=True) as store:
        store.create_generation(job.spec)
        tally = Tally(indexed=job.planned - 2, skipped=Counter({"no imagery": 1}))
        with pytest.raises(
            IngestFailed, match=f"{job.planned} patches were planned, {job.planned - 1} accounted"
        ):
            check_counts(store, job, tally)


def test_a_write_that_went_missing_stops_promotion(job: IngestJob, tmp_path: Path) -> None:
    with open_store(directory=tmp_path / "store", create=True) as store:
        store.create_generation(job.spec)
        with pytest.raises(IngestFailed, match=r"were written, the store holds 0; .*ingest again"):
            check_counts(store, job, Tally(indexed=job.planned))


def test_the_generation_is_named_after_what_decides_its_content(ortho: Ortho, load_thumbnail: Any) -> None:
    encoder = load_thumbnail(None)
    same = {plan_job("town", ortho, encoder, None, 0.5).spec.generation for _ in range(2)}
    assert len(same) == 1
    assert plan_job("town", ortho, encoder, None, 0.6).spec.generation not in same
