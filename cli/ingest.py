"""`clnet ingest`: an orthophoto in, a live region out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import (
    DEFAULT_STORE,
    CheckpointOption,
    JobsOption,
    Settings,
    StoreOption,
    jobs_from_options,
    open_store_from_options,
)

if TYPE_CHECKING:
    from tiling.grid import GridSpec


def ingest(
    region: Annotated[str, typer.Argument(help="Name of the region to build or rebuild.")],
    paths: Annotated[
        list[str],
        typer.Argument(
            help="GeoTIFF sheets, VRTs, folders or URLs (https://, s3://); earlier ones lie on top."
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    jobs: JobsOption = None,
    checkpoint: CheckpointOption = None,
    area: Annotated[
        Path | None,
        typer.Option(help="GeoJSON polygon to cover; all of the imagery when left out.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on where the same job stopped, or start over.")
    ] = True,
    on_error: Annotated[
        Literal["fail", "skip"], typer.Option(help="What a bad sheet does: stop the job, or be left out.")
    ] = "fail",
    zoom: Annotated[
        int | None, typer.Option(help="Tile zoom that sets the stride; the model's own when left out.")
    ] = None,
    side_m: Annotated[
        float | None, typer.Option(help="Patch side in ground metres; the model's own when left out.")
    ] = None,
    storage: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="How vectors are kept; int8 is searched first and rescored."),
    ] = "float32",
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also write a PNG of 50 patches beside the sheets' own pixels.", show_default=False
        ),
    ] = None,
) -> None:
    """Cut an orthophoto into patches, embed and index them, and make the region live.

    Running the same command again goes on where it stopped, and does nothing once the result is live.
    """
    from cli.ingest_display import open_display
    from tiling.area import read_area
    from tiling.ortho import open_ortho
    from workers.estimate import estimate
    from workers.ingest import ingest as run
    from workers.pipeline import embed_on_ray

    with open_display() as display:
        outline = None if area is None else read_area(area)
        ortho = open_ortho(paths, on_error=on_error)
        display.opened(ortho)
        grid = _grid(checkpoint, zoom, side_m)
        if contact_sheet:
            from tiling.contact_sheet import write_contact_sheet

            write_contact_sheet(contact_sheet, ortho, outline or ortho.footprint, grid)
        if dry_run:
            display.estimated(
                estimate(region, ortho, checkpoint=checkpoint, grid=grid, area=outline, storage=storage)
            )
            return
        with open_store_from_options(store, create=True) as index:
            report = run(
                region,
                ortho,
                store=index,
                jobs=jobs_from_options(jobs, store),
                checkpoint=checkpoint,
                grid=grid,
                area=outline,
                storage=storage,
                on_error=on_error,
                resume=resume,
                embed=partial(embed_on_ray, address=Settings().ray_address),
                progress=display.progressed,
            )
        display.done(report)


def _grid(checkpoint: Path | None, zoom: int | None, side_m: float | None) -> GridSpec:
    """The model's grid, changed where asked."""
    from clnet_model.encoder import load_encoder
    from tiling.grid import GridSpec

    encoder = load_encoder(checkpoint)
    return GridSpec(
        zoom=encoder.zoom if zoom is None else zoom, side_m=encoder.side_m if side_m is None else side_m
    )
