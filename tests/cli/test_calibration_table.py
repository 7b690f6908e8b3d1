"""Words against deeds, on answers whose reliability is known."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.calibration_plot import reliability_svg
from cli.calibration_table import (
    HEADER,
    OUTSIDE_HEADER,
    RADII_HEADER,
    Judged,
    auroc,
    bin_rows,
    bins_of,
    outside_rows,
    reliability,
    rows,
)


def drawn(count: int, seed: int = 0) -> list[Judged]:
    """Answers that keep their word: right with the probability they say, errors of a round Gaussian."""
    dice = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        probability = float(dice.uniform(0.05, 1.0))
        is_right = dice.random() < probability
        sigma_m = 5.0
        error_m = float(np.hypot(*dice.normal(0, sigma_m, 2))) if is_right else 500.0
        found.append(
            Judged(
                error_m=error_m, probability=probability, r68_m=1.5096 * sigma_m, r95_m=2.4477 * sigma_m,
                heading_error_deg=abs(dice.normal(0, 2.0)), heading_r68_deg=1.989,
                localized=probability > 0.8, similarity=0.6 + 0.1 * dice.normal(),
                outside_localized=bool(dice.random() < 0.05), outside_similarity=0.4 + 0.1 * dice.normal(),
            )
        )  # fmt: skip
    return found


def test_answers_that_keep_their_word_lie_on_the_diagonal():
    result = reliability(drawn(5_000))
    for each in result.bins:
        assert each.right == pytest.approx(each.said, abs=0.06)
    assert sum(each.answers for each in result.bins) == 5_000


def test_radii_are_counted():
    right = [each for each in drawn(10_000) if each.error_m < 100.0]
    result = reliability(right)
    assert result.inside_r68 == pytest.approx(0.68, abs=0.015)
    assert result.inside_r95 == pytest.approx(0.95, abs=0.01)
    assert result.heading_inside_r68 == pytest.approx(0.68, abs=0.015)


def test_a_given_heading_has_no_share():
    given = [replace(each, heading_r68_deg=0.0) for each in drawn(20)]
    assert reliability(given).heading_inside_r68 is None
    assert rows({"x": reliability(given)})[0][5] == "–"


def test_outside_is_told_from_inside():
    result = reliability(drawn(5_000))
    assert result.auroc == pytest.approx(0.921, abs=0.01)  # Φ(2 / √2)
    assert result.outside_localized == pytest.approx(0.05, abs=0.01)


def test_auroc_of_ties_is_a_half():
    assert auroc([1.0, 1.0], [1.0]) == 0.5
    assert auroc([2.0], [1.0]) == 1.0
    assert auroc([0.0], [1.0]) == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=50))
def test_every_answer_is_in_one_bin(answers):
    bins = bins_of([said for said, _ in answers], [right for _, right in answers])
    assert sum(each.answers for each in bins) == len(answers)
    assert all(each.low - 1e-9 <= each.said <= each.high + 1e-9 for each in bins)


def test_none_localized_has_no_share_of_right_ones():
    result = reliability([each for each in drawn(50) if not each.localized])
    assert result.localized_right is None
    assert rows({"x": result})[0][-1] == "–"


def test_tables_and_plot_show_every_kind():
    results = {"panorama": reliability(drawn(200)), "photo <90°>": reliability(drawn(200, seed=1))}
    assert all(len(row) == len(RADII_HEADER) for row in rows(results))
    assert all(len(row) == len(OUTSIDE_HEADER) for row in outside_rows(results))
    assert all(len(row) == len(HEADER) for row in bin_rows(results["panorama"]))
    drawing = ET.fromstring(reliability_svg(results))
    text = "".join(drawing.itertext())
    assert "panorama" in text
    assert "photo <90°>" in text
