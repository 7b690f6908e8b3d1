"""What each module of CLNet is worth: the same data, the same steps, several seeds.

    python benchmarks/training_cities.py --out data/ablation --train 8 --val 3 --size-m 500 \
        --panoramas 450 --photos 0
    python benchmarks/ablation.py --train data/ablation/train/* --test data/ablation/val/city_0[12] \
        --pairs data/u1652_montage --device cuda --jobs 15

Every variant sees the same batches in the same order (they depend on the seed alone). The checkpoint is the
last averaged one; nothing is chosen on a test city or a test fold. PAIRS holds `drone` and `satellite` images
of the same names. Finished runs are kept beside OUT: a repeated command goes on where it stopped. Writes OUT
(JSON), prints its tables and draws docs/ablation.png; with `--draw` it only does the latter two.
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
from typing import TYPE_CHECKING, Any

from reporting import cpu, write_results

if TYPE_CHECKING:
    from ablation_runs import Budget, Run, Variant

Row = dict[str, Any]
Task = Callable[[], "Run"]
ROOT = Path(__file__).resolve().parent.parent
MODULES = ("baseline", "+ NCM", "+ NEC", "+ GFR", "all")
COST_BATCH = {"cpu": 64, "cuda": 512}


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
    parser.add_argument("--steps", type=int, default=1000, help="on simulated cities")
    parser.add_argument("--pair-steps", type=int, default=200, help="on real pairs, each fold")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--pair-batch", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ablation.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/ablation.png")
    parser.add_argument("--draw", action="store_true", help="only print and draw what OUT holds")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> None:
    """Costs, then every run that an earlier call has not finished."""
    from ablation_runs import VARIANTS

    variants = args.variants or list(VARIANTS)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    costs = [cost(name, VARIANTS[name], args.device) for name in variants]
    context = get_context("spawn")  # a forked process cannot use the GPU
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=one_thread) as pool:
        tasks = {key: task for key, task in planned(args, variants, pool) if key not in finished(args.out)}
        waiting = [pool.submit(kept, task, args.out) for task in tasks.values()]
        for done in as_completed(waiting):
            print(done.result(), flush=True)
    wanted = {key for key, _ in planned(args, variants, None)}
    runs = [run for key, run in finished(args.out).items() if key in wanted]
    about = [{"what": "data", "train": names(args.train), "test": names(args.test)}]
    write_results(
        args.out,
        [*about, *costs, *({"what": "run", **run} for run in runs)],
        machine=machine(args.device),
    )


def planned(
    args: argparse.Namespace, variants: Sequence[str], pool: ProcessPoolExecutor | None
) -> Iterator[tuple[str, Task]]:
    """Keys and runs, seeds outermost: an interrupted benchmark still compares all variants.

    With a pool, the data are made ready first.
    """
    from ablation_runs import Budget, run_on_cities, run_on_pairs, saved_city, saved_drone_pairs

    train, test, pairs = args.train, args.test, args.pairs
    if pool is not None:
        train = list(pool.map(partial(saved_city, whole=False), train))
        test = list(pool.map(partial(saved_city, whole=True), test))
        pairs = pairs and saved_drone_pairs(pairs, pairs / ".cache")
    on_cities = Budget(steps=args.steps, batch=args.batch, device=args.device)
    on_pairs = Budget(steps=args.pair_steps, batch=args.pair_batch, device=args.device)
    for seed in range(args.seeds):
        for variant in variants:
            if args.train and args.test:
                task = partial(run_on_cities, variant, seed, on_cities, train=train, test=test)
                yield key_of("simulated", variant, seed, on_cities), task
    for seed in range(args.seeds):
        for variant in [name for name in variants if name in MODULES]:
            if args.pairs:
                task = partial(run_on_pairs, variant, seed, on_pairs, pairs=pairs)
                yield key_of("real", variant, seed, on_pairs), task


def key_of(data: str, variant: str, seed: int, budget: Budget) -> str:
    return f"{data}, {variant}, seed {seed}, {budget.steps} steps of {budget.batch}"


def finished(out: Path) -> dict[str, Row]:
    """Runs that this or an earlier, interrupted call has kept."""
    from ablation_runs import Budget

    log = log_of(out)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {
        key_of(row["data"], row["variant"], row["seed"], Budget(steps=row["steps"], batch=row["batch"])): row
        for row in rows
    }


def kept(task: Task, out: Path) -> Run:
    """Runs in a process of the pool, which also writes what came out: nothing is lost with the others."""
    run = task()
    with log_of(out).open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")
    return run


def log_of(out: Path) -> Path:
    return out.with_suffix(".runs.jsonl")


def one_thread() -> None:
    """In every process of the pool, before its first run: they share the cores."""
    import torch

    os.environ["NUMBA_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def names(folders: Sequence[Path]) -> list[str]:
    return [f"{folder.parent.name}/{folder.name}" for folder in folders]


def machine(device: str) -> str:
    import torch

    return f"{torch.cuda.get_device_name()}; {cpu()}" if device == "cuda" else cpu()


def cost(name: str, variant: Variant, device: str) -> Row:
    """Size, operations, and milliseconds of embedding one image of each view that lies on the device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from clnet_model.model import CLNet, CLNetConfig
    from clnet_model.precision import mixed

    config = CLNetConfig().without(*variant.off)
    model = CLNet(config).eval().to(device)
    batch = COST_BATCH[torch.device(device).type]
    row: Row = {"what": "cost", "variant": name, "device": device, "batch": batch}
    row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    shapes = {
        "ground": (4, config.canvas.height_px, config.canvas.width_px),
        "aerial": (3, config.patch_px, config.patch_px),
    }
    for view, shape in shapes.items():
        embed = getattr(model, f"embed_{view}")
        images = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=device)
        with torch.no_grad(), mixed("auto", torch.device(device)):
            with FlopCounterMode(display=False) as counter:
                embed(images[:1])
            taken_s = seconds_of(lambda embed=embed, images=images: embed(images).cpu())
        row[f"{view}_mflop"] = round(counter.get_total_flops() / 1e6, 1)
        row[f"{view}_ms"] = round(1000 * taken_s / batch, 4)
    return row


