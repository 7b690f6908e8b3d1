"""What an image's canvas costs, decoded whole and decoded as large as the canvas needs.

    python benchmarks/decode.py --out benchmarks/results/decode.json

One core; JPEGs of blobs of all sizes, the large ones stronger, as in photos; the fastest of some rounds.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from reporting import write_results

from clnet_model.preprocess import (
    Camera,
    CanvasSpec,
    Panorama,
    Perspective,
    decode_image,
    needed_width_px,
    to_canvas,
)

ROUNDS = 7
SPEC = CanvasSpec()
PANORAMA, PHOTO = Panorama(heading_deg=0.0), Perspective(heading_deg=0.0, hfov_deg=90.0)
CASES: tuple[tuple[str, Camera, int, int], ...] = (
    ("panorama", PANORAMA, 2048, 1024),
    ("panorama", PANORAMA, 4096, 2048),
    ("photo, 90°", PHOTO, 1920, 1080),
    ("photo, 90°", PHOTO, 4000, 3000),
)


def picture(width_px: int, height_px: int) -> bytes:
    """A JPEG."""
    dice = np.random.default_rng(4)
    layers = [
        Image.fromarray(dice.integers(0, 255, (height_px // step, width_px // step, 3), np.uint8)).resize(
            (width_px, height_px), Image.Resampling.BICUBIC
        )
        for step in (4, 16, 64, 256)
    ]
    data = io.BytesIO()
    pixels = np.average(layers, axis=0, weights=(1, 2, 4, 8)).astype(np.uint8)
    Image.fromarray(pixels).save(data, "JPEG", quality=92)
    return data.getvalue()


def fastest_ms(data: bytes, camera: Camera, at_least_px: int | None) -> float:
    """From bytes to canvas."""
    taken_s = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        to_canvas(decode_image(data, at_least_px=at_least_px), camera, SPEC)
        taken_s.append(time.perf_counter() - started_s)
    return round(1e3 * min(taken_s), 1)


def measure() -> Iterator[dict[str, Any]]:
    """A row for each case."""
    for name, camera, width_px, height_px in CASES:
        data = picture(width_px, height_px)
        whole_ms = fastest_ms(data, camera, None)
        needed_ms = fastest_ms(data, camera, needed_width_px(camera, SPEC))
        yield {
            "image": name,
            "width_px": width_px,
            "height_px": height_px,
            "kilobytes": len(data) // 1024,
            "whole_ms": whole_ms,
            "as_needed_ms": needed_ms,
            "ratio": round(whole_ms / needed_ms, 1),
        }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decode.json"))
    args = parser.parse_args()
    rows = list(measure())
    write_results(args.out, rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
