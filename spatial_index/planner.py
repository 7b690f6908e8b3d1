"""Decides how a search is executed. Pure: takes counts and measurements, returns a plan with its reason.

Off the shelf a filtered graph search is fast and wrong (recall@10 of 0.25 for one shape where 10 % of 100,000
points pass), and says nothing. So every collection is searched exactly, unless its profile, measured on the
collection itself when it was promoted, proves that another method finds as much in less time at such a share
of candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RECALL = 0.99
"""The contract: recall@10 against the exact scan, at every share of candidates."""
WORTHWHILE = 0.8
"""Another method must take less than this share of the exact scan's time."""
GRAPH_LINKS = 16
GRAPH_EFFORT = 128
FULL_SCAN_KB = 10
"""A collection that small is scanned by the engine itself: what is scanned, this module decides."""
LIST_PER_HIT = 4
"""A graph search keeps at least this many entries for each hit asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A way to search a collection.

    `exact`: every candidate's own vector. `rescored`: every candidate's int8 vector, the best again by their
    own. `graph`: HNSW with the filter applied along the way. `acorn`: HNSW that looks past neighbours that
    the filter refuses (Patel et al., SIGMOD 2024).
    """

    name: str
    ef: int = 0
    """Length of the graph search's list."""
    oversampling: float = 0.0
    """Hits fetched by int8 for each one wanted."""

    def __str__(self) -> str:
        settings = f" ef {self.ef}" if self.ef else ""
        return f"{self.name}{settings}" + (
            f" oversampling {self.oversampling:g}" if self.oversampling else ""
        )

    def list_length(self, limit: int) -> int:
        """What a search for `limit` hits uses for `ef`."""
        return max(self.ef, LIST_PER_HIT * limit)


EXACT = Method(name="exact")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A method measured where a share of the collection passes the filter."""

    method: Method
    share: float
    ms: float
    """Median time of a search for one vector."""
    recall_at_10: float
    """In the least favourable kind of query."""

    @property
    def holds(self) -> bool:
        """Whether the method may be used there."""
        return self.recall_at_10 >= RECALL


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What the methods cost and find on one collection."""

    trials: tuple[Trial, ...]

    @property
    def methods(self) -> tuple[Method, ...]:
        """Those that were tried, in the order tried."""
        return tuple(dict.fromkeys(trial.method for trial in self.trials))

    def cost_ms(self, method: Method, share: float) -> float | None:
        """Expected time where `share` (0 to 1) of the points pass; None where the method does not hold.

        A method holds between two shares when it held at both; below the smallest share nothing but the exact
        scan does, which has little to do there.
        """
        trials = sorted((t for t in self.trials if t.method == method), key=lambda trial: trial.share)
        above = next((row for row, trial in enumerate(trials) if trial.share >= share), None)
        if above is None:
            return None
        if above == 0 and method != EXACT and trials[0].share > share:
            return None
        around = trials[above : above + 1] if trials[above].share == share else trials[above - 1 : above + 1]
        if not all(trial.holds for trial in around):
            return None
        shares, times = [trial.share for trial in trials], [trial.ms for trial in trials]
        return float(np.exp(np.interp(np.log(share), np.log(shares), np.log(times))))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values."""
        return [asdict(trial) for trial in self.trials]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> Profile:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError: something is missing.
        """
        return cls(trials=tuple(Trial(**{**row, "method": Method(**row["method"])}) for row in rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to search, and why."""

    method: Method
    reason: str


def choose_plan(*, candidates: int, patches: int, profile: Profile | None = None) -> Plan:
    """The plan for a search whose filter passes `candidates` of `patches` points; exact without a profile."""
    counts = f"{candidates} candidates of {patches} patches"
    if profile is None or not candidates:
        return Plan(method=EXACT, reason=f"exact: {counts}")
    share = min(1.0, candidates / patches)
    costs = {method: profile.cost_ms(method, share) for method in profile.methods}
    holding = {method: cost for method, cost in costs.items() if cost is not None and method != EXACT}
    exact_ms = costs.get(EXACT)
    if not holding or exact_ms is None:
        return Plan(method=EXACT, reason=f"exact: {counts}; no other method holds there")
    best = min(holding, key=lambda method: holding[method])
    if holding[best] > WORTHWHILE * exact_ms:
        return Plan(method=EXACT, reason=f"exact: {counts}; {exact_ms:.1f} ms, {best} {holding[best]:.1f} ms")
    return Plan(method=best, reason=f"{best}: {counts}; {holding[best]:.1f} ms, exact {exact_ms:.1f} ms")
