"""GeoPairs: one city's street canvases and aerial patches with their metric positions, on disk or in memory.

Knows arrays and offsets in metres; does not know GeoTIFFs, manifests or tiles (the command line glues those).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clnet_model.errors import BadPairs
from clnet_model.preprocess import Pixels

ARRAYS = ("canvases", "street_xy_m", "patches", "patch_xy_m", "hfov_deg")
FORMAT = 1
FINGERPRINTED = 32  # images that a fingerprint looks at


@dataclass(frozen=True, kw_only=True, slots=True)
class GeoPairs:
    """A city for training or evaluation.

    Canvases are north-aligned by the true heading. Patches may carry a margin around the `patch_px`
    that the network
    sees (`margin_px` on every side at the same resolution) so that training can move the crop.
    Positions are x east,
    y north in one metric projected CRS whose north is the patches' north.
    """

    city: str
    canvases: Pixels  # (N, H, W, 4)
    street_xy_m: NDArray[np.float64]  # (N, 2)
    hfov_deg: NDArray[np.float32]  # (N,), 360 for panoramas
    patches: Pixels  # (P, S + 2 margin, S + 2 margin, 3)
    patch_xy_m: NDArray[np.float64]  # (P, 2)
    margin_px: int = 0
    gsd_m: float = 70.0 / 128

    def __post_init__(self) -> None:
        expected: dict[str, tuple[NDArray[Any], tuple[int | None, ...]]] = {
            "canvases": (self.canvases, (len(self.street_xy_m), None, None, 4)),
            "street_xy_m": (self.street_xy_m, (len(self.canvases), 2)),
            "hfov_deg": (self.hfov_deg, (len(self.canvases),)),
            "patches": (self.patches, (len(self.patch_xy_m), None, None, 3)),
            "patch_xy_m": (self.patch_xy_m, (len(self.patches), 2)),
        }
        for name, (array, shape) in expected.items():
            fits = array.ndim == len(shape) and all(
                want is None or have == want for have, want in zip(array.shape, shape, strict=False)
            )
            if not fits:
                raise BadPairs(f"{self.city}: {name} is {array.shape}, expected {shape} (None = any)")
        if not len(self.canvases) or not len(self.patches):
            raise BadPairs(
                f"{self.city}: {len(self.canvases)} street images, {len(self.patches)} patches; it needs both"
            )

    @property
    def patch_px(self) -> int:
        return int(self.patches.shape[1]) - 2 * self.margin_px

    def __len__(self) -> int:
        return len(self.canvases)

    def centre_patches(self, rows: slice | NDArray[np.intp] = slice(None)) -> Pixels:
        """Patches without their margin: what the gallery holds."""
        margin, size = self.margin_px, self.patch_px
        return self.patches[rows, margin : margin + size, margin : margin + size]

    def panoramas(self) -> NDArray[np.intp]:
        """Rows of the full-circle canvases."""
        return np.flatnonzero(self.hfov_deg >= 359.0)

    def widest(self) -> NDArray[np.intp]:
        """Rows of the full-circle canvases; all rows where there are none."""
        rows = self.panoramas()
        return rows if len(rows) else np.arange(len(self))

    def subset(self, rows: NDArray[np.intp]) -> GeoPairs:
        """The same gallery with some of the street images."""
        return GeoPairs(
            city=self.city,
            canvases=self.canvases[rows],
            street_xy_m=self.street_xy_m[rows],
            hfov_deg=self.hfov_deg[rows],
            patches=self.patches,
            patch_xy_m=self.patch_xy_m,
            margin_px=self.margin_px,
            gsd_m=self.gsd_m,
        )

    def fingerprint(self) -> str:
        """Tells data from other data, wherever its folder lies: all positions, and some of the images."""
        digest = hashlib.sha256(repr((self.margin_px, float(self.gsd_m))).encode())
        for name in ARRAYS:
            array = getattr(self, name)
            pixels = array.dtype == np.uint8
            some = array[np.linspace(0, len(array) - 1, FINGERPRINTED).astype(int)] if pixels else array
            digest.update(repr((name, array.shape)).encode() + np.ascontiguousarray(some).tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write one .npy per array, so that a later load maps them into memory instead of reading them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        mark_complete(folder, city=self.city, margin_px=self.margin_px, gsd_m=self.gsd_m)


def some_of(pairs: Sequence[GeoPairs], count: int) -> tuple[Pixels, Pixels]:
    """About `count` street canvases (N, H, W, 4) and as many patches (M, S, S, 3), evenly from all cities."""
    each = -(-count // len(pairs))

    def rows(images: Pixels) -> NDArray[np.intp]:
        return np.linspace(0, len(images) - 1, min(each, len(images))).astype(int)

    return (
        np.concatenate([city.canvases[rows(city.canvases)] for city in pairs]),
        np.concatenate([city.centre_patches(rows(city.patches)) for city in pairs]),
    )


def mark_complete(folder: Path, *, city: str, margin_px: int, gsd_m: float, **also: str) -> None:
    """Write what a folder's arrays are; comes after them, because it says that all are there."""
    about = {"format": FORMAT, "city": city, "margin_px": margin_px, "gsd_m": gsd_m, **also}
    (folder / "pairs.json").write_text(json.dumps(about, indent=2) + "\n")


def load_pairs(folder: Path) -> GeoPairs:
    """Open a saved city; pixel arrays stay memory-mapped.

    Raises:
        BadPairs: the folder is not a complete data set of this format.
    """
    try:
        about = json.loads((folder / "pairs.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    except (OSError, ValueError) as error:
        raise BadPairs(f"{folder} holds no complete pairs data set ({error}); write it again") from error
    if about.get("format") != FORMAT:
        raise BadPairs(
            f"{folder} has pairs format {about.get('format')}, this version reads {FORMAT}; rebuild it"
        )
    return GeoPairs(city=about["city"], margin_px=about["margin_px"], gsd_m=about["gsd_m"], **arrays)


def nearest_rows(
    from_xy_m: NDArray[np.float64], to_xy_m: NDArray[np.float64], *, count: int, block: int = 1024
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For each position the `count` nearest others, nearest first: rows and distances in metres (N,
    count)."""
    count = min(count, len(to_xy_m))
    block = max(16, min(block, 2**24 // max(1, len(to_xy_m))))  # distances of a block: 128 MB at most
    rows = np.empty((len(from_xy_m), count), np.int32)
    metres = np.empty((len(from_xy_m), count), np.float32)
    for start in range(0, len(from_xy_m), block):
        offset = from_xy_m[start : start + block, None] - to_xy_m[None]
        distance = np.hypot(offset[..., 0], offset[..., 1])
        part = np.argpartition(distance, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(distance, part, axis=1).argsort(axis=1, kind="stable")
        rows[start : start + block] = np.take_along_axis(part, order, axis=1)
        metres[start : start + block] = np.take_along_axis(distance, rows[start : start + block], axis=1)
    return rows, metres
