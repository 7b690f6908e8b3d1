"""Kept vectors: whole blocks come back, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from spatial_index.errors import SpatialIndexError
from tiling.ortho import Ortho
from workers.embedding import EmbedSettings, embed_here
from workers.ingest_plan import KeyedBlock, plan_ingest
from workers.shelf import Shelf


@pytest.fixture
def made(ortho: Ortho, load_thumbnail: Any) -> tuple[dict[str, KeyedBlock], list[pa.Table]]:
    """Blocks by key, and the rows of each."""
    blocks = list(plan_ingest("town", ortho, load_thumbnail(None)).blocks())
    settings = EmbedSettings(
        ortho=ortho,
        load=load_thumbnail,
        checkpoint=None,
        model_digest=load_thumbnail(None).digest,
        min_valid_fraction=0.5,
        on_error="fail",
    )
    assert len(blocks) > 1
    return {keyed.key: keyed for keyed in blocks}, list(embed_here(blocks, settings))


def test_what_was_put_is_taken_once_and_to_the_bit(made: Any, tmp_path: Path) -> None:
    wanted, tables = made
    Shelf(tmp_path / "shelf").put(pa.concat_tables(tables[:2]))
    for rows in tables[2:]:
        Shelf(tmp_path / "shelf").put(rows)
    taken = pa.concat_tables(Shelf(tmp_path / "shelf").take(wanted))
    assert taken.equals(pa.concat_tables(tables))
    assert wanted == {}


def test_only_wanted_blocks_are_taken(made: Any, tmp_path: Path) -> None:
    wanted, tables = made
    shelf = Shelf(tmp_path / "shelf")
    shelf.put(pa.concat_tables(tables))
    key, keyed = next(iter(wanted.items()))
    asked = {key: keyed, "another": keyed}
    (rows,) = shelf.take(asked)
    assert set(rows.column("key").to_pylist()) == {key}
    assert list(asked) == ["another"]


def test_half_a_block_is_no_block(made: Any, tmp_path: Path) -> None:
    wanted, tables = made
    shelf = Shelf(tmp_path / "shelf")
    shelf.put(tables[0].slice(1))
    shelf.put(tables[1])
    assert len(list(shelf.take(wanted))) == 1
    assert tables[0].column("key")[0].as_py() in wanted


def test_a_draft_left_by_a_killed_process_is_ignored(made: Any, tmp_path: Path) -> None:
    wanted, tables = made
    shelf = Shelf(tmp_path / "shelf")
    shelf.put(tables[0])
    (tmp_path / "shelf" / "000002.draft").write_bytes(b"half a file")
    assert len(list(Shelf(tmp_path / "shelf").take(wanted))) == 1


def test_a_folder_that_cannot_be_written_is_named(made: Any, tmp_path: Path) -> None:
    (tmp_path / "shelf").write_text("a file in its place")
    with pytest.raises(SpatialIndexError, match="shelf"):
        Shelf(tmp_path / "shelf").put(made[1][0])
