"""Exact retrieval figures: ranks, ties, average precision, hit rate, metres; and what they hold in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from clnet_model.errors import BadPairs
from clnet_model.retrieval import WGS84, Retrieval, average_precision, block_rows, retrieve
from clnet_model.truth import Truth, Vectors

ASKED = np.array([[1.0, 0.0]], np.float32)
HOME = (7.988, 46.316)
CVACT_TEST = 92_802


def gallery_at(*similarities: float) -> Vectors:
    """Unit vectors (P, 2) with these similarities to ASKED."""
    first = np.array(similarities)
    return np.stack([first, np.sqrt(1 - first**2)], axis=1).astype(np.float32)


def ask(similarities: Sequence[float], positives: Sequence[int], **known: object) -> Retrieval:
    """One query among rows of the given similarities."""
    truth = Truth(positives=[rows(*positives)], **known)  # type: ignore[arg-type]
    return retrieve(ASKED, gallery_at(*similarities), truth)


def rows(*numbers: int) -> NDArray[np.intp]:
    return np.array(numbers, np.intp)


def unit(count: int, dim: int, *, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def east_of_home(*metres: float) -> NDArray[np.float64]:
    """Positions (N, 2) due east of HOME."""
    return np.array([WGS84.fwd(*HOME, 90.0, each)[:2] for each in metres])


def tied_world(*, seed: int) -> tuple[Vectors, Vectors, Truth]:
    """40 queries and 90 rows, each one of 9 vectors, so that most similarities tie; up to 5 right rows."""
    rng = np.random.default_rng(seed)
    vectors = unit(9, 16, seed=seed)
    right = [rng.choice(80, rng.integers(1, 6), replace=False).astype(np.intp) for _ in range(40)]
    semi = [np.setdiff1d(rng.choice(80, 3, replace=False), each).astype(np.intp) for each in right]
    truth = Truth(positives=right, semi_positives=semi, junk=rows(*range(80, 90)))
    return vectors[rng.integers(0, 9, 40)], vectors[rng.integers(0, 9, 90)], truth


def worst_order(similarity: NDArray[np.float64], right: NDArray[np.intp]) -> list[int]:
    """Rows by similarity; where it ties the right ones come last."""
    found = np.round(similarity, 9)
    return sorted(range(len(found)), key=lambda row: (-found[row], row in right))


def plain_average_precision(order: Sequence[int], right: NDArray[np.intp]) -> float:
    """The curve drawn point by point: recall rises by 1 / M at every right row, precision is taken on both
    sides of the step."""
    area, found = 0.0, 0
    for before, row in enumerate(order):
        if row in right:
            left = found / before if before else 1.0
            found += 1
            area += (left + found / (before + 1)) / 2 / len(right)
    return area


@pytest.mark.parametrize(("right", "rank"), [(0, 2), (1, 1), (2, 4), (3, 4)])
def test_rank_counts_all_that_are_as_good(right: int, rank: int) -> None:
    assert ask([0.6, 0.8, 0.1, 0.1], [right]).first_rank.tolist() == [rank]


def test_best_of_several_right_rows_counts_and_they_do_not_hinder_each_other() -> None:
    assert ask([0.9, 0.8, 0.8, 0.7], [1, 2, 3]).first_rank.tolist() == [2]
    assert ask([0.9, 0.9, 0.1, 0.1], [0, 1]).first_rank.tolist() == [1]
    assert ask([0.9, 0.8], [0, 0]).first_rank.tolist() == [1]


@pytest.mark.parametrize("dim", [3, 384, 1024])
@pytest.mark.parametrize("memory_bytes", [1, 2**16, 2**29])
def test_collapsed_model_comes_last_everywhere(dim: int, memory_bytes: int) -> None:
    """Whatever kernel multiplies a block, equal vectors tie."""
    same = np.repeat(unit(1, dim, seed=dim), 37, axis=0)
    truth = Truth(
        positives=[rows(number) for number in range(37)],
        semi_positives=[rows((number + 1) % 37) for number in range(37)],
    )
    found = retrieve(same, same, truth, memory_bytes=memory_bytes)
    assert set(found.first_rank.tolist()) == {37}
    figures = found.metrics()
    assert figures["recall_at_1"].value == figures["hit_rate"].value == figures["top1_covers"].value == 0
    assert figures["average_precision"].value == pytest.approx(0.5 / 37)


def test_block_sizes_change_nothing() -> None:
    queries, gallery = unit(70, 24, seed=1), unit(130, 24, seed=2)
    truth = Truth(
        positives=[rows(number, number + 50) for number in range(70)],
        semi_positives=[rows(number + 1) for number in range(70)],
        query_lnglat=east_of_home(*range(70)),
        gallery_lnglat=east_of_home(*range(130)),
    )
    whole = retrieve(queries, gallery, truth)
    for memory_bytes in (1, 10_000, 40_000, 200_000):
        parts = retrieve(queries, gallery, truth, memory_bytes=memory_bytes)
        for name in ("first_rank", "average_precision", "hit", "top1_covers", "error_m"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)
        assert parts.metrics() == whole.metrics()


def test_queries_may_come_in_blocks_of_any_size() -> None:
    queries, gallery, truth = tied_world(seed=4)
    stream = (queries[start:end] for start, end in [(0, 1), (1, 30), (30, 40)])
    np.testing.assert_array_equal(
        retrieve(stream, gallery, truth).first_rank, retrieve(queries, gallery, truth).first_rank
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_everything_equals_a_plain_count_row_by_row(seed: int) -> None:
    queries, gallery, truth = tied_world(seed=seed)
    found = retrieve(queries, gallery, truth, memory_bytes=20_000)
    assert truth.semi_positives is not None
    assert found.hit is not None
    assert found.top1_covers is not None
    similarity = queries.astype(np.float64) @ gallery[:80].T.astype(np.float64)
    for query, (right, semi) in enumerate(zip(truth.positives, truth.semi_positives, strict=True)):
        order = worst_order(similarity[query], right)
        rank = next(place for place, row in enumerate(order, 1) if row in right)
        assert found.first_rank[query] == rank
        assert found.average_precision[query] == pytest.approx(plain_average_precision(order, right))
        assert found.hit[query] == set(order[: rank - 1]).issubset(semi)
        covering = np.union1d(right, semi)
        assert found.top1_covers[query] == (worst_order(similarity[query], covering)[0] in covering)


def test_average_precision_by_hand() -> None:
    """Wrong, right, wrong, right: (0 + 1/2) / 2 / 2 + (1/3 + 2/4) / 2 / 2 = 1/3."""
    assert ask([0.9, 0.8, 0.7, 0.6], [1, 3]).average_precision[0] == pytest.approx(1 / 3)
    assert ask([0.9, 0.8, 0.7, 0.6], [0, 1]).average_precision[0] == 1
    assert average_precision(np.array([[3, 99]]), rows(1))[0] == pytest.approx((0 + 1 / 4) / 2)


def test_junk_is_in_no_ranking() -> None:
    found = ask([0.9, 0.8, 0.7, 0.6], [2], junk=rows(0))
    assert found.first_rank.tolist() == [2]
    assert found.average_precision[0] == pytest.approx((0 + 1 / 2) / 2)
    assert found.gallery == 3


@pytest.mark.parametrize(
    ("similarities", "rank", "hit", "covers"),
    [
        ([0.9, 0.8, 0.7], 1, True, True),  # positive, semi-positive, wrong
        ([0.8, 0.9, 0.7], 2, True, True),  # a semi-positive first spoils R@1 alone
        ([0.7, 0.9, 0.8], 3, False, True),  # semi-positive, wrong, positive: code and words differ
        ([0.8, 0.7, 0.9], 2, False, False),
        ([0.8, 0.8, 0.7], 2, True, True),
        ([0.8, 0.9, 0.9], 3, False, False),
    ],
)
def test_semi_positives(similarities: list[float], rank: int, hit: bool, covers: bool) -> None:
    """Row 0 is the positive, row 1 a semi-positive, row 2 wrong."""
    found = ask(similarities, [0], semi_positives=[rows(1)])
    assert found.hit is not None
    assert found.top1_covers is not None
    assert (found.first_rank[0], found.hit[0], found.top1_covers[0]) == (rank, hit, covers)


def test_hit_rate_only_where_semi_positives_are_known() -> None:
    assert "hit_rate" not in ask([0.9, 0.8], [0]).metrics()


def test_metres_to_the_first_row() -> None:
    known = {"query_lnglat": east_of_home(0), "gallery_lnglat": east_of_home(10, 40, 90)}
    found = ask([0.7, 0.9, 0.8], [0], **known)
    assert found.error_m is not None
    assert found.error_m[0] == pytest.approx(40, abs=1e-6)
    figures = found.metrics()
    assert [figures[f"recall_{radius}m"].value for radius in (25, 50, 100)] == [0, 1, 1]


def test_farthest_of_the_tied_first_rows_counts() -> None:
    known = {"query_lnglat": east_of_home(0), "gallery_lnglat": east_of_home(10, 40, 90)}
    found = ask([0.9, 0.8, 0.9], [0], **known)
    assert found.error_m is not None
    assert found.error_m[0] == pytest.approx(90, abs=1e-6)


def test_no_answer_where_everything_ties() -> None:
    known = {"query_lnglat": east_of_home(0), "gallery_lnglat": east_of_home(*[1] * 150)}
    found = ask([0.9] * 150, [0], **known)
    assert found.error_m is not None
    assert np.isinf(found.error_m[0])


def test_one_percent_is_of_the_gallery() -> None:
    similarities = [0.9, 0.8, *[0.1] * 198]
    assert ask(similarities, [1]).metrics()["recall_at_1_percent"].value == 1
    assert ask([0.9, *similarities], [2]).metrics()["recall_at_1_percent"].value == 0


def test_queries_of_one_place_widen_the_interval() -> None:
    queries, gallery = unit(400, 8, seed=5), unit(40, 8, seed=6)
    alone = retrieve(queries[:40], gallery, Truth(positives=[rows(number) for number in range(40)]))
    crowd = retrieve(
        np.repeat(queries[:40], 10, axis=0), gallery, Truth(positives=[rows(n // 10) for n in range(400)])
    )
    assert crowd.metrics()["recall_at_5"].low == pytest.approx(alone.metrics()["recall_at_5"].low)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"positives": []}, "no queries"),
        ({"positives": [rows()]}, "no right row"),
        ({"positives": [rows(3)]}, "rows 3 to 3, the gallery has 0 to 2"),
        ({"positives": [rows(0), rows(1)]}, "1 query vectors for 2"),
        ({"positives": [rows(0)], "semi_positives": []}, "semi_positives has 0 entries for 1"),
        ({"positives": [rows(0)], "junk": rows(0)}, "both junk and right"),
        ({"positives": [rows(0)], "gallery_lnglat": east_of_home(1)}, "gallery_lnglat has 1 entries for 3"),
    ],
)
def test_truth_that_does_not_fit_is_refused(truth: dict[str, object], message: str) -> None:
    with pytest.raises(BadPairs, match=message):
        retrieve(ASKED, gallery_at(0.9, 0.8, 0.7), Truth(**truth))  # type: ignore[arg-type]


def test_vectors_that_are_not_finite_are_refused() -> None:
    """NaN is never ahead: unchecked, a broken model would score 100 %."""
    broken = np.full((1, 2), np.nan, np.float32)
    with pytest.raises(BadPairs, match="query vectors are not finite"):
        retrieve(broken, gallery_at(0.9), Truth(positives=[rows(0)]))
    with pytest.raises(BadPairs, match="gallery vectors are not finite"):
        retrieve(ASKED, broken, Truth(positives=[rows(0)]))


@pytest.mark.parametrize("dim", [384, 1024])
def test_block_sizes_follow_from_the_memory(dim: int) -> None:
    query_rows, gallery_rows = block_rows(CVACT_TEST, dim, memory_bytes=2**29)
    assert query_rows * 9 * CVACT_TEST + gallery_rows * 8 * dim <= 2**29
    assert query_rows >= 256


def test_working_memory_stays_within_its_budget() -> None:
    queries = unit(1500, 16, seed=7)
    truth = Truth(positives=[rows(number) for number in range(1500)])
    tracemalloc.start()
    retrieve(queries, queries, truth, memory_bytes=2**21)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1.5 * 2**21 < queries.shape[0] ** 2 * 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cvact_test_fits_in_two_gigabytes() -> None:
    """92,802 × 92,802 at D = 1024, vectors included."""
    tracemalloc.start()
    gallery = unit(CVACT_TEST, 1024, seed=8)
    tracemalloc.reset_peak()
    queries = gallery.copy()
    truth = Truth(positives=list(np.arange(CVACT_TEST).reshape(-1, 1)))
    found = retrieve(queries, gallery, truth)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.first_rank == 1).all()
    assert peak_bytes < 2e9
