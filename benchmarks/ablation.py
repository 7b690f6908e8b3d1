"""What each part of CLNet is worth: the same cities, the same steps, several seeds; simulated data.

    python benchmarks/ablation.py --train data/train/city_0* --test data/val/city_01 \
        --steps 500 --seeds 3

Every variant sees the same batches in the same order (they depend on the seed alone). The checkpoint is the
last averaged one; nothing is chosen on the test city. Finished runs are kept beside OUT: a repeated command
goes on where it stopped. Writes OUT (JSON) and prints its table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reporting import write_results

VARIANTS = {
    "baseline": ("ncm", "nec", "gfr", "polar"),
    "+ unrolled": ("ncm", "nec", "gfr"),
    "+ NCM": ("nec", "gfr", "polar"),
    "+ NEC": ("ncm", "gfr", "polar"),
    "+ GFR": ("ncm", "nec", "polar"),
    "all but unrolled": ("polar",),
    "all": (),
}
QUERIES = {"aligned": "panorama", "unknown heading": "panorama, heading unknown", "90 degrees": "90 degrees"}
HEADER = (
    "variant",
    "aligned",
    "against baseline",
    "unknown heading",
    "90°",
    "parameters",
    "MFLOP",
    "ms/image",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One trained network on the test city; recalls are 0 to 1."""

    variant: str
    seed: int
    steps: int
    train_s: float
    recall_at_1: dict[str, float]
    recall_25m: dict[str, float]
    parameters: int
    flops: int
    embed_ms: float


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.json"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    runs = list(finished(args.out, steps=args.steps))
    done = {(run.variant, run.seed) for run in runs}
    for seed in range(args.seeds):  # seeds outermost: an interrupted benchmark still compares all variants
        for variant in args.variants:
            if (variant, seed) not in done:
                runs.append(train_one(variant, seed, args.train, args.test, steps=args.steps))
                keep(args.out, runs[-1])
                print(runs[-1], flush=True)
    write(args.out, runs)


def train_one(variant: str, seed: int, train: Sequence[Path], test: Path, *, steps: int) -> Run:
    """Train a variant from scratch and rank the whole test city."""
    from cli.pairs import open_pairs
    from cli.train_data import from_cities
    from clnet_model.data import load_pairs
    from clnet_model.encoder import load_encoder
    from clnet_model.evaluate import QUERY_SETS, embed_gallery, evaluate
    from clnet_model.model import CLNetConfig
    from clnet_model.schedule import BudgetConfig
    from clnet_model.train import fit
    from clnet_model.train_config import TrainConfig

    model = CLNetConfig().without(*VARIANTS[variant])
    cities = [load_pairs(path) for path in from_cities(train, [], model).train]
    config = TrainConfig(
        model=model, budget=BudgetConfig(max_steps=steps), peak_learning_rate=1.5e-3, seed=seed, mine_at=()
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        fit(cities, config, out=Path(folder))
        train_s = time.monotonic() - started
        encoder = load_encoder(Path(folder), device="cpu")
    city = open_pairs(test, model, progress=lambda *_: None)
    gallery = embed_gallery(encoder, city)
    panoramas = city.subset(city.panoramas())
    found = {
        name: evaluate(encoder, panoramas, next(q for q in QUERY_SETS if q.name == kind), gallery=gallery)
        for name, kind in QUERIES.items()
    }
    flops, embed_ms = cost(encoder, city)
    return Run(
        variant=variant,
        seed=seed,
        steps=steps,
        train_s=round(train_s, 1),
        recall_at_1={name: metrics.recall_at_1 for name, metrics in found.items()},
        recall_25m={name: metrics.recall_25m for name, metrics in found.items()},
        parameters=sum(p.numel() for p in encoder.model.parameters()),
        flops=flops,
        embed_ms=round(embed_ms, 2),
    )


def cost(encoder: Any, city: Any) -> tuple[int, float]:
    """Floating-point operations and milliseconds of embedding one patch (in batches of 64)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    images = city.centre_patches(slice(0, 64))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        encoder.model.embed_aerial(torch.zeros(1, 3, city.patch_px, city.patch_px))
    times = []
    for _ in range(5):
        started = time.perf_counter()
        encoder.embed_aerial(images)
        times.append((time.perf_counter() - started) / len(images))
    return int(counter.get_total_flops()), 1000 * sorted(times)[2]


def log_of(out: Path) -> Path:
    return out.with_suffix(".runs.jsonl")


def finished(out: Path, *, steps: int) -> Iterator[Run]:
    """Runs of an earlier, interrupted call with as many steps."""
    if log_of(out).exists():
        for line in log_of(out).read_text().splitlines():
            run = Run(**json.loads(line))
            if run.steps == steps:
                yield run


def keep(out: Path, run: Run) -> None:
    with log_of(out).open("a") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def write(out: Path, runs: Sequence[Run]) -> None:
    """JSON with a row for each run, and the table on the terminal."""
    from cli.tables import markdown_table

    write_results(out, [asdict(run) for run in runs])
    print(markdown_table(HEADER, [row(variant, runs) for variant in VARIANTS if of(runs, variant)]))


def of(runs: Sequence[Run], variant: str) -> list[Run]:
    return sorted((run for run in runs if run.variant == variant), key=lambda run: run.seed)


def row(variant: str, runs: Sequence[Run]) -> tuple[str, ...]:
    """Mean R@1 in per cent with the 95 % interval over seeds; the difference is paired by seed."""
    own, base = of(runs, variant), of(runs, "baseline")
    gains = [
        100 * (a.recall_at_1["aligned"] - b.recall_at_1["aligned"])
        for a in own
        for b in base
        if a.seed == b.seed
    ]
    recalls = [spread([100 * run.recall_at_1[name] for run in own]) for name in QUERIES]
    ms = sum(run.embed_ms for run in own) / len(own)
    return (
        variant,
        recalls[0],
        "" if variant == "baseline" else spread(gains),
        *recalls[1:],
        f"{own[0].parameters:,}",
        f"{own[0].flops / 1e6:.0f}",
        f"{ms:.1f}",
    )


def spread(values: Sequence[float]) -> str:
    from clnet_model.intervals import seed_interval

    if len(values) < 2:
        return f"{values[0]:.1f}" if values else ""
    found = seed_interval(values)
    return f"{found.value:.1f} ± {found.high - found.value:.1f}"


if __name__ == "__main__":
    main()
