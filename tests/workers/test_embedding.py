"""Inside the actor: blocks in, one accounted row per patch out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tiling.errors import UnreadableSheet
from tiling.grid import GridSpec, patches_over
from tiling.ortho import OnError, Ortho, open_ortho
from workers.embedding import (
    NO_IMAGERY,
    TOO_MUCH_NODATA,
    EmbedSettings,
    embed_here,
    one_ahead,
    vectors_of,
)
from workers.ingest_plan import plan_ingest


def run(ortho: Ortho, load: Callable[[Path | None], Any], on_error: OnError = "fail") -> pa.Table:
    """All blocks through one actor, in this process."""
    settings = EmbedSettings(
        ortho=ortho,
        load=load,
        checkpoint=None,
        model_digest=load(None).digest,
        min_valid_fraction=0.5,
        on_error=on_error,
    )
    blocks = plan_ingest("town", ortho, load(None)).blocks()
    return pa.concat_tables(embed_here(blocks, settings))


def test_every_planned_patch_has_one_row(ortho: Ortho, load_thumbnail: Any) -> None:
    table = run(ortho, load_thumbnail)
    planned = [patch.quadkey for patch in patches_over(ortho.footprint, GridSpec())]
    assert table.column("quadkey").to_pylist() == planned


def test_a_patch_is_indexed_or_skipped_with_a_reason(ortho: Ortho, load_thumbnail: Any) -> None:
    for row in run(ortho, load_thumbnail).to_pylist():
        match row["skipped"]:
            case None:
                assert row["valid_fraction"] >= 0.5
                assert np.linalg.norm(row["vector"]) == pytest.approx(1.0, abs=1e-5)
            case reason:
                assert row["valid_fraction"] < 0.5
                assert reason == (TOO_MUCH_NODATA if row["valid_fraction"] > 0 else NO_IMAGERY)


def test_vectors_do_not_depend_on_the_block(ortho: Ortho, load_thumbnail: Any) -> None:
    first, second = run(ortho, load_thumbnail), run(ortho, load_thumbnail)
    assert np.array_equal(vectors_of(first), vectors_of(second))


def test_a_sheet_that_does_not_decode_stops_the_job(
    write_sheet: Any, damage: Any, load_thumbnail: Any
) -> None:
    path = write_sheet()
    damage(path)
    with pytest.raises(UnreadableSheet, match=r"sheet\.tif"):
        run(open_ortho([path]), load_thumbnail)


def test_or_costs_only_its_own_patches(write_sheet: Any, damage: Any, load_thumbnail: Any) -> None:
    good, bad = write_sheet("good.tif"), write_sheet("bad.tif", seed=1, column=1)
    damage(bad)
    table = run(open_ortho([good, bad]), load_thumbnail, on_error="skip")
    reasons = table.column("skipped").to_pylist()
    assert reasons.count("unreadable sheet bad.tif") > 20
    assert reasons.count(None) > 20
    assert set(reasons) <= {
        None,
        "unreadable sheet bad.tif",
        TOO_MUCH_NODATA,
    }  # the last: corners of the area


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(max_workers=1) as opened:
        yield opened


def test_one_ahead_keeps_the_order(pool: Executor) -> None:
    assert list(one_ahead(lambda value: value * 2, range(5), pool)) == [0, 2, 4, 6, 8]


def test_one_ahead_of_nothing_is_nothing(pool: Executor) -> None:
    assert list(one_ahead(str, [], pool)) == []


def test_one_ahead_makes_at_most_one_too_many(pool: Executor) -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for value in range(100):
            made.append(value)
            yield value

    results = one_ahead(str, numbers(), pool)
    assert next(results) == "0"
    assert len(made) <= 2


def test_one_ahead_passes_errors_on(pool: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        list(one_ahead(lambda value: 1 // value, [1, 0, 1], pool))
