"""Decides how a search is executed. Pure: takes counts, returns a plan with its reason.

Today every plan is an exact scan. Measured on 100,000 × 384-d points and two cores, one scan of everything
takes about 9 ms, while the engine's filtered graph loses up to 0.84 of recall@10 without a sign.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to search, and why."""

    name: str
    reason: str


def choose_plan(*, candidates: int, patches: int) -> Plan:
    """The plan for a search whose filter passes `candidates` of `patches` points."""
    return Plan(name="exact", reason=f"exact scan of {candidates} candidates of {patches} patches")
