"""`clnet ingest`: an orthophoto in, a live region out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import DEFAULT_STORE, CheckpointOption, Settings, StoreOption, open_store_from_options

if TYPE_CHECKING:
    from rich.console import Console

    from tiling.grid import GridSpec
    from tiling.ortho import Ortho
    from workers.estimate import IngestEstimate
    from workers.ingest import IngestReport


def ingest(
    region: Annotated[str, typer.Argument(help="Name of the region to build or rebuild.")],
    paths: Annotated[list[Path], typer.Argument(help="GeoTIFF sheets, or folders that hold them.")],
    store: StoreOption = DEFAULT_STORE,
    checkpoint: CheckpointOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="What a bad sheet does: stop the job, or be left out.")
    ] = "fail",
    zoom: Annotated[
        int | None, typer.Option(help="Tile zoom that sets the stride; the model's own when left out.")
    ] = None,
    side_m: Annotated[
        float | None, typer.Option(help="Patch side in ground metres; the model's own when left out.")
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also write a PNG of 24 patches beside the sheets' own pixels.", show_default=False
        ),
    ] = None,
) -> None:
    """Cut an orthophoto into patches, embed and index them, and make the region live."""
    from rich.console import Console

    from tiling.ortho import open_ortho

    console = Console()
    ortho = open_ortho(paths, on_error=on_error)
    _print_sheets(console, ortho)
    grid = _grid(checkpoint, zoom, side_m)
    if contact_sheet:
        from tiling.contact_sheet import write_contact_sheet

        write_contact_sheet(contact_sheet, ortho, ortho.footprint, grid)
        console.print(f"contact sheet: {contact_sheet}")
    if dry_run:
        from workers.estimate import estimate

        _print_estimate(console, estimate(region, ortho, checkpoint=checkpoint, grid=grid))
        return
    _print_report(console, _run(console, region, ortho, grid, store, checkpoint, on_error))


def _grid(checkpoint: Path | None, zoom: int | None, side_m: float | None) -> GridSpec:
    """The model's grid, changed where asked."""
    from clnet_model.encoder import load_encoder
    from tiling.grid import GridSpec

    encoder = load_encoder(checkpoint)
    return GridSpec(
        zoom=encoder.zoom if zoom is None else zoom, side_m=encoder.side_m if side_m is None else side_m
    )


def _run(
    console: Console,
    region: str,
    ortho: Ortho,
    grid: GridSpec,
    store: Path,
    checkpoint: Path | None,
    on_error: Literal["fail", "skip"],
) -> IngestReport:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from workers.ingest import IngestProgress
    from workers.ingest import ingest as run
    from workers.pipeline import embed_on_ray

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        open_store_from_options(store, create=True) as index,
        Progress(*columns, console=console, transient=True) as bar,
    ):
        task = bar.add_task("starting workers", total=None)

        def show(seen: IngestProgress) -> None:
            bar.update(task, description="patches", total=seen.planned, completed=seen.indexed + seen.skipped)

        return run(
            region,
            ortho,
            store=index,
            checkpoint=checkpoint,
            grid=grid,
            on_error=on_error,
            embed=partial(embed_on_ray, address=Settings().ray_address),
            progress=show,
        )


def _print_sheets(console: Console, ortho: Ortho) -> None:
    from tiling.coverage import area_km2

    console.print(
        f"{len(ortho.sheets)} sheets, {area_km2(ortho.footprint):.2f} km², {ortho.gsd_m:.2f} m per pixel"
    )
    for error in ortho.rejected:
        console.print(f"left out: {error}", style="yellow")


def _print_estimate(console: Console, found: IngestEstimate) -> None:
    from rich.table import Table

    table = Table(title=f"{found.region}: nothing was done", show_header=False)
    table.add_row("patches planned", f"{found.planned:,}")
    table.add_row("points expected", f"{found.expected:,}")
    table.add_row("footprint", f"{found.footprint_km2:.2f} km²")
    table.add_row("disk", f"about {found.disk_mb:,.0f} MB")
    table.add_row("time on this machine", f"about {found.wall_s:,.0f} s")
    table.add_row("generation", found.generation)
    table.add_row("model", found.model_digest)
    console.print(table)


def _print_report(console: Console, done: IngestReport) -> None:
    from rich.table import Table

    title = "already live, nothing to do" if done.already_live else "live"
    table = Table(title=f"{done.region}: {title}", show_header=False)
    table.add_row("patches planned", f"{done.planned:,}")
    table.add_row("indexed", f"{done.indexed:,}")
    for reason, count in sorted(done.skipped.items()):
        table.add_row(f"skipped: {reason}", f"{count:,}")
    table.add_row("covered", f"{done.area_km2:.2f} km²")
    if not done.already_live:
        table.add_row("wall time", f"{done.wall_s:.1f} s ({done.patches_per_s:.0f} patches/s)")
    table.add_row("generation", done.generation)
    table.add_row("model", done.model_digest)
    console.print(table)
