"""What the demo's figures mean."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mercantile import LngLat

from cli.metrics import Outcome, RankedPatch, quantile, rank_of, summarise

TRUE = LngLat(lng=8.0, lat=46.3)


def outcome(
    *,
    error_m: float = 5.0,
    rank: int | None = 1,
    r68_m: float = 10.0,
    r95_m: float = 20.0,
    latency_ms: float = 50.0,
) -> Outcome:
    answered = math.isfinite(error_m)
    return Outcome(
        image_id="panorama_00000",
        status="LOCALIZED" if answered else "OUT_OF_COVERAGE",
        true_position=TRUE,
        found_position=TRUE if answered else None,
        error_m=error_m,
        true_patch_rank=rank,
        found_quadkey="0",
        probability=0.9,
        r68_m=r68_m,
        r95_m=r95_m,
        latency_ms=latency_ms,
    )


def ranked(*scores: float) -> list[RankedPatch]:
    return [RankedPatch(quadkey=str(i), score=score) for i, score in enumerate(scores)]


def test_the_best_patch_has_rank_one() -> None:
    assert rank_of("0", ranked(0.9, 0.5)) == 1


def test_ties_count_against_the_model() -> None:
    assert rank_of("0", ranked(0.5, 0.5, 0.5)) == 3


def test_a_patch_that_was_not_returned_has_no_rank() -> None:
    assert rank_of("9", ranked(0.9)) is None


def test_recall_counts_ranks_up_to_k() -> None:
    summary = summarise([outcome(rank=rank) for rank in (1, 3, 7, None)])
    assert (summary.recall_at_1, summary.recall_at_5, summary.recall_at_10) == (0.25, 0.5, 0.75)


def test_recall_within_25_m_includes_the_limit() -> None:
    assert summarise([outcome(error_m=25.0), outcome(error_m=25.1)]).recall_25m == 0.5


def test_an_unanswered_image_is_a_miss() -> None:
    summary = summarise([outcome(), outcome(error_m=math.inf, rank=None)])
    assert (summary.recall_25m, summary.recall_at_1) == (0.5, 0.5)


def test_unanswered_images_push_the_median_up() -> None:
    assert summarise([outcome(error_m=3.0), *[outcome(error_m=math.inf)] * 2]).median_error_m == math.inf


def test_coverage_is_taken_over_answered_images() -> None:
    summary = summarise([outcome(error_m=15.0), outcome(error_m=5.0), outcome(error_m=math.inf)])
    assert (summary.r68_coverage, summary.r95_coverage) == (0.5, 1.0)


def test_claims_are_held_against_the_truth() -> None:
    summary = summarise([outcome(error_m=3.0), outcome(error_m=90.0), outcome(error_m=math.inf)])
    assert summary.localized_25m == 0.5
    assert summarise([outcome(error_m=math.inf)]).localized_25m is None


def test_statuses_are_counted() -> None:
    summary = summarise([outcome(), outcome(), outcome(error_m=math.inf)])
    assert summary.status_counts == {"LOCALIZED": 2, "OUT_OF_COVERAGE": 1}


def test_nothing_to_summarise_is_an_error() -> None:
    with pytest.raises(ValueError, match="no outcomes"):
        summarise([])


@given(
    st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_quantiles_lie_between_the_extremes(values: list[float], level: float) -> None:
    assert min(values) <= quantile(values, level) <= max(values)


def test_the_median_of_two_lies_between_them() -> None:
    assert quantile([1.0, 3.0], 0.5) == 2.0
