"""95 % intervals against textbook values."""

from __future__ import annotations

import numpy as np
import pytest

from clnet_model.errors import BadConfig
from clnet_model.intervals import query_interval, seed_interval, share_interval, t_95


def hits(yes: int, no: int) -> np.ndarray:
    return np.array([True] * yes + [False] * no)


def test_hits_and_misses_have_wilsons_interval() -> None:
    found = query_interval(hits(8, 2))
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_a_share_has_the_interval_of_its_hits() -> None:
    found = share_interval(0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_no_miss_is_no_certainty() -> None:
    found = query_interval(hits(10, 0))
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 0.7225, 1.0), abs=1e-4)


def test_asking_twice_about_the_same_places_teaches_nothing() -> None:
    once = query_interval(hits(30, 10))
    twice = query_interval(np.repeat(hits(30, 10), 2), np.repeat(np.arange(40), 2))
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


def test_groups_that_all_succeed_count_as_one_query_each() -> None:
    assert query_interval(hits(100, 0), np.repeat(np.arange(10), 10)) == query_interval(hits(10, 0))


def test_interval_of_a_mean_covers_it_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(0)
    estimates = [query_interval(rng.beta(0.4, 0.2, 200)) for _ in range(1000)]
    covered = np.mean([estimate.low <= 2 / 3 <= estimate.high for estimate in estimates])
    assert 0.93 <= covered <= 0.97


def test_seeds_have_students_interval() -> None:
    found = seed_interval([1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-4)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (10, 2.22814), (11, 2.20099), (30, 2.04227), (1000, 1.96234)]
)
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert t_95(freedom) == pytest.approx(quantile, abs=2e-5)


def test_too_few_values_are_refused() -> None:
    with pytest.raises(BadConfig, match="1 seeds have no interval"):
        seed_interval([0.5])
    with pytest.raises(BadConfig, match="0 queries"):
        query_interval(np.array([]))
