"""The whole job with the embedded store: what ends up live, and what never does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spatial_index.errors import UnknownRegion
from spatial_index.store import SearchRequest, Store, open_store
from tiling.errors import UnreadableSheet
from tiling.grid import GridSpec, patches_over, plan_blocks
from tiling.ortho import Ortho, cut, open_ortho
from workers.embedding import embed_here
from workers.errors import IngestFailed, ModelChanged, NothingToIngest
from workers.ingest import build
from workers.ingest import ingest as ingest_with
from workers.ingest_plan import plan_ingest
from workers.ingest_report import IngestProgress, IngestReport
from workers.jobs import Jobs

Ingest = Callable[..., IngestReport]


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    """The whole road without starting actors."""
    return partial(ingest_with, embed=embed_here, jobs=Jobs(tmp_path / "jobs"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(directory=tmp_path / "store", create=True) as opened:
        yield opened


def test_an_orthophoto_becomes_a_live_region(
    ingest: Ingest, ortho: Ortho, store: Store, load_thumbnail: Any
) -> None:
    seen: list[IngestProgress] = []
    report = ingest("town", ortho, store=store, load=load_thumbnail, progress=seen.append)
    planned = sum(1 for _ in patches_over(ortho.footprint, GridSpec()))
    assert report.promoted
    assert report.planned == planned == report.indexed + sum(report.skipped.values())
    assert report.skipped
    region = store.region("town")
    assert (region.generation, region.patches) == (report.generation, report.indexed)
    assert region.coverage.within(ortho.footprint.buffer(1e-3))
    assert report.area_km2 == pytest.approx(0.32 * 0.32 * 0.75, rel=0.2)
    assert [progress.share for progress in seen] == sorted(progress.share for progress in seen)
    assert seen[-1].share == 1.0


def test_patches_are_found_by_their_own_pixels(
    ingest: Ingest, ortho: Ortho, store: Store, load_thumbnail: Any
) -> None:
    ingest("town", ortho, store=store, load=load_thumbnail)
    encoder = load_thumbnail(None)
    block = next(plan_blocks(ortho.footprint, GridSpec()))
    images = [image for image in cut(ortho, block, size_px=encoder.patch_px) if image.valid_fraction == 1.0][
        :5
    ]
    vectors = encoder.embed_aerial(np.stack([image.pixels for image in images]))
    result = store.search(SearchRequest(vectors=vectors, limit=1, model_digest=encoder.digest))
    assert [hits[0].quadkey for hits in result.hits] == [image.patch.quadkey for image in images]
    assert result.hits[0][0].source == "sheet.tif"


def test_doing_it_again_changes_nothing(
    ingest: Ingest, ortho: Ortho, store: Store, load_thumbnail: Any
) -> None:
    first = ingest("town", ortho, store=store, load=load_thumbnail)
    again = ingest("town", ortho, store=store, load=load_thumbnail)
    assert again.already_live
    assert not again.promoted
    assert (again.generation, again.indexed) == (first.generation, first.indexed)


def test_the_same_imagery_gives_the_same_points_anywhere(
    ingest: Ingest, ortho: Ortho, tmp_path: Path, load_thumbnail: Any
) -> None:
    found = []
    query = np.eye(1, load_thumbnail(None).dim, dtype=np.float32)
    for name in ("one", "two"):
        with open_store(directory=tmp_path / name, create=True) as store:
            ingest("town", ortho, store=store, load=load_thumbnail)
            request = SearchRequest(vectors=query, limit=1000, model_digest=load_thumbnail(None).digest)
            found.append(store.search(request).hits)
    assert found[0] == found[1]


def test_new_imagery_replaces_the_old_in_one_step(
    ingest: Ingest, write_sheet: Any, store: Store, load_thumbnail: Any
) -> None:
    old = ingest("town", open_ortho([write_sheet(seed=1)]), store=store, load=load_thumbnail)
    new = ingest("town", open_ortho([write_sheet(seed=2)]), store=store, load=load_thumbnail)
    assert new.generation != old.generation
    assert store.region("town").generation == new.generation


def test_a_bad_model_is_never_promoted(
    ingest: Ingest, ortho: Ortho, store: Store, load_thumbnail: Any, load_collapsed: Any
) -> None:
    good = ingest("town", ortho, store=store, load=load_thumbnail)
    with pytest.raises(IngestFailed, match="found by their own vector"):
        ingest("town", ortho, store=store, load=load_collapsed)
    assert store.region("town").generation == good.generation
    assert [info.spec.generation for info in store.generations("town")] == [good.generation]


def test_an_unreadable_sheet_leaves_nothing_behind(
    ingest: Ingest, write_sheet: Any, damage: Any, store: Store, load_thumbnail: Any
) -> None:
    path = write_sheet()
    damage(path)
    with pytest.raises(UnreadableSheet, match=r"sheet\.tif: cannot be read"):
        ingest("town", open_ortho([path]), store=store, load=load_thumbnail)
    assert store.generations("town") == []
    with pytest.raises(UnknownRegion):
        store.region("town")


def test_with_skip_the_readable_sheets_go_live(
    ingest: Ingest, write_sheet: Any, damage: Any, store: Store, load_thumbnail: Any
) -> None:
    good, bad = write_sheet("good.tif"), write_sheet("bad.tif", seed=1, column=1)
    damage(bad)
    report = ingest("town", open_ortho([good, bad]), store=store, load=load_thumbnail, on_error="skip")
    assert report.promoted
    assert report.skipped["unreadable sheet bad.tif"] > 20


def test_imagery_that_is_all_nodata_is_refused(
    ingest: Ingest, write_sheet: Any, store: Store, load_thumbnail: Any
) -> None:
    with pytest.raises(NothingToIngest, match=r"all .* patches were skipped"):
        ingest("town", open_ortho([write_sheet(empty_share=1.0)]), store=store, load=load_thumbnail)
    assert store.generations("town") == []


def test_a_half_built_generation_is_started_over(
    ingest: Ingest, ortho: Ortho, store: Store, load_thumbnail: Any
) -> None:
    class PowerCut(BaseException):
        pass

    def fail(_: IngestProgress) -> None:
        raise PowerCut

    with pytest.raises(PowerCut):
        ingest("town", ortho, store=store, load=load_thumbnail, progress=fail)
    assert store.generations("town") == []
    assert ingest("town", ortho, store=store, load=load_thumbnail).promoted


def test_another_storage_is_another_generation_of_the_same_vectors(
    ingest: Ingest, ortho: Ortho, store: Store, load_thumbnail: Any
) -> None:
    first = ingest("town", ortho, store=store, load=load_thumbnail)
    again = ingest("town", ortho, store=store, load=load_thumbnail, storage="float16")
    assert again.generation != first.generation
    assert again.embedded == 0  # the vectors were kept
    assert [info.spec.storage for info in store.generations("town") if info.live] == ["float16"]


def test_a_checkpoint_that_was_replaced_after_planning_builds_nothing(
    ortho: Ortho, store: Store, tmp_path: Path, load_thumbnail: Any, load_collapsed: Any
) -> None:
    plan, jobs = plan_ingest("town", ortho, load_thumbnail(None)), Jobs(tmp_path / "jobs")
    with pytest.raises(ModelChanged, match="collapsed00000001"):
        build(plan, store=store, jobs=jobs, embed=embed_here, load=load_collapsed)
    assert store.generations("town") == []
    assert not list((jobs.folder(plan.job_id) / "vectors").glob("*.parquet"))  # nor is anything kept
    report = build(plan, store=store, jobs=jobs, embed=embed_here, load=load_thumbnail)
    assert (report.job_id, report.promoted) == (plan.job_id, True)
