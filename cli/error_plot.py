"""Geometry of the error plot: share of images placed within a distance, distance on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 24.0, 14.0, 46.0
NEAREST_M, FARTHEST_M = 1.0, 2000.0
TICKS_M = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Errors to draw; infinite ones never join the curve and keep it below 100 %."""

    key: str
    title: str
    errors_m: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One drawn curve: an SVG path."""

    key: str
    title: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A grid line and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPlot:
    """Everything the template needs to draw the plot, in drawing units."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    near_x: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


def error_plot(curves: Sequence[Curve], *, near_m: float = 25.0) -> ErrorPlot:
    """Lay out the cumulative error curves."""
    farthest_m = _farthest(curves)
    ticks_m = [tick for tick in TICKS_M if tick <= farthest_m]
    return ErrorPlot(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        near_x=_x(near_m, farthest_m),
        x_ticks=tuple(Tick(at=_x(tick, farthest_m), label=f"{tick:,}") for tick in ticks_m),
        y_ticks=tuple(Tick(at=_y(share / 100), label=f"{share} %") for share in (0, 25, 50, 75, 100)),
        lines=tuple(Line(key=c.key, title=c.title, path=_path(c, farthest_m)) for c in curves),
    )


def _farthest(curves: Sequence[Curve]) -> float:
    """The first tick that holds every finite error; at least 100 m so that the axis reads well."""
    finite = [error for curve in curves for error in curve.errors_m if math.isfinite(error)]
    largest_m = max([100.0, *finite])
    return next((float(tick) for tick in TICKS_M if tick >= largest_m), FARTHEST_M)


def _x(distance_m: float, farthest_m: float) -> float:
    share = math.log(max(distance_m, NEAREST_M) / NEAREST_M) / math.log(farthest_m / NEAREST_M)
    return LEFT + min(share, 1.0) * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _path(curve: Curve, farthest_m: float) -> str:
    """Step path through the sorted errors, ended at the right edge."""
    total = len(curve.errors_m)
    finite = sorted(error for error in curve.errors_m if math.isfinite(error))
    parts = [f"M{LEFT:.1f} {_y(0):.1f}"]
    parts += [f"H{_x(error, farthest_m):.1f}V{_y((i + 1) / total):.1f}" for i, error in enumerate(finite)]
    return "".join(parts) + f"H{WIDTH - RIGHT:.1f}"
