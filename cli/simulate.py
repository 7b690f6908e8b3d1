"""`clnet simulate`: a city from a seed, or street images of a real orthophoto."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the dataset to.")],
    seed: Annotated[int, typer.Option(help="Seed of the city; the same seed gives the same city.")] = 1,
    style: Annotated[str, typer.Option(help="City style; see docs/simulation.md.")] = "organic-village",
    size_m: Annotated[float, typer.Option(help="Side of the square city in metres.")] = 800.0,
    panoramas: Annotated[int, typer.Option(help="Panoramas (512 x 256, equirectangular).")] = 200,
    photos: Annotated[int, typer.Option(help="Perspective photos (320 x 240).")] = 0,
    photo_hfov_deg: Annotated[float, typer.Option(help="Horizontal field of view of the photos.")] = 90.0,
    gps_sigma_m: Annotated[float, typer.Option(help="Standard deviation of the GPS error per axis.")] = 15.0,
    difficulty: Annotated[
        str, typer.Option(help="easy, normal or hard: how far the two views disagree.")
    ] = "hard",
    ortho: Annotated[
        list[Path] | None, typer.Option(help="Real orthophoto sheets or folders instead of a seeded city.")
    ] = None,
    dsm: Annotated[
        Path | None, typer.Option(help="Surface model of the orthophoto (GeoTIFF, metres).")
    ] = None,
    flat: Annotated[
        bool, typer.Option("--flat", help="With --ortho: no surface model, flat ground.")
    ] = False,
) -> None:
    """Render an orthophoto, a surface model and street images at known poses."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from simulation.dataset import simulate_city, simulate_from_ortho

    if ortho and dsm is None and not flat:
        raise typer.BadParameter(
            "name a surface model with --dsm, or say --flat for flat ground", param_hint="--ortho"
        )
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as bar:
        task = bar.add_task("starting", total=1.0)

        def report(step: str, share: float) -> None:
            bar.update(task, description=f"{step:26s}", completed=share)

        if ortho:
            dataset = simulate_from_ortho(
                out,
                ortho=ortho,
                dsm=dsm,
                seed=seed,
                panoramas=panoramas,
                photos=photos,
                difficulty=difficulty,
                gps_sigma_m=gps_sigma_m,
                photo_hfov_deg=photo_hfov_deg,
                progress=report,
            )
        else:
            dataset = simulate_city(
                out,
                style=style,
                size_m=size_m,
                seed=seed,
                panoramas=panoramas,
                photos=photos,
                difficulty=difficulty,
                gps_sigma_m=gps_sigma_m,
                photo_hfov_deg=photo_hfov_deg,
                progress=report,
            )
    typer.echo(
        f"{dataset.images} street images over {dataset.area_km2:.2f} km² ({dataset.crs}) in {dataset.root}"
    )
