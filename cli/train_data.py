"""What `clnet train` trains on and chooses by: folders of pairs as the network takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clnet_model.model import CLNetConfig

MARGIN_PX = 16  # lets training move patches by up to 9 m,
COARSER = 2  # so that patches of a grid this many zooms coarser reach every place: a sixteenth of the memory
NEAR_M = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Saved pairs. `calibrates` is False where positions are not those of one place's whole gallery."""

    train: tuple[Path, ...]
    validation: Path | None
    calibrates: bool
    origin: tuple[Mapping[str, Any], ...]


def from_cities(data: Sequence[Path], val: Sequence[Path], model: CLNetConfig) -> TrainingData:
    """Training cities with moveable patches near streets; one validation city with its whole gallery.

    Raises:
        BadPairs: several validation cities, or a folder that cannot be used.
    """
    from cli.model_progress import labelled_bars
    from cli.pairs import saved_pairs
    from clnet_model.errors import BadPairs

    if len(val) > 1:
        raise BadPairs(
            f"{len(val)} validation cities given; one chooses the checkpoint, evaluate the others after"
        )
    coarse = replace(model, zoom=model.zoom - COARSER)
    with labelled_bars() as progress:
        cities = [
            saved_pairs(path, coarse, margin_px=MARGIN_PX, near_m=NEAR_M, progress=progress) for path in data
        ]
        validation = [saved_pairs(path, model, progress=progress) for path in val]
    return TrainingData(
        train=tuple(cities),
        validation=validation[0] if validation else None,
        calibrates=bool(validation),
        origin=tuple(_about_city(path) for path in [*data, *val]),
    )


def from_benchmark(
    name: str,
    root: Path,
    options: Mapping[str, str],
    model: CLNetConfig,
    *,
    hfov_deg: float | None,
    cache: Path,
) -> TrainingData:
    """A benchmark's published training split, one query in twenty held out to choose the checkpoint by.

    Raises:
        BadPairs: no such benchmark, files that cannot be used, or other pairs in `cache`.
    """
    from cli.model_progress import labelled_bars
    from clnet_model.benchmark_pairs import hold_out, save_pairs
    from clnet_model.benchmark_vectors import PHOTO_HFOV_DEG
    from clnet_model.benchmarks import open_benchmark

    split = open_benchmark(name, root, **options)
    folders = []
    with labelled_bars() as progress:
        for part, what in zip(hold_out(split), ("train", "held-out"), strict=True):
            folder = cache / what
            save_pairs(part, model, folder, hfov_deg=hfov_deg or PHOTO_HFOV_DEG, progress=progress)
            folders.append(folder)
    return TrainingData(
        train=(folders[0],),
        validation=folders[1],
        calibrates=False,
        origin=({"benchmark": split.name, "images": len(split.queries)},),
    )


def _about_city(data: Path) -> dict[str, Any]:
    """Seeds and styles of a simulated city, for the checkpoint's provenance."""
    import geopandas

    frame = geopandas.read_parquet(data / "manifest.parquet")
    seeds = sorted({int(seed) for seed in frame["seed"]}) if "seed" in frame else []
    styles = sorted({str(style) for style in frame["style"]}) if "style" in frame else []
    return {"folder": data.name, "seeds": seeds, "styles": styles, "images": len(frame)}
