"""`clnet train`: simulated (or own) cities in, a calibrated checkpoint out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Settings, checkpoint_folder

if TYPE_CHECKING:
    from cli.train_data import TrainingData
    from clnet_model.model import CLNetConfig
    from clnet_model.ray_train import Scale
    from clnet_model.schedule import BudgetConfig
    from clnet_model.train import TrainReport
    from clnet_model.train_config import TrainConfig

BENCHMARK = "A public benchmark"


def train(
    out: Annotated[Path, typer.Option("--out", help="Folder of the new checkpoint.")],
    data: Annotated[
        list[Path] | None, typer.Argument(help="Folders written by `clnet simulate`.", show_default=False)
    ] = None,
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
        str | None,
        typer.Option(
            "--pretrained",
            help="Trunk to start from: efficientnet-lite0, or a ConvNeXt on the Hugging Face hub.",
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--start-from",
            help="Checkpoint to go on from, e.g. for your own city: its folder, or a shipped one's name.",
            parser=checkpoint_folder,
            metavar="DIR",
        ),
    ] = None,
    patch_px: Annotated[
        int | None, typer.Option(help="Side of a patch as the network takes it; default 128.")
    ] = None,
    canvas_px: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Street canvas as the network takes it; default 64x256."),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="cvusa, cvact, vigor or manifest: its training part.", rich_help_panel=BENCHMARK),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Its folder as published; for manifest the file.", rich_help_panel=BENCHMARK),
    ] = None,
    area: Annotated[str | None, typer.Option(help="vigor: same or cross.", rich_help_panel=BENCHMARK)] = None,
    query_kind: Annotated[
        str | None, typer.Option(help="manifest: panorama or perspective.", rich_help_panel=BENCHMARK)
    ] = None,
    hfov_deg: Annotated[
        float | None,
        typer.Option(help="Horizontal field of view of perspective images.", rich_help_panel=BENCHMARK),
    ] = None,
) -> None:
    """Train CLNet on cities, choose and calibrate it on another.

    Or train on a public benchmark: --benchmark NAME --root PATH; one query in twenty is held out to choose
    the checkpoint by.
    """
    scale = scale_of(workers, threads, gpus=gpus)
    model = network_of(ablate, pretrained, start_from, patch_px=patch_px, canvas_px=canvas_px)
    found = _data(
        data or [], val or [], model, out=out, benchmark=benchmark, root=root, area=area,
        query_kind=query_kind, hfov_deg=hfov_deg,
    )  # fmt: skip
    config = _config(
        model, found.train, minutes=minutes, epochs=epochs, batch=batch, learning_rate=learning_rate,
        seed=seed, threads=threads, pretrained=pretrained, start_from=start_from, recompute=recompute,
    )  # fmt: skip
    report = _fit(found, config, scale, out=out)
    if found.validation is not None and found.calibrates:
        _calibrate(report.folder, found.validation)
    typer.echo(
        f"{report.folder}: digest {report.digest}, {report.queries:,} street images in {report.spent_s:.0f} s"
    )


def network_of(
    ablate: str,
    pretrained: str | None,
    start_from: Path | None,
    *,
    patch_px: int | None,
    canvas_px: str | None,
) -> CLNetConfig:
    """The network of the checkpoint to go on from, else the default on the trunk that was named."""
    from clnet_model.checkpoint import load_checkpoint
    from clnet_model.model import CLNetConfig, pretrained_backbone

    base = CLNetConfig()
    if pretrained is not None:
        base = CLNetConfig(backbone=pretrained_backbone(pretrained))
    elif start_from is not None:
        base = load_checkpoint(start_from).model.config
    if patch_px is not None:
        base = replace(base, patch_px=patch_px)
    if canvas_px is not None:
        height_px, width_px = _size(canvas_px)
        base = replace(base, canvas=replace(base.canvas, height_px=height_px, width_px=width_px))
    return base.without(*(name.strip() for name in ablate.split(",") if name.strip()))


def _size(text: str) -> tuple[int, int]:
    from clnet_model.errors import BadConfig

    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise BadConfig(f"--canvas-px is {text!r}: give height and width in pixels, as in 128x768")
    return int(height), int(width)


def _data(
    data: Sequence[Path],
    val: Sequence[Path],
    model: CLNetConfig,
    *,
    out: Path,
    benchmark: str | None,
    root: Path | None,
    area: str | None,
    query_kind: str | None,
    hfov_deg: float | None,
) -> TrainingData:
    """Either cities or a benchmark."""
    from cli.train_data import from_benchmark, from_cities
    from clnet_model.errors import BadConfig

    if bool(data) == (benchmark is not None):
        raise BadConfig("give either folders written by `clnet simulate` or --benchmark NAME --root PATH")
    if benchmark is None:
        return from_cities(data, val, model)
    if root is None:
        raise BadConfig(f"--benchmark {benchmark} without --root; give the folder that holds its images")
    if val:
        raise BadConfig("--val with --benchmark: part of its training split is held out; leave --val out")
    part = {} if benchmark.lower() == "manifest" else {"part": "train"}
    options = {"area": area, "query_kind": query_kind}
    chosen = {name: value for name, value in options.items() if value is not None}
    return from_benchmark(benchmark, root, {**part, **chosen}, model, hfov_deg=hfov_deg, cache=out / "pairs")


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


def _fit(data: TrainingData, config: TrainConfig, scale: Scale | None, *, out: Path) -> TrainReport:
    from cli.model_progress import followed_log, training_bar
    from clnet_model.collective import World
    from clnet_model.data import load_pairs
    from clnet_model.ray_train import fit_on_ray
    from clnet_model.train import fit
    from workers.cluster import ray_cluster

    provenance = {
        "command": shlex.join(["clnet", *sys.argv[1:]]),
        "data": list(data.origin),
    }
    if scale is not None:
        with ray_cluster(Settings().ray_address), training_bar() as progress, followed_log(out, progress):
            return fit_on_ray(
                data.train, config, out=out, scale=scale, validation=data.validation, provenance=provenance
            )
    with training_bar() as progress:
        return fit(
            [load_pairs(city) for city in data.train],
            config,
            out=out,
            progress=progress,
            validation=None if data.validation is None else load_pairs(data.validation),
            provenance=provenance,
            world=World.here(),
        )


def _calibrate(folder: Path, validation: Path) -> None:
    from cli.model_progress import labelled_bars
    from clnet_model.checkpoint import save_calibration
    from clnet_model.data import load_pairs
    from clnet_model.encoder import load_encoder
    from clnet_model.evaluate import calibrate

    with labelled_bars() as progress:
        save_calibration(folder, calibrate(load_encoder(folder), load_pairs(validation), progress=progress))
