"""Turning a street image after it was embedded: the descriptor's azimuths turn with the camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def turned(vectors: Vectors, turns: int) -> Vectors:
    """(B, D) street vectors as if the camera's heading had been 0, 1, … `turns` - 1 parts larger.

    (turns * B, D), row j * B + b is vector b turned by j of `turns` parts of the circle: what embedding the
    rolled canvases gives, for none of the time. (Nearly what it gives with a library's backbone, which has
    edges.)
    """
    places = vectors.shape[1] // turns
    return np.concatenate([np.roll(vectors, part * places, axis=1) for part in range(turns)])


def refined_heading(similarities: NDArray[np.floating], headings_deg: NDArray[np.floating]) -> float:
    """The best heading, refined by the parabola through it and its two neighbours where those were tried.

    `similarities` and `headings_deg` are (R,), the headings evenly spaced; a full circle of them wraps.
    """
    best = int(np.argmax(similarities))
    if len(headings_deg) < 3:
        return float(headings_deg[best] % 360.0)
    step_deg = float(headings_deg[1] - headings_deg[0])
    circular = step_deg * len(headings_deg) > 359.0
    if not circular and best in {0, len(headings_deg) - 1}:
        return float(headings_deg[best] % 360.0)
    left, middle, right = similarities[np.array([best - 1, best, best + 1]) % len(headings_deg)]
    curvature = left - 2.0 * middle + right
    if not (np.isfinite(curvature) and curvature < 0.0):
        return float(headings_deg[best] % 360.0)
    return float((headings_deg[best] + 0.5 * (left - right) / curvature * step_deg) % 360.0)


def heading_difference_deg(
    heading_deg: NDArray[np.floating] | float, other_deg: NDArray[np.floating] | float
) -> NDArray[np.float64]:
    """The short way around from one heading to another, 0 to 180 degrees; broadcasts."""
    away_deg = np.asarray(heading_deg, np.float64) - np.asarray(other_deg, np.float64)
    return np.asarray(np.abs((away_deg + 180.0) % 360.0 - 180.0))
