"""The same job on Ray: nothing differs but where it runs."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from spatial_index.store import open_store
from tiling.errors import UnreadableSheet
from tiling.ortho import Ortho, open_ortho
from workers.cluster import free_cores
from workers.embedding import EmbedSettings, block_to_row, embed_here
from workers.errors import ModelChanged
from workers.ingest import ingest
from workers.ingest_plan import plan_ingest
from workers.jobs import Jobs
from workers.pipeline import embed_on_ray


def settings_for(ortho: Ortho, load: Any) -> EmbedSettings:
    return EmbedSettings(
        ortho=ortho,
        load=load,
        checkpoint=None,
        model_digest="thumbnail00000001",
        min_valid_fraction=0.5,
        on_error="fail",
    )


@pytest.mark.usefixtures("ray_session")
def test_actors_give_the_same_rows_as_this_process(ortho: Ortho, load_thumbnail: Any) -> None:
    settings = settings_for(ortho, load_thumbnail)
    blocks = list(plan_ingest("town", ortho, load_thumbnail(None)).blocks())
    far = pa.concat_tables(embed_on_ray(blocks, settings)).sort_by("quadkey")
    near = pa.concat_tables(embed_here(blocks, settings)).sort_by("quadkey")
    assert far.to_pylist() == near.to_pylist()


@pytest.mark.usefixtures("ray_session")
def test_a_region_is_built_on_ray(ortho: Ortho, tmp_path: Path, load_thumbnail: Any) -> None:
    with open_store(directory=tmp_path / "store", create=True) as store:
        report = ingest("town", ortho, store=store, jobs=Jobs(tmp_path / "jobs"), load=load_thumbnail)
        assert store.region("town").patches == report.indexed > 0


@pytest.mark.usefixtures("ray_session")
def test_an_error_in_an_actor_arrives_as_itself(write_sheet: Any, damage: Any, load_thumbnail: Any) -> None:
    path = write_sheet()
    damage(path)
    ortho = open_ortho([path])
    blocks = plan_ingest("town", ortho, load_thumbnail(None)).blocks()
    with pytest.raises(UnreadableSheet, match=r"sheet\.tif: cannot be read") as caught:
        list(embed_on_ray(blocks, settings_for(ortho, load_thumbnail)))
    assert type(caught.value) is UnreadableSheet


@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_finds_another_model_than_planned_refuses(
    ortho: Ortho, load_thumbnail: Any, load_collapsed: Any
) -> None:
    blocks = list(plan_ingest("town", ortho, load_thumbnail(None)).blocks())
    with pytest.raises(ModelChanged, match="that one back") as caught:
        list(embed_on_ray(blocks, settings_for(ortho, load_collapsed)))
    assert type(caught.value) is ModelChanged


@pytest.mark.usefixtures("ray_session")
def test_pixels_stay_inside_the_worker(ortho: Ortho, load_thumbnail: Any) -> None:
    """What crosses the object store is blocks one way and rows of vectors the other."""
    encoder = load_thumbnail(None)
    blocks = list(plan_ingest("town", ortho, encoder).blocks())
    patches = sum(len(keyed.block) for keyed in blocks)
    pixel_bytes = 3 * encoder.patch_px**2
    sent = len(pickle.dumps((settings_for(ortho, None), [block_to_row(keyed) for keyed in blocks])))
    assert sent < 100 * len(blocks) + 20_000
    back = sum(rows.nbytes for rows in embed_on_ray(blocks, settings_for(ortho, load_thumbnail)))
    assert back / patches < 4 * encoder.dim + 200 < pixel_bytes


@pytest.mark.usefixtures("ray_session")
def test_cores_of_a_failed_job_come_back(write_sheet: Any, damage: Any, load_thumbnail: Any) -> None:
    """What Ray Data keeps of a failure lies in cycles and holds an actor; the collector may never come by."""
    path = write_sheet()
    damage(path)
    ortho = open_ortho([path])
    blocks = list(plan_ingest("town", ortho, load_thumbnail(None)).blocks())
    before = free_cores(at_most=2)
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(UnreadableSheet):
                list(embed_on_ray(blocks, settings_for(ortho, load_thumbnail)))
        assert free_cores(at_most=2) == before
    finally:
        gc.enable()
