"""`clnet export` and `clnet import`: a region as GeoParquet, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.options import DEFAULT_STORE, StoreOption, open_store_from_options


def export(
    region: Annotated[str, typer.Argument(help="Name of the region.")],
    out: Annotated[Path, typer.Option(help="Folder for the file and its STAC item.")] = Path("export"),
    generation: Annotated[
        str | None, typer.Option(help="The live one when left out.", show_default=False)
    ] = None,
    float16: Annotated[
        bool, typer.Option("--float16", help="Halve the vectors; their scores change by about 0.0005.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a region as GeoParquet with a STAC item beside it."""
    from workers.export import export_region as run

    with open_store_from_options(store) as index, _bar("patches") as progress:
        report = run(index, region, out, generation=generation, float16=float16, progress=progress)
    typer.echo(f"{report.data}: {report.patches:,} patches of generation {report.generation}")
    typer.echo(str(report.item))


def import_(
    path: Annotated[Path, typer.Argument(help="A *.parquet that `clnet export` wrote.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Read a region from such a file and make it live: same ids, same vectors."""
    from workers.export import import_region as run

    with open_store_from_options(store, create=True) as index, _bar("patches") as progress:
        report = run(index, path, progress=progress)
    state = "was live already" if report.already_live else "is live"
    typer.echo(f"{report.region}: generation {report.generation} {state}, {report.patches:,} patches")


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; elsewhere nothing is shown."""

    from rich.progress import Progress

    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
