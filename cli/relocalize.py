"""`clnet relocalize`: a table of street images in, corrected positions out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from workers.manifest import Manifest


def relocalize(
    manifest: Annotated[
        Path, typer.Argument(help="Parquet, GeoParquet or CSV, or a folder of images with EXIF positions.")
    ],
    out: Annotated[Path, typer.Option(help="GeoParquet to write.")],
    store: StoreOption = DEFAULT_STORE,
    jobs: JobsOption = None,
    checkpoint: CheckpointOption = None,
    summary: Annotated[
        Path | None, typer.Option(help="Write the summary (JSON) to this file too.", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report with a map (HTML).", show_default=False)
    ] = None,
    imagery: Annotated[
        list[str] | None,
        typer.Option(help="Orthophoto sheets for the report's map and patches.", show_default=False),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Only so many images, spread over all.", min=1, show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the manifest and stop.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on where the same job stopped, or start over.")
    ] = True,
) -> None:
    """Locate every image of a fleet, smooth each vehicle's track, and write one row for each image.

    Running the same command again goes on where it stopped.
    """
    from cli.fleet_display import open_display
    from cli.fleet_localizer import FleetLocalizer
    from cli.fleet_summary import summarize, write_summary
    from clnet_model.encoder import load_encoder
    from spatial_index.bulk import open_bulk_search
    from workers.cluster import ray_cluster
    from workers.fleet_pipeline import answer_fleet_on_ray, embed_fleet_on_ray
    from workers.manifest import read_manifest
    from workers.relocalize import relocalize as run

    _check_outputs(out, summary, report)
    with open_display() as display:
        checked = _sampled(read_manifest(manifest), sample)
        display.checked(checked)
        if dry_run:
            return
        with open_store_from_options(store) as index:
            search = open_bulk_search(index)
            localizer = FleetLocalizer(load_encoder(checkpoint), search, checkpoint=checkpoint)
            with ray_cluster(Settings().ray_address, share_bytes=search.portable_bytes or 0):
                done = run(
                    checked,
                    out,
                    localizer=localizer,
                    jobs=jobs_from_options(jobs, store),
                    embed=embed_fleet_on_ray,
                    answer=answer_fleet_on_ray,
                    resume=resume,
                    progress=display.progressed,
                )
        found = summarize(out, done)
        display.done(found, out)
    if summary is not None:
        write_summary(found, summary)
    if report is not None:
        from cli.fleet_report import write_report

        write_report(report, out, found, imagery or [])


def _sampled(manifest: Manifest, count: int | None) -> Manifest:
    from workers.manifest import sampled

    return manifest if count is None else sampled(manifest, count)


def _check_outputs(*files: Path | None) -> None:
    """Before hours of embedding, not after."""
    from cli.errors import BadOption

    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise BadOption(str(file), f"cannot be written: {file.parent} is no folder; make it first")
