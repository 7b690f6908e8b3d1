"""Coverage: the union of tiles, collected piece by piece."""

from __future__ import annotations

import mercantile
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from tiling import coverage
from tiling.coverage import Coverage


def quadkeys(codes: list[int]) -> list[str]:
    return [np.base_repr(code, 4).zfill(12) for code in codes]


@given(st.lists(st.lists(st.integers(9_000_000, 9_000_200), max_size=40), max_size=6))
def test_it_is_the_union_whatever_the_pieces(pieces: list[list[int]]) -> None:
    collected = Coverage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "MERGE_EVERY", 10)
        for piece in pieces:
            collected.add(quadkeys(piece))
    tiles = {key for piece in pieces for key in quadkeys(piece)}
    boxes = [box(*mercantile.bounds(mercantile.quadkey_to_tile(key))) for key in tiles]
    expected = shapely.union_all(boxes)
    assert collected.geometry().symmetric_difference(expected).area <= 1e-9 * max(expected.area, 1e-9)


def test_a_full_square_is_kept_as_one_tile() -> None:
    collected = Coverage()
    collected.add(quadkeys([9_000_000 // 4096 * 4096 + code for code in range(4096)]))
    collected.geometry()
    assert sum(len(codes) for codes in collected._by_zoom.values()) == 1
