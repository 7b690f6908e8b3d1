"""What the demo measures: one outcome per located image, one summary per setting.

Pure: knows neither gRPC nor the simulator. Definitions are those of the field: recall@k asks for the patch
whose tile holds the true camera position; ties count against the model, so a collapsed model scores chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mercantile import LngLat


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPatch:
    """One candidate patch of an answer, best first."""

    quadkey: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One image located in one setting, beside the truth."""

    image_id: str
    status: str
    true_position: LngLat
    found_position: LngLat | None
    error_m: float
    """Geodesic distance from truth to the best hypothesis; infinite when there is none."""
    true_patch_rank: int | None
    """1 for the best; None when the true patch is not among the candidates returned."""
    found_quadkey: str | None
    probability: float
    r68_m: float
    r95_m: float
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of one setting; shares are 0..1."""

    queries: int
    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    recall_25m: float
    median_error_m: float
    latency_p50_ms: float
    latency_p95_ms: float
    r68_coverage: float
    r95_coverage: float
    median_r68_m: float
    status_counts: dict[str, int]
    localized_25m: float | None
    """Of the answers that claim LOCALIZED, those within 25 m; None when none does."""


def rank_of(quadkey: str, patches: Sequence[RankedPatch]) -> int | None:
    """Rank of a patch among the candidates, every tie counted against it; None when it is absent."""
    own = next((patch.score for patch in patches if patch.quadkey == quadkey), None)
    if own is None:
        return None
    return sum(patch.score >= own for patch in patches)


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """Figures over all outcomes of one setting; an image without an answer counts as a miss everywhere.

    Raises:
        ValueError: there are no outcomes.
    """
    if not outcomes:
        raise ValueError("no outcomes to summarise; locate at least one image")
    latencies = [outcome.latency_ms for outcome in outcomes]
    answered = [outcome for outcome in outcomes if outcome.found_position is not None]
    claimed = [outcome for outcome in outcomes if outcome.status == "LOCALIZED"]
    return Summary(
        queries=len(outcomes),
        recall_at_1=_share(_within_rank(outcome, 1) for outcome in outcomes),
        recall_at_5=_share(_within_rank(outcome, 5) for outcome in outcomes),
        recall_at_10=_share(_within_rank(outcome, 10) for outcome in outcomes),
        recall_25m=_share(outcome.error_m <= 25.0 for outcome in outcomes),
        median_error_m=quantile([outcome.error_m for outcome in outcomes], 0.5),
        latency_p50_ms=quantile(latencies, 0.5),
        latency_p95_ms=quantile(latencies, 0.95),
        r68_coverage=_share(outcome.error_m <= outcome.r68_m for outcome in answered),
        r95_coverage=_share(outcome.error_m <= outcome.r95_m for outcome in answered),
        median_r68_m=quantile([outcome.r68_m for outcome in answered], 0.5),
        status_counts=dict(Counter(outcome.status for outcome in outcomes).most_common()),
        localized_25m=_share(outcome.error_m <= 25.0 for outcome in claimed) if claimed else None,
    )


def quantile(values: Sequence[float], level: float) -> float:
    """Linearly interpolated quantile that keeps infinities (no answer is infinitely far); nan when empty."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = level * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    if below == above or math.isinf(above):
        return above if position > math.floor(position) else below
    return below + (above - below) * (position - math.floor(position))


def _within_rank(outcome: Outcome, limit: int) -> bool:
    return outcome.true_patch_rank is not None and outcome.true_patch_rank <= limit


def _share(hits: Iterable[bool]) -> float:
    """Share of true values; 0 when there are none at all."""
    flags = list(hits)
    return sum(flags) / len(flags) if flags else 0.0
