"""`clnet demo`: the whole road on one machine, from an orthophoto to a report of located street images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import CheckpointOption

DEFAULT_SEED = 7001


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path("demo"),
    seed: Annotated[
        int, typer.Option(help="Seed of the held-out city, its images and its GPS noise.")
    ] = DEFAULT_SEED,
    size_m: Annotated[float, typer.Option(min=300.0, help="Side of the square city in metres.")] = 1536.0,
    queries: Annotated[int, typer.Option(min=2, help="Panoramas to locate; half as many photos.")] = 220,
    checkpoint: CheckpointOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the simulated city and the store.")] = False,
) -> None:
    """Simulate an unseen city, ingest it, locate its street images over gRPC, write a report."""
    import signal
    import sys

    from rich.console import Console

    from cli.demo_run import DemoPlan, run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a killed demo stops what it started
    plan = DemoPlan(out=out, seed=seed, size_m=size_m, queries=queries, checkpoint=checkpoint, keep=keep)
    run(plan, console=Console())