def seconds_of(call: Callable[[], object], *, repeats: int = 7) -> float:
    """Median after one call that is not counted; the call's result is in main memory."""
    import time

    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[repeats // 2]


# What comes out


def print_tables(rows: Sequence[Row]) -> None:
    """As Markdown, for docs/training.md: recalls in per cent with 95 % intervals over seeds, and costs."""
    from cli.tables import markdown_table

    for data in dict.fromkeys(run["data"] for run in runs_of(rows)):
        runs = runs_of(rows, data=data)
        asked = list(runs[0]["recall_at_1"])
        header = [data, *(f"R@1, {name}" for name in asked), f"against the baseline, {asked[0]}"]
        if data == "simulated":
            header += [f"within 25 m, {name}" for name in asked]
        print(markdown_table(header, [recalls(runs, name, asked) for name in variants_of(runs)]))
    header = ["variant", "parameters", "MFLOP street, patch", "ms street, patch"]
    print(markdown_table(header, [costs_of(row) for row in rows if row["what"] == "cost"]))


def runs_of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    return [
        row
        for row in rows
        if row["what"] == "run" and all(row[key] == value for key, value in wanted.items())
    ]


def variants_of(runs: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(run["variant"] for run in runs))


def recalls(runs: Sequence[Row], variant: str, asked: Sequence[str]) -> list[str]:
    """The difference is paired by seed: both saw the same batches."""
    own = {run["seed"]: run for run in runs if run["variant"] == variant}
    base = {run["seed"]: run for run in runs if run["variant"] == "baseline"}
    gains = [
        run["recall_at_1"][asked[0]] - base[seed]["recall_at_1"][asked[0]]
        for seed, run in own.items()
        if seed in base
    ]
    cells = [variant, *(spread([run["recall_at_1"][name] for run in own.values()]) for name in asked)]
    cells.append("" if variant == "baseline" else spread(gains, sign="+"))
    if next(iter(own.values()))["data"] == "simulated":
        cells += [spread([run["recall_25m"][name] for run in own.values()]) for name in asked]
    return cells


def costs_of(row: Row) -> list[str]:
    return [
        row["variant"],
        f"{row['parameters']:,}",
        f"{row['ground_mflop']:.0f}, {row['aerial_mflop']:.0f}",
        f"{row['ground_ms']:.3g}, {row['aerial_ms']:.3g}",
    ]


def spread(shares: Sequence[float], *, sign: str = "") -> str:
    """Mean ± half of the 95 % interval over seeds, in per cent."""
    mean, half = interval([100 * share for share in shares])
    return f"{mean:{sign}.1f}" + (f" ± {half:.1f}" if half is not None else "")


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    from clnet_model.intervals import seed_interval

    if len(values) < 2:
        return (values[0] if values else float("nan")), None
    found = seed_interval(values)
    return found.value, found.high - found.value


def draw(rows: Sequence[Row], out: Path) -> None:
    """R@1 of every variant under every condition: seeds as dots, their mean and interval."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(run["data"] for run in runs_of(rows)))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(5.5 * len(kinds), 4), layout="constrained", squeeze=False
    )
    for axis, data in zip(axes[0], kinds, strict=True):
        runs = runs_of(rows, data=data)
        shown = variants_of(runs)
        for number, name in enumerate(runs[0]["recall_at_1"]):
            for place, variant in enumerate(shown):
                shares = [100 * run["recall_at_1"][name] for run in runs_of(runs, variant=variant)]
                mean, half = interval(shares)
                height = place + 0.25 * (number - 1)
                axis.plot(shares, [height] * len(shares), ".", color=f"C{number}", alpha=0.5)
                axis.errorbar(
                    mean,
                    height,
                    xerr=half,
                    fmt="o",
                    capsize=3,
                    color=f"C{number}",
                    label=None if place else name,
                )
        axis.set(yticks=range(len(shown)), yticklabels=shown, xlabel="R@1, %", title=f"{data} data")
        axis.set_xlim(0, None)
        axis.invert_yaxis()
        axis.legend()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
