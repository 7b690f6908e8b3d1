"""Simulates the cities that the shipped checkpoints are trained and validated on.

    python benchmarks/training_cities.py --out data --train 24 --val 2

Styles rotate through simulation.styles.TRAIN_STYLES, never a held-out one; city k has seed 1000 + k
(validation: 2000 + k). A finished city is left alone, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path


def simulate_one(out: Path, *, seed: int, style: str, size_m: float, panoramas: int, photos: int) -> str:
    """One city; runs in its own process with one thread."""
    from simulation.dataset import simulate_city

    if not (out / "manifest.parquet").is_file():
        simulate_city(out, seed=seed, style=style, size_m=size_m, panoramas=panoramas, photos=photos)
    return f"{out.name}: {style}, seed {seed}"


def main() -> None:
    """Simulate every city of both splits, one process per core."""
    from simulation.styles import TRAIN_STYLES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--train", type=int, default=24)
    parser.add_argument("--val", type=int, default=2)
    parser.add_argument("--size-m", type=float, default=900.0)
    parser.add_argument("--panoramas", type=int, default=1000)
    parser.add_argument("--photos", type=int, default=120)
    args = parser.parse_args()
    os.environ["NUMBA_NUM_THREADS"] = "1"
    jobs = [
        (args.out / "train" / f"city_{k:02d}", 1000 + k, TRAIN_STYLES[k % len(TRAIN_STYLES)])
        for k in range(args.train)
    ]
    jobs += [
        (args.out / "val" / f"city_{k:02d}", 2000 + k, TRAIN_STYLES[(2 * k + 1) % len(TRAIN_STYLES)])
        for k in range(args.val)
    ]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(
                simulate_one,
                out,
                seed=seed,
                style=style,
                size_m=args.size_m,
                panoramas=args.panoramas,
                photos=args.photos,
            )
            for out, seed, style in jobs
        ]
        for job in waiting:
            print(job.result(), flush=True)


if __name__ == "__main__":
    main()
