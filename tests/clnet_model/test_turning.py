"""Headings: refined between those tried, and how far apart two of them are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clnet_model.turning import heading_difference_deg, refined_heading


def test_heading_is_refined_between_the_steps_tried() -> None:
    headings_deg = np.arange(24) * 15.0
    truth_deg = 2.0  # the best step is 0, its left neighbour is 345
    similarities = 0.9 - 1e-4 * ((headings_deg - truth_deg + 180.0) % 360.0 - 180.0) ** 2
    assert refined_heading(similarities, headings_deg) == pytest.approx(truth_deg, abs=0.01)


def test_heading_without_neighbours_is_the_one_tried() -> None:
    assert refined_heading(np.array([0.4]), np.array([-10.0])) == pytest.approx(350.0)
    assert refined_heading(np.array([0.4, -np.inf, -np.inf]), np.array([0.0, 15.0, 30.0])) == 0.0


@given(st.floats(-720, 720), st.floats(-720, 720))
def test_headings_are_apart_the_short_way_around(one: float, other: float) -> None:
    apart_deg = float(heading_difference_deg(one, other))
    assert 0.0 <= apart_deg <= 180.0
    assert np.cos(np.radians(apart_deg)) == pytest.approx(np.cos(np.radians(one - other)), abs=1e-9)
