"""The dry run: right counts, no side effects."""

from __future__ import annotations

from typing import Any

import pytest

from tiling.grid import GridSpec, patches_over
from tiling.ortho import Ortho
from workers.estimate import estimate


def test_counts_follow_grid_and_mask(ortho: Ortho, load_thumbnail: Any) -> None:
    found = estimate("town", ortho, load=load_thumbnail)
    assert found.planned == sum(1 for _ in patches_over(ortho.footprint, GridSpec()))
    assert found.expected == pytest.approx(0.75 * found.planned, rel=0.1)
    assert found.area_km2 == pytest.approx(0.32**2, rel=0.01)
    assert found.disk_mb > 0
    assert found.wall_s > 0
