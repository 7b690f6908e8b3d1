"""Value noise: smooth random fields and cheap per-cell hashes, the same in numpy and in compiled code."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def smooth_noise(
    shape: tuple[int, int], cell: float, rng: np.random.Generator, octaves: int = 3
) -> NDArray[np.float32]:
    """Fractal value noise with zero mean and about unit range, features of `cell` pixels and finer."""
    out = np.zeros(shape, np.float32)
    amplitude = 1.0
    for _ in range(octaves):
        rows, cols = int(shape[0] / cell) + 3, int(shape[1] / cell) + 3
        lattice = rng.uniform(-1, 1, (rows, cols)).astype(np.float32)
        out += amplitude * _upsample(lattice, shape, cell)
        amplitude, cell = amplitude * 0.5, max(cell / 2.3, 1.0)
    return out


def _upsample(lattice: NDArray[np.float32], shape: tuple[int, int], cell: float) -> NDArray[np.float32]:
    def axis(n: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        at = np.arange(n, dtype=np.float32) / cell
        low = np.floor(at).astype(np.intp)
        t = at - low
        return low, t * t * (3 - 2 * t)

    (r, tr), (c, tc) = axis(shape[0]), axis(shape[1])
    top = lattice[r] + (lattice[r + 1] - lattice[r]) * tr[:, None]  # (H, lattice columns)
    return top[:, c] + (top[:, c + 1] - top[:, c]) * tc[None, :]  # (H, W)


@njit(cache=True, inline="always")
def hash01(a: int, b: int, c: int) -> float:
    """A repeatable number in [0, 1) from three integers (integer finaliser of MurmurHash3, 32 bit)."""
    h = (a * 374761393 + b * 668265263 + c * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 3266489917) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF) / 16777216.0
