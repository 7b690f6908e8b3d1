"""`clnet evaluate`: exact retrieval metrics of a checkpoint on cities that it has not seen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import CheckpointOption

if TYPE_CHECKING:
    from clnet_model.evaluate import Metrics, Progress

Results = dict[str, dict[str, "Metrics"]]


def evaluate(
    data: Annotated[list[Path], typer.Argument(help="Folders written by `clnet simulate`.")],
    checkpoint: CheckpointOption = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the checkpoint's calibration on the (single) city first.")
    ] = False,
) -> None:
    """Rank every panorama of each city against all its patches: north known, unknown heading, 90° views."""
    from cli.model_progress import labelled_bars

    with labelled_bars() as progress:
        results, digest = _evaluate(data, checkpoint, calibrate=calibrate, progress=progress)
    _print_table(results)
    if out is not None:
        numbers = {city: {name: asdict(m) for name, m in sets.items()} for city, sets in results.items()}
        out.write_text(json.dumps({"model_digest": digest, "cities": numbers}, indent=2) + "\n")


def _evaluate(
    data: list[Path], checkpoint: Path | None, *, calibrate: bool, progress: Progress
) -> tuple[Results, str]:
    from cli.pairs import open_pairs
    from clnet_model.checkpoint import SHIPPED, save_calibration
    from clnet_model.encoder import load_encoder
    from clnet_model.errors import BadConfig
    from clnet_model.evaluate import QUERY_SETS, embed_gallery
    from clnet_model.evaluate import calibrate as fit_calibration
    from clnet_model.evaluate import evaluate as measure

    encoder = load_encoder(checkpoint)
    cities = [open_pairs(path, encoder.model.config, progress=progress) for path in data]
    if calibrate:
        if len(cities) != 1:
            raise BadConfig(f"--calibrate with {len(cities)} cities: give the one validation city")
        save_calibration(checkpoint or SHIPPED, fit_calibration(encoder, cities[0], progress=progress))
        encoder = load_encoder(checkpoint)
    results: Results = {}
    for city in cities:
        gallery = embed_gallery(encoder, city, progress=progress)
        results[city.city] = {
            queries.name: measure(encoder, city, queries, gallery=gallery, progress=progress)
            for queries in QUERY_SETS
        }
    return results, encoder.digest


def _print_table(results: Results) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("city", "queries", "n", "patches", "R@1", "R@5", "R@10", "≤ 25 m", "median error")
    for city, sets in results.items():
        for name, m in sets.items():
            shares = (m.recall_at_1, m.recall_at_5, m.recall_at_10, m.recall_25m)
            table.add_row(
                city,
                name,
                str(m.queries),
                str(m.patches),
                *(f"{s:.3f}" for s in shares),
                f"{m.median_error_m:.1f} m",
            )
    Console().print(table)
