"""`clnet train`: simulated (or own) cities in, a calibrated checkpoint out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Settings

if TYPE_CHECKING:
    from clnet_model.model import CLNetConfig
    from clnet_model.ray_train import Scale
    from clnet_model.schedule import BudgetConfig
    from clnet_model.train import TrainReport
    from clnet_model.train_config import TrainConfig

MARGIN_PX = 16  # lets training move patches by up to 9 m
NEAR_M = 60.0


def train(
    data: Annotated[list[Path], typer.Argument(help="Folders written by `clnet simulate`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new checkpoint.")],
    val: Annotated[
        list[Path] | None, typer.Option("--val", help="City that chooses and calibrates the checkpoint.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Wall-clock budget.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the street images.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Street images per step.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Peak of the schedule.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, batches and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option("--threads", help="A process's; default: all cores.")] = None,
    workers: Annotated[
        str | None,
        typer.Option("--workers", help="Train on Ray with so many workers; 2-8 shrinks and grows."),
    ] = None,
    gpus: Annotated[bool, typer.Option("--gpus", help="With --workers: one GPU each.")] = False,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Less memory for more time: recompute activations.")
    ] = False,
    ablate: Annotated[str, typer.Option("--ablate", help="What to switch off: ncm, nec, gfr, polar.")] = "",
    pretrained: Annotated[
        str | None, typer.Option("--pretrained", help="ConvNeXt on the Hugging Face hub to start from.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option("--start-from", help="Checkpoint to go on from, e.g. for your own city.")
    ] = None,
) -> None:
    """Train CLNet on cities, choose and calibrate it on others."""
    scale = scale_of(workers, threads, gpus=gpus)
    model = _model(ablate, pretrained)
    cities, validation = _saved_cities(data, val or [], model)
    config = _config(
        model, cities, minutes=minutes, epochs=epochs, batch=batch, learning_rate=learning_rate, seed=seed,
        threads=threads, pretrained=pretrained, start_from=start_from, recompute=recompute,
    )  # fmt: skip
    report = _fit(cities, validation, config, scale, out=out, sources=[*data, *(val or [])])
    if validation is not None:
        _calibrate(report.folder, validation)
    typer.echo(
        f"{report.folder}: digest {report.digest}, {report.queries:,} street images in {report.spent_s:.0f} s"
    )


def _model(ablate: str, pretrained: str | None) -> CLNetConfig:
    from clnet_model.model import CLNetConfig, pretrained_backbone

    base = CLNetConfig() if pretrained is None else CLNetConfig(backbone=pretrained_backbone(pretrained))
    return base.without(*(name.strip() for name in ablate.split(",") if name.strip()))


def scale_of(workers: str | None, threads: int | None, *, gpus: bool) -> Scale | None:
    """None: this process alone."""
    from clnet_model.errors import BadConfig
    from clnet_model.ray_train import Scale

    if workers is None:
        if gpus:
            raise BadConfig("--gpus was given without --workers; say how many, e.g. --workers 4 --gpus")
        return None
    try:
        numbers = [int(part) for part in workers.split("-")]
    except ValueError:
        numbers = []
    match numbers:
        case [count]:
            return Scale(workers=count, gpus=gpus, cores_per_worker=threads or 1)
        case [fewest, most]:
            return Scale(workers=(fewest, most), gpus=gpus, cores_per_worker=threads or 1)
        case _:
            raise BadConfig(f"--workers is {workers!r}: give a number, or fewest and most as in 2-8")


def _saved_cities(
    data: Sequence[Path], val: Sequence[Path], model: CLNetConfig
) -> tuple[list[Path], Path | None]:
    """Training cities with moveable patches near streets; one validation city with its whole gallery."""
    from cli.model_progress import labelled_bars
    from cli.pairs import saved_pairs
    from clnet_model.errors import BadPairs

    if len(val) > 1:
        raise BadPairs(
            f"{len(val)} validation cities given; one chooses the checkpoint, evaluate the others after"
        )
    coarse = replace(model, zoom=model.zoom - 1)  # margins reach every place between: a quarter of the memory
    with labelled_bars() as progress:
        cities = [
            saved_pairs(path, coarse, margin_px=MARGIN_PX, near_m=NEAR_M, progress=progress) for path in data
        ]
        validation = [saved_pairs(path, model, progress=progress) for path in val]
    return cities, validation[0] if validation else None


def _config(
    model: CLNetConfig,
    cities: Sequence[Path],
    *,
    minutes: float | None,
    epochs: float | None,
    batch: int | None,
    learning_rate: float | None,
    seed: int,
    threads: int | None,
    pretrained: str | None,
    start_from: Path | None,
    recompute: bool,
) -> TrainConfig:
    """The defaults of the dataclasses with the options that were given."""
    from clnet_model.data import load_pairs
    from clnet_model.sampling import SamplerConfig
    from clnet_model.train_config import TrainConfig

    sampler = SamplerConfig() if batch is None else SamplerConfig(queries=batch)
    given: dict[str, Any] = {} if learning_rate is None else {"peak_learning_rate": learning_rate}
    return TrainConfig(
        model=model,
        sampler=sampler,
        budget=_budget(minutes, epochs, sum(len(load_pairs(city)) for city in cities) / sampler.queries),
        seed=seed,
        threads=threads,
        pretrained=pretrained,
        start_from=None if start_from is None else str(start_from),
        recompute=recompute,
        **given,
    )


def _budget(minutes: float | None, epochs: float | None, steps_per_epoch: float) -> BudgetConfig:
    from clnet_model.errors import BadConfig
    from clnet_model.schedule import BudgetConfig

    if minutes is not None and epochs is not None:
        raise BadConfig("--minutes and --epochs were both given; give one")
    if epochs is not None:
        return BudgetConfig(max_steps=max(1, round(epochs * steps_per_epoch)))
    return BudgetConfig(max_minutes=10.0 if minutes is None else minutes)


def _fit(
    cities: Sequence[Path],
    validation: Path | None,
    config: TrainConfig,
    scale: Scale | None,
    *,
    out: Path,
    sources: Sequence[Path],
) -> TrainReport:
    from cli.model_progress import followed_log, training_bar
    from clnet_model.collective import World
    from clnet_model.data import load_pairs
    from clnet_model.ray_train import fit_on_ray
    from clnet_model.train import fit
    from workers.cluster import ray_cluster

    provenance = {
        "command": shlex.join(["clnet", *sys.argv[1:]]),
        "data": [_origin(path) for path in sources],
    }
    if scale is not None:
        with ray_cluster(Settings().ray_address), training_bar() as progress, followed_log(out, progress):
            return fit_on_ray(
                cities, config, out=out, scale=scale, validation=validation, provenance=provenance
            )
    with training_bar() as progress:
        return fit(
            [load_pairs(city) for city in cities],
            config,
            out=out,
            progress=progress,
            validation=None if validation is None else load_pairs(validation),
            provenance=provenance,
            world=World.here(),
        )


def _origin(data: Path) -> dict[str, Any]:
    """Seeds and styles of a simulated city, for the checkpoint's provenance."""
    import geopandas

    frame = geopandas.read_parquet(data / "manifest.parquet")
    seeds = sorted({int(seed) for seed in frame["seed"]}) if "seed" in frame else []
    styles = sorted({str(style) for style in frame["style"]}) if "style" in frame else []
    return {"folder": data.name, "seeds": seeds, "styles": styles, "images": len(frame)}


def _calibrate(folder: Path, validation: Path) -> None:
    from cli.model_progress import labelled_bars
    from clnet_model.checkpoint import save_calibration
    from clnet_model.data import load_pairs
    from clnet_model.encoder import load_encoder
    from clnet_model.evaluate import calibrate

    with labelled_bars() as progress:
        save_calibration(folder, calibrate(load_encoder(folder), load_pairs(validation), progress=progress))
