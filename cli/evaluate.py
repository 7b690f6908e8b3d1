"""`clnet evaluate`: exact retrieval figures of a checkpoint on cities or benchmarks that it has not seen."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import BadOption
from cli.options import CheckpointOption

if TYPE_CHECKING:
    from clnet_model.evaluate import Metrics, Progress

Results = dict[str, dict[str, "Metrics"]]

CITY_HEADER = ("city", "queries", "n", "patches", "R@1 %", "R@5 %", "R@10 %", "≤ 25 m %", "median")
BENCHMARK = "A public benchmark"


def evaluate(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders written by `clnet simulate`.", show_default=False)
    ] = None,
    checkpoint: CheckpointOption = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file too.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit the checkpoint's calibration on the (single) city first.")
    ] = False,
    calibration: Annotated[
        bool,
        typer.Option("--calibration", help="Compare what answers say with how right they are, by a store."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="--calibration: write the reliability diagram (SVG) to this file.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="cvusa, cvact, vigor, university1652 or manifest.",
            rich_help_panel=BENCHMARK,
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Its folder as published; for manifest the file.",
            rich_help_panel=BENCHMARK,
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="train, val or test, as the benchmark has it.", rich_help_panel=BENCHMARK),
    ] = None,
    area: Annotated[str | None, typer.Option(help="vigor: same or cross.", rich_help_panel=BENCHMARK)] = None,
    task: Annotated[
        str | None,
        typer.Option(help="university1652: drone->satellite or satellite->drone.", rich_help_panel=BENCHMARK),
    ] = None,
    query_kind: Annotated[
        str | None,
        typer.Option(help="manifest: panorama, perspective or aerial.", rich_help_panel=BENCHMARK),
    ] = None,
    hfov_deg: Annotated[
        float | None,
        typer.Option(help="Horizontal field of view of perspective queries.", rich_help_panel=BENCHMARK),
    ] = None,
    through_index: Annotated[
        bool,
        typer.Option(
            "--through-index",
            help="Search a temporary store too, where the gallery's positions are known.",
            rich_help_panel=BENCHMARK,
        ),
    ] = False,
) -> None:
    """Rank every panorama of each city against all its patches: north known, unknown heading, 90° views.

    Or rank the gallery of a public benchmark for each of its queries: --benchmark NAME --root PATH.
    """
    options = {"part": part, "area": area, "task": task, "query_kind": query_kind}
    chosen = {name: value for name, value in options.items() if value is not None}
    extra = {**chosen, "root": root, "hfov_deg": hfov_deg, "through_index": through_index or None}
    _check_mode(data, benchmark, calibrate=calibrate, extra=extra)
    _check_folders(out, markdown, plot)
    if calibration:
        if benchmark is not None or calibrate:
            raise BadOption("--calibration", "goes with cities alone; leave --benchmark and --calibrate out")
        _show_calibration(data or [], checkpoint, out, plot)
        return
    if plot is not None:
        raise BadOption("--plot", "is the reliability diagram; give --calibration too")
    if benchmark is None or root is None:
        _evaluate_cities(data or [], checkpoint, out, markdown, calibrate=calibrate)
    else:
        _evaluate_benchmark(
            benchmark, root, chosen, checkpoint, out, markdown, hfov_deg=hfov_deg, through_index=through_index
        )


def _show_calibration(data: list[Path], checkpoint: Path | None, out: Path | None, plot: Path | None) -> None:
    from cli.evaluate_calibration import measure, show, write_json, write_plot
    from cli.model_progress import labelled_bars
    from clnet_model.checkpoint import SHIPPED, digest_of

    with labelled_bars() as progress:
        results = measure(data, checkpoint, progress=progress)
    show(results)
    if out is not None:
        write_json(results, digest_of(checkpoint or SHIPPED), out)
    if plot is not None:
        write_plot(results, plot)


def _check_mode(
    data: list[Path] | None, benchmark: str | None, *, calibrate: bool, extra: Mapping[str, object]
) -> None:
    from clnet_model.errors import BadConfig

    if bool(data) == (benchmark is not None):
        raise BadConfig("give either folders written by `clnet simulate` or --benchmark NAME --root PATH")
    if benchmark is not None and extra["root"] is None:
        raise BadConfig(f"--benchmark {benchmark} without --root; give the folder that holds its images")
    if benchmark is not None and calibrate:
        raise BadConfig(
            "--calibrate with --benchmark: what is reported is never fitted; give a simulated city"
        )
    given = [name for name, value in extra.items() if value is not None]
    if benchmark is None and given:
        raise BadConfig(f"--{given[0].replace('_', '-')} is for benchmarks; give --benchmark or leave it out")


def _check_folders(*files: Path | None) -> None:
    """Before hours of embedding, not after."""
    from clnet_model.errors import BadConfig

    for file in files:
        if file is not None and not file.parent.is_dir():
            raise BadConfig(f"{file} cannot be written: {file.parent} is no folder; make it first")


def _evaluate_benchmark(
    benchmark: str,
    root: Path,
    options: dict[str, str],
    checkpoint: Path | None,
    out: Path | None,
    markdown: Path | None,
    *,
    hfov_deg: float | None,
    through_index: bool,
) -> None:
    from cli.evaluate_benchmark import measure, show, write_json, write_markdown
    from cli.model_progress import labelled_bars
    from clnet_model.benchmarks import open_benchmark
    from clnet_model.encoder import load_encoder

    split = open_benchmark(benchmark, root, **options)
    encoder = load_encoder(checkpoint)
    with labelled_bars() as progress:
        report = measure(
            encoder,
            split,
            command=shlex.join(["clnet", *sys.argv[1:]]),
            hfov_deg=hfov_deg,
            through_index=through_index,
            progress=progress,
        )
    show(report)
    if out is not None:
        write_json(report, out)
    if markdown is not None:
        write_markdown(report, markdown)


def _evaluate_cities(
    data: list[Path], checkpoint: Path | None, out: Path | None, markdown: Path | None, *, calibrate: bool
) -> None:
    from cli.model_progress import labelled_bars
    from cli.tables import markdown_table, print_table

    with labelled_bars() as progress:
        results, digest = _measure_cities(data, checkpoint, calibrate=calibrate, progress=progress)
    print_table(CITY_HEADER, _city_rows(results))
    if out is not None:
        numbers = {city: {name: asdict(m) for name, m in sets.items()} for city, sets in results.items()}
        out.write_text(json.dumps({"model_digest": digest, "cities": numbers}, indent=2) + "\n")
    if markdown is not None:
        table = markdown_table(CITY_HEADER, _city_rows(results))
        markdown.write_text(f"{table}\nModel `{digest}`.\n", encoding="utf-8")


def _measure_cities(
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


def _city_rows(results: Results) -> list[tuple[str, ...]]:
    return [
        (
            city,
            name,
            str(m.queries),
            str(m.patches),
            _with_interval(m.recall_at_1, m.queries),
            f"{100 * m.recall_at_5:.1f}",
            f"{100 * m.recall_at_10:.1f}",
            _with_interval(m.recall_25m, m.queries),
            f"{m.median_error_m:.1f} m",
        )
        for city, sets in results.items()
        for name, m in sets.items()
    ]


def _with_interval(share: float, count: int) -> str:
    """In per cent, with the half width of its 95 % interval."""
    from clnet_model.intervals import share_interval

    found = share_interval(share, count)
    return f"{100 * share:.1f} ±{50 * (found.high - found.low):.1f}"
