"""How sure a figure is: 95 % intervals over the queries of one run, and over the seeds of several.

Pure: takes numbers, knows neither ranks nor data sets. Deterministic: nothing is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clnet_model.errors import BadConfig

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
T_95 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float


def query_interval(
    values: NDArray[np.bool_] | NDArray[np.float64], groups: NDArray[Any] | None = None
) -> Estimate:
    """Mean of values between 0 and 1, (Q,), with Wilson's score interval (JASA 22, 1927).

    Queries of one group, (Q,) labels, succeed and fail together: the drone views of a building, the
    panoramas of one tile. So the interval is that of the effective number of queries p (1 - p) / variance,
    where the variance is that of a mean over whole groups (Kish, Survey Sampling, 1965). For hits and misses
    without groups this is the textbook interval. Where nothing varies, the number of groups stands in.

    Raises:
        BadConfig: no values.
    """
    if not len(values):
        raise BadConfig("0 queries have no mean; give at least one")
    mean = float(values.mean())
    member = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    deviation = np.bincount(member, weights=values - mean)  # (G,)
    variance = float(deviation @ deviation) / len(values) ** 2
    spread = mean * (1 - mean)
    effective = spread / variance if variance > 1e-12 * spread else float(len(deviation))
    return _wilson(mean, effective)


def share_interval(share: float, count: int) -> Estimate:
    """A share of `count` independent queries, with Wilson's score interval.

    Raises:
        BadConfig: no query.
    """
    if count < 1:
        raise BadConfig(f"{count} queries have no share; give at least one")
    return _wilson(share, count)


def seed_interval(values: Sequence[float]) -> Estimate:
    """Mean of one figure over several training seeds, with Student's t interval.

    Raises:
        BadConfig: fewer than two values.
    """
    if len(values) < 2:
        raise BadConfig(f"{len(values)} seeds have no interval; train at least 2, better 3")
    mean = float(np.mean(values))
    reach = t_95(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(value=mean, low=mean - reach, high=mean + reach)


def t_95(freedom: int) -> float:
    """97.5 % quantile of Student's t: a table up to 10 degrees of freedom, above it the expansion in their
    inverse (Abramowitz & Stegun 26.7.5), off by less than 1e-5 there.

    Raises:
        BadConfig: no degree of freedom.
    """
    if freedom < 1:
        raise BadConfig(f"{freedom} degrees of freedom: an interval needs at least 1")
    if freedom <= len(T_95):
        return T_95[freedom - 1]
    z = Z_95
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return math.fsum(term / float(freedom) ** power for power, term in enumerate(terms))


def _wilson(mean: float, count: float) -> Estimate:
    shrink = 1 + Z_95**2 / count
    middle = (mean + Z_95**2 / (2 * count)) / shrink
    reach = Z_95 / shrink * math.sqrt(mean * (1 - mean) / count + Z_95**2 / (4 * count**2))
    return Estimate(value=mean, low=max(0.0, middle - reach), high=min(1.0, middle + reach))
