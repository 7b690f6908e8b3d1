"""What a checkpoint's similarities mean: fitted on a validation city, stored beside the weights.

Knows similarities and positions; does not know the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clnet_model.errors import BadConfig

Similarities = NDArray[np.float32]

STRANGER_COSTS = 3.0
RAYLEIGH_68 = 1.5096  # √(-2 ln 0.32): where 68 % of a round Gaussian lie, in deviations per axis


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewCalibration:
    """For street images of one field of view, searched at one heading or, without any, at all of them.

    `temperature`: softmax(similarity / temperature) over a city's patches is the likeliest posterior of
    the true patch.
    `min_similarity`: a best similarity below it does not tell inside the gallery from outside.
    `position_r68_m`, `position_r95_m`: radii that held the interpolated position where the right place was
    found. Two of them, because the errors have a longer tail than a Gaussian.
    `heading_r68_deg`, `heading_r95_deg`: the same of a heading that was searched for.
    """

    hfov_deg: float
    temperature: float
    min_similarity: float
    position_r68_m: float
    position_r95_m: float
    heading_r68_deg: float
    heading_r95_deg: float
    inside_similarity_p05: float
    inside_similarity_p50: float
    outside_similarity_p50: float
    outside_similarity_p95: float
    heading_known: bool = True

    @property
    def position_sigma_m(self) -> float:
        """Deviation per axis of the round Gaussian with the same r68."""
        return self.position_r68_m / RAYLEIGH_68


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Views with a known heading last, among them the widest; an uncalibrated network gets placeholders."""

    views: tuple[ViewCalibration, ...] = field(
        default=(
            ViewCalibration(
                hfov_deg=360.0,
                temperature=0.05,
                min_similarity=-1.0,
                position_r68_m=18.0,
                position_r95_m=30.0,
                heading_r68_deg=10.0,
                heading_r95_deg=20.0,
                inside_similarity_p05=0.0,
                inside_similarity_p50=0.0,
                outside_similarity_p50=0.0,
                outside_similarity_p95=0.0,
            ),
        )
    )
    heading_step_deg: float = 15.0
    fitted: bool = False

    def __post_init__(self) -> None:
        if not self.views:
            raise BadConfig("a calibration needs at least one field of view; fit it with `clnet evaluate`")

    @property
    def temperature(self) -> float:
        return self.views[-1].temperature

    @property
    def min_similarity(self) -> float:
        return self.views[-1].min_similarity

    def at(self, hfov_deg: float, *, heading_known: bool = True) -> ViewCalibration:
        """The calibration of the nearest field of view that was fitted for such a search: the best of all
        headings is always more similar than the one heading that is known."""
        alike = [view for view in self.views if view.heading_known is heading_known] or self.views
        return min(alike, key=lambda view: abs(view.hfov_deg - hfov_deg))


def fit_temperature(similarity: Similarities, true_patch: NDArray[np.intp]) -> float:
    """Maximum-likelihood softmax temperature of the true patch among all (Q, P); golden-section in log
    space."""
    low, high = np.log(0.005), np.log(0.5)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(24):
        a, b = high - golden * (high - low), low + golden * (high - low)
        if _negative_log_likelihood(similarity, true_patch, np.exp(a)) < _negative_log_likelihood(
            similarity, true_patch, np.exp(b)
        ):
            high = b
        else:
            low = a
    return float(np.exp((low + high) / 2))


def fit_threshold(inside: Similarities, outside: Similarities) -> float:
    """The best-similarity threshold with the least harm: a stranger let in costs STRANGER_COSTS times as much
    as a place not recognised, because a wrong answer that looks right is worse than none."""
    levels = np.unique(np.concatenate([inside, outside]))
    missed = np.searchsorted(np.sort(inside), levels, side="left") / len(inside)
    accepted = 1.0 - np.searchsorted(np.sort(outside), levels, side="left") / len(outside)
    return float(levels[np.argmin(missed + STRANGER_COSTS * accepted)])


def error_quantiles(r68: float, r95: float, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Errors that are not exceeded in `shares` (0 to 1) of the cases, from the two that were measured."""
    return np.interp(shares, (0.0, 0.68, 0.95, 1.0), (0.0, r68, r95, 1.5 * r95))


def _negative_log_likelihood(
    similarity: Similarities, true_patch: NDArray[np.intp], temperature: float
) -> float:
    logits = similarity / temperature
    peak = logits.max(axis=1, keepdims=True)
    log_sum = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))
    return float((log_sum - logits[np.arange(len(logits)), true_patch]).mean())
