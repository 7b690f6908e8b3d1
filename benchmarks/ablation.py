"""What each module of CLNet is worth: the same data, the same steps, several seeds.

    pip install --group bench
    python benchmarks/training_cities.py --out data/ablation --train 8 --val 3 --size-m 500 \
        --panoramas 450 --photos 0
    python benchmarks/ablation.py --train data/ablation/train/* --test data/ablation/val/city_0[12] \
        --pairs ../shared/data/u1652_montage --jobs 2

All variants stand on the same frozen features of a network that has seen photographs
(ablation_features.py) and see the same batches in the same order, which depend on the seed alone; with
`--whole-seeds` they are also trained from scratch, trunk and all. The weights are the last averaged ones;
nothing is chosen on a test city or a test fold. PAIRS holds `drone` and `satellite` images of the same
names. Features and finished runs are kept in KEPT: a repeated command goes on where it stopped. Writes
OUT (JSON), prints its tables and draws docs/ablation.png; with `--draw` it only does the latter two.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from ablation_data import (
    on_frozen_cities,
    on_frozen_pairs,
    real_pairs,
    real_test_features,
    test_city,
    test_features,
    training_city,
    training_features,
)
from ablation_show import Row, draw, print_tables
from ablation_variants import VARIANTS, Budget, Run, cost
from ablation_whole import WHOLE, run_whole
from reporting import cpu, write_results

Task = Callable[[], Run]
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run what is missing, then write, print and draw."""
    args = parsed()
    if not args.draw:
        measure(args)
    rows = json.loads(args.out.read_text())["rows"]
    print_tables(rows)
    draw(rows, args.plot)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, nargs="*", default=[])
    parser.add_argument("--test", type=Path, nargs="*", default=[])
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--steps", type=int, default=300, help="on simulated cities")
    parser.add_argument("--pair-steps", type=int, default=100, help="on real pairs, each fold")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--draws", type=int, default=3, help="of each training image's light, noise and offset"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+")
    parser.add_argument("--whole-seeds", type=int, default=0, help="runs that train the trunk too")
    parser.add_argument("--whole-steps", type=int, default=500)
    parser.add_argument("--whole-batch", type=int, default=48)
    parser.add_argument("--device", default="cpu", help="of the runs that train the trunk too")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=ROOT / "data/ablation")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ablation.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/ablation.png")
    parser.add_argument("--draw", action="store_true", help="only print and draw what OUT holds")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> None:
    """Costs, then every run that an earlier call has not finished."""
    args.variants = args.variants or list(VARIANTS)
    args.kept.mkdir(parents=True, exist_ok=True)
    costs = [cost(name, VARIANTS[name], args.device) for name in args.variants if not VARIANTS[name].columns]
    context = get_context("spawn")  # a forked process cannot use the GPU
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=one_thread) as pool:
        tasks = dict(planned(args, pool))
        before = finished(args.kept)
        waiting = [pool.submit(kept, task, args.kept) for key, task in tasks.items() if key not in before]
        for done in as_completed(waiting):
            print(done.result(), flush=True)
    runs = [run for key, run in finished(args.kept).items() if key in tasks]
    about = [{"what": "data", "train": names(args.train), "test": names(args.test)}]
    write_results(
        args.out,
        [*about, *costs, *({"what": "run", **run} for run in runs)],
        machine=machine(args.device),
    )


def planned(args: argparse.Namespace, pool: ProcessPoolExecutor) -> Iterator[tuple[str, Task]]:
    """Keys and runs, seeds outermost: an interrupted benchmark still compares all variants."""
    on_cities = Budget(steps=args.steps, batch=args.batch)
    on_pairs = Budget(steps=args.pair_steps, batch=args.batch)
    whole = Budget(steps=args.whole_steps, batch=args.whole_batch)
    if args.pairs:
        features = features_of_pairs(args, pool)
        for seed in range(args.seeds):
            for variant in args.variants:
                task = partial(on_frozen_pairs, variant, seed, on_pairs, *features)
                yield key_of("real", variant, seed, on_pairs.steps, on_pairs.batch), task
    if args.train and args.test:
        train, test = features_of_cities(args, pool)
        for seed in range(args.seeds):
            for variant in args.variants:
                task = partial(on_frozen_cities, variant, seed, on_cities, train, test)
                yield key_of("simulated", variant, seed, on_cities.steps, on_cities.batch), task
    if args.whole_seeds:
        train, test = pairs_of_cities(args, pool)
        for seed in range(args.whole_seeds):
            for variant in [name for name in args.variants if name in WHOLE]:
                task = partial(run_whole, variant, seed, whole, train=train, test=test, device=args.device)
                yield key_of("simulated, trained whole", variant, seed, whole.steps, whole.batch), task


def key_of(data: str, variant: str, seed: int, steps: int, batch: int) -> str:
    return f"{data}, {variant}, seed {seed}, {steps} steps of {batch}"


def finished(folder: Path) -> dict[str, Row]:
    """Runs that this or an earlier, interrupted call has kept."""
    log = folder / "runs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {
        key_of(*(row[name] for name in ("data", "variant", "seed", "steps", "batch"))): row for row in rows
    }


def kept(task: Task, folder: Path) -> Run:
    """Runs in a process of the pool, which also writes what came out: nothing is lost with the others."""
    run = task()
    with (folder / "runs.jsonl").open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")
    return run


def one_thread() -> None:
    """In every process of the pool, before its first run: they share the cores."""
    os.environ["NUMBA_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pairs_of_cities(args: argparse.Namespace, pool: ProcessPoolExecutor) -> tuple[list[Path], list[Path]]:
    return list(pool.map(training_city, args.train)), list(pool.map(test_city, args.test))


def features_of_cities(args: argparse.Namespace, pool: ProcessPoolExecutor) -> tuple[list[Path], list[Path]]:
    train, test = pairs_of_cities(args, pool)
    ready = pool.map(partial(training_features, draws=args.draws), train)
    return list(ready), list(pool.map(test_features, test))


def features_of_pairs(args: argparse.Namespace, pool: ProcessPoolExecutor) -> tuple[Path, Path]:
    pairs = pool.submit(real_pairs, args.pairs, args.kept / "real").result()
    train = pool.submit(training_features, pairs, draws=args.draws)
    return train.result(), pool.submit(real_test_features, pairs).result()


def names(folders: Sequence[Path]) -> list[str]:
    return [f"{folder.parent.name}/{folder.name}" for folder in folders]


def machine(device: str) -> str:
    return f"{torch.cuda.get_device_name()}; {cpu()}" if device == "cuda" else cpu()


if __name__ == "__main__":
    main()
