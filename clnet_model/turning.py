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
