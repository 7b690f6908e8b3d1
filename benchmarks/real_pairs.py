"""Real pairs that a shipped checkpoint has never seen: does what it learned in simulated cities carry over?

    pip install --group bench
    python benchmarks/real_pairs.py ../shared/data/u1652_montage

PAIRS holds `drone` and `satellite` images of the same names (University-1652, Zheng et al., ACM MM 2020).
No real street panorama is among them, so this asks mainly the aerial branch: a drone's oblique image,
turned and cropped to what a satellite image shows of the place, against the satellite images of all
places. Beside it the frozen features that the ablation stands on, without a head. "Standardised": each
view's vectors less the mean of all 400 and in units of their spread, which only a whole test set allows. The
turn and the crop were read off frozen features of 160 of these pairs. Writes OUT (JSON) and prints it as a
table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_features import (
    DRONE_QUARTERS,
    DRONE_SHARES,
    aerial_features,
    blocks,
    drone_pairs,
    planes,
    square,
)
from numpy.typing import NDArray
from PIL import Image
from reporting import write_results

from cli.tables import markdown_table
from clnet_model.adapt import adapted
from clnet_model.encoder import TorchEncoder, load_encoder
from clnet_model.evaluate import rank_of_true
from clnet_model.intervals import share_interval
from clnet_model.trunk import Side

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "clnet_model/checkpoints/clnet-photo-s"
SIDE_PX = 128
SHOWN = 128  # pairs that the network is adapted to, without being told which belong together
Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]


def main() -> None:
    args = parsed()
    drone, satellite = images_of(args.pairs)
    unrolled = drone_pairs(args.pairs).canvases
    encoder = load_encoder(args.checkpoint)
    gallery = encoder.embed_aerial(satellite)
    branches = {
        "aerial branch": encoder.embed_aerial(drone),
        "street branch": encoder.embed_ground(unrolled),
    }
    frozen = (frozen_features(drone), frozen_features(satellite))
    rows = [row_of(f"{args.checkpoint.name}, {branch}", found, gallery) for branch, found in branches.items()]
    for name, both in {
        f"{args.checkpoint.name}, aerial branch": (branches["aerial branch"], gallery),
        f"{args.checkpoint.name}, street branch": (branches["street branch"], gallery),
        "frozen features, mean": tuple(features.mean(axis=(2, 3)) for features in frozen),
        "frozen features, where they lie": frozen,
        f"{args.checkpoint.name}, trunk's finer map": (
            trunk_map(encoder, drone),
            trunk_map(encoder, satellite),
        ),
    }.items():
        rows.append(row_of(f"{name}, standardised", *map(standard, both)))
    shown, asked = np.split(np.random.default_rng(0).permutation(len(drone)), [SHOWN])
    taken = TorchEncoder(adapted(encoder.model, unrolled[shown], satellite[shown]), digest="adapted")
    for name_, network in (("", encoder), (f", adapted to {SHOWN} others", taken)):
        vectors = network.embed_ground(unrolled[asked]), network.embed_aerial(satellite[asked])
        rows.append(row_of(f"{args.checkpoint.name}, street branch{name_}", *vectors))
    write_results(args.out, rows)
    print(markdown_table(["compared by", "pairs", "R@1", "R@5", "R@10"], [cells(row) for row in rows]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/real_pairs.json")
    return parser.parse_args()


def images_of(root: Path) -> tuple[Pixels, Pixels]:
    """Drone and satellite images (N, 128, 128, 3) of the same places, with the same north."""
    names = sorted(path.name for path in (root / "drone").iterdir())
    drone, satellite = (
        np.stack([square(root / view / name, SIDE_PX) for name in names]) for view in ("drone", "satellite")
    )
    return np.stack([as_from_above(image) for image in drone]), satellite


def as_from_above(drone: Pixels) -> Pixels:
    """The middle of a drone's image, stretched and turned clockwise as the satellite image shows it."""
    wide, high = (round(share * SIDE_PX / 2) for share in DRONE_SHARES)
    middle = SIDE_PX // 2
    cut = Image.fromarray(drone[middle - high : middle + high, middle - wide : middle + wide])
    return np.ascontiguousarray(np.rot90(np.asarray(cut.resize((SIDE_PX, SIDE_PX))), -DRONE_QUARTERS))


def frozen_features(images: Pixels) -> Vectors:
    """Unrolled features (N, C, rows, columns)."""
    parts = [aerial_features(planes(images[rows])) for rows in blocks(len(images))]
    return np.concatenate(parts).astype(np.float32)


def trunk_map(encoder: TorchEncoder, images: Pixels) -> Vectors:
    """The finer map of the network's trunk, before any head: (N, C, rows, columns). Of a trunk that has seen
    photographs it is the last that is frozen."""
    parts = []
    with torch.inference_mode():
        for rows in blocks(len(images)):
            planes_ = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2)))
            seen = encoder.model.seen_from_above(planes_)
            parts.append(encoder.model.trunk.backbone(seen, Side.AERIAL, around=True)[0].float().numpy())
    return np.concatenate(parts)


def standard(features: Vectors) -> Vectors:
    """Unit vectors (N, D) of what differs from the mean of all images, in units of its spread."""
    flat = features.reshape(len(features), -1)
    flat = (flat - flat.mean(axis=0)) / (flat.std(axis=0) + 1e-3)
    unit: Vectors = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return unit


def row_of(name: str, drone: Vectors, satellite: Vectors) -> dict[str, Any]:
    """Recalls 0 to 1 with 95 % intervals over pairs; ties count against."""
    rank = rank_of_true(drone @ satellite.T, np.arange(len(drone)))
    row: dict[str, Any] = {"compared_by": name, "pairs": len(drone)}
    for k in (1, 5, 10):
        found = share_interval(float((rank <= k).mean()), len(drone))
        row[f"recall_at_{k}"] = round(float((rank <= k).mean()), 4)
        row[f"recall_at_{k}_interval"] = [round(found.low, 4), round(found.high, 4)]
    return row


def cells(row: dict[str, Any]) -> list[str]:
    shown = []
    for k in (1, 5, 10):
        low, high = row[f"recall_at_{k}_interval"]
        shown.append(f"{100 * row[f'recall_at_{k}']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
    return [row["compared_by"], str(row["pairs"]), *shown]


if __name__ == "__main__":
    main()
