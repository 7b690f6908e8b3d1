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
from workers.ingest_plan import IngestPlan, plan_ingest
from workers.tally import Tally


@pytest.fixture
def plan(ortho: Ortho, load_thumbnail: Any) -> IngestPlan:
    return plan_ingest("town", ortho, load_thumbnail(None))


def test_a_patch_unaccounted_for_stops_promotion(plan: IngestPlan, tmp_path: Path) -> None:
    with open_store(directory=tmp_path / "store", create=True) as store:
        store.create_generation(plan.spec)
        tally = Tally(planned=plan.planned, indexed=plan.planned - 2, skipped=Counter({"no imagery": 1}))
        with pytest.raises(
            IngestFailed, match=f"{plan.planned} patches were planned, {plan.planned - 1} accounted"
        ):
            check_counts(store, plan.spec, tally)


def test_a_write_that_went_missing_stops_promotion(plan: IngestPlan, tmp_path: Path) -> None:
    with open_store(directory=tmp_path / "store", create=True) as store:
        store.create_generation(plan.spec)
        with pytest.raises(IngestFailed, match=r"were written, the store holds 0; .*ingest again"):
            check_counts(store, plan.spec, Tally(planned=plan.planned, indexed=plan.planned))


def test_the_generation_is_named_after_what_decides_its_content(ortho: Ortho, load_thumbnail: Any) -> None:
    encoder = load_thumbnail(None)
    same = {plan_ingest("town", ortho, encoder).spec.generation for _ in range(2)}
    assert len(same) == 1
    assert plan_ingest("town", ortho, encoder, min_valid_fraction=0.6).spec.generation not in same
