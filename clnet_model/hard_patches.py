"""Which patches of a city are easily mistaken for each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clnet_model.data import GeoPairs, nearest_rows
from clnet_model.encoder import Encoder


def look_alikes(
    encoder: Encoder, city: GeoPairs, *, count: int, apart_m: float, block: int = 512
) -> NDArray[np.int32]:
    """Rows (N, count) of the patches most alike to each street image's nearest patch, at least `apart_m`
    away. Memory grows with the number of patches, not with its square."""
    nearest, _ = nearest_rows(city.street_xy_m, city.patch_xy_m, count=1)
    near, inverse = np.unique(nearest[:, 0].astype(np.intp), return_inverse=True)
    vectors = np.concatenate(
        [encoder.embed_aerial(city.centre_patches(near[i : i + 256])) for i in range(0, len(near), 256)]
    )
    count = min(count, len(near) - 1)
    hardest = np.empty((len(near), count), np.intp)
    for first in range(0, len(near), block):
        rows = slice(first, first + block)
        alike = vectors[rows] @ vectors.T
        offset = city.patch_xy_m[near[rows]][:, None] - city.patch_xy_m[near][None]
        alike[np.hypot(offset[..., 0], offset[..., 1]) < apart_m] = -np.inf
        hardest[rows] = np.argpartition(-alike, count, axis=1)[:, :count]
    return near[hardest][inverse].astype(np.int32)
