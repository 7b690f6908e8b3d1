"""Whether answers are as good as they say: pure statistics over judged answers.

Inside and outside: every query is asked twice, once of the whole city and once with everything within 150 m
of the camera taken away, so that the right answer is "not here".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from clnet_model.intervals import share_interval

NEAR_M = 25.0
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)

HEADER = ("probability", "answers", "said %", "within 25 m %", "95 % interval")
RADII_HEADER = (
    "queries",
    "n",
    "within 25 m %",
    "inside r68 %",
    "inside r95 %",
    "heading inside r68 %",
    "LOCALIZED %",
    "of them right %",
)
OUTSIDE_HEADER = ("queries", "AUROC", "outside yet LOCALIZED %", "95 % interval")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One query's answers beside the truth."""

    error_m: float
    """Infinite without a hypothesis."""
    probability: float
    r68_m: float
    r95_m: float
    heading_error_deg: float
    heading_r68_deg: float
    """0 where the heading was given and nothing about it was searched."""
    localized: bool
    similarity: float
    """Best similarity; -1 without a patch."""
    outside_localized: bool
    outside_similarity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Answers of about the same probability."""

    low: float
    high: float
    answers: int
    said: float
    """Mean probability."""
    right: float
    """Share within NEAR_M."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """Figures of one kind of query; shares are 0 to 1."""

    queries: int
    within_25m: float
    inside_r68: float
    inside_r95: float
    heading_inside_r68: float | None
    """None where headings were given."""
    localized: float
    localized_right: float | None
    """None when none is."""
    auroc: float
    """That the best similarity of a query inside is greater than that of one outside."""
    outside_localized: float
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def reliability(judged: Sequence[Judged]) -> Reliability:
    """The figures of at least one query."""
    errors_m = np.array([each.error_m for each in judged])
    localized = np.array([each.localized for each in judged])
    right = errors_m <= NEAR_M
    return Reliability(
        queries=len(judged),
        within_25m=float(right.mean()),
        inside_r68=float(np.mean([each.error_m <= each.r68_m for each in judged])),
        inside_r95=float(np.mean([each.error_m <= each.r95_m for each in judged])),
        heading_inside_r68=heading_inside_r68(judged),
        localized=float(localized.mean()),
        localized_right=float(right[localized].mean()) if localized.any() else None,
        auroc=auroc([each.similarity for each in judged], [each.outside_similarity for each in judged]),
        outside_localized=float(np.mean([each.outside_localized for each in judged])),
        bins=bins_of([each.probability for each in judged], right.tolist()),
    )


def heading_inside_r68(judged: Sequence[Judged]) -> float | None:
    """Share of the headings that are inside their radius; None where none was searched for."""
    searched = [each for each in judged if each.heading_r68_deg > 0.0]
    if not searched:
        return None
    return float(np.mean([each.heading_error_deg <= each.heading_r68_deg for each in searched]))


def bins_of(said: Sequence[float], right: Sequence[bool]) -> tuple[Bin, ...]:
    """Answers by probability; empty bins are left out."""
    probability, hits = np.asarray(said), np.asarray(right)
    numbers = np.searchsorted(BINS[1:-1], probability, side="left")
    found = []
    for number, (low, high) in enumerate(pairwise(BINS)):
        inside = numbers == number
        if inside.any():
            found.append(
                Bin(
                    low=low,
                    high=high,
                    answers=int(inside.sum()),
                    said=float(probability[inside].mean()),
                    right=float(hits[inside].mean()),
                )
            )
    return tuple(found)


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Probability that a draw from inside is greater than one from outside, ties half (Mann-Whitney U)."""
    high, low = np.asarray(inside)[:, None], np.asarray(outside)[None]
    return float((high > low).mean() + 0.5 * (high == low).mean())


def rows(results: dict[str, Reliability]) -> list[tuple[str, ...]]:
    """As RADII_HEADER says."""
    return [
        (
            name,
            str(each.queries),
            _with_interval(each.within_25m, each.queries),
            _with_interval(each.inside_r68, each.queries),
            _with_interval(each.inside_r95, each.queries),
            "–" if each.heading_inside_r68 is None else _with_interval(each.heading_inside_r68, each.queries),
            f"{100 * each.localized:.1f}",
            "–" if each.localized_right is None else f"{100 * each.localized_right:.1f}",
        )
        for name, each in results.items()
    ]


def bin_rows(result: Reliability) -> list[tuple[str, ...]]:
    """As HEADER says."""
    return [
        (
            f"{each.low:.2f} to {each.high:.2f}",
            str(each.answers),
            f"{100 * each.said:.1f}",
            f"{100 * each.right:.1f}",
            _interval(each.right, each.answers),
        )
        for each in result.bins
    ]


def outside_rows(results: dict[str, Reliability]) -> list[tuple[str, ...]]:
    """As OUTSIDE_HEADER says."""
    return [
        (
            name,
            f"{each.auroc:.3f}",
            f"{100 * each.outside_localized:.1f}",
            _interval(each.outside_localized, each.queries),
        )
        for name, each in results.items()
    ]


def _with_interval(share: float, count: int) -> str:
    found = share_interval(share, count)
    return f"{100 * share:.1f} ±{50 * (found.high - found.low):.1f}"


def _interval(share: float, count: int) -> str:
    found = share_interval(share, count)
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"
