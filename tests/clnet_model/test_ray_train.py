"""Training on Ray: workers share a run, a killed one is replaced, and the result stays the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clnet_model.checkpoint import load_checkpoint
from clnet_model.data import GeoPairs
from clnet_model.errors import BadConfig
from clnet_model.model import CLNetConfig
from clnet_model.preprocess import CanvasSpec
from clnet_model.ray_train import RUN_NAME, Scale, fit_on_ray
from clnet_model.run_files import LOG_FILE
from clnet_model.sampling import SamplerConfig
from clnet_model.schedule import BudgetConfig
from clnet_model.train import fit
from clnet_model.train_config import TrainConfig
from clnet_model.train_step import Tick

SMALL = CanvasSpec(height_px=32, width_px=128)


def losses(out: Path) -> dict[int, float]:
    """Loss of every step; of a step done twice, the last."""
    lines = [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def die_once(marker: Path) -> Callable[[Tick], None]:
    """A callback that ends its whole process in the third step, the first time."""

    def watch(tick: Tick) -> None:
        if tick.step == 3 and not marker.exists():
            marker.touch()
            os._exit(1)

    return watch


def test_a_run_survives_a_killed_worker_and_equals_one_process(
    ray_session: None, toy_city: Callable[..., GeoPairs], tiny: Callable[..., CLNetConfig], tmp_path: Path
) -> None:
    city = toy_city(seed=3, size_m=200, streets=48, patch_px=64, margin_px=8, canvas=SMALL)
    city.save(tmp_path / "city")
    config = TrainConfig(
        model=tiny(),
        sampler=SamplerConfig(queries=12, neighbourhoods=3),
        budget=BudgetConfig(max_steps=5),
        checkpoint_every_minutes=0.0,
        statistics_batches=2,
        threads=1,
        precision="fp32",
    )
    report = fit_on_ray(
        [tmp_path / "city"],
        config,
        out=tmp_path / "shared",
        scale=Scale(workers=(1, 2), max_failures=1),
        validation=tmp_path / "city",
        progress=die_once(tmp_path / "died"),
    )
    assert (tmp_path / "died").exists()
    assert report.steps == 5
    assert report.queries == 60
    assert report.validation is not None
    assert report.digest == load_checkpoint(report.folder).digest
    assert not (tmp_path / "shared" / RUN_NAME).exists()
    fit([city], config, out=tmp_path / "alone", validation=city)
    assert losses(tmp_path / "shared") == pytest.approx(losses(tmp_path / "alone"), rel=2e-3)


@pytest.mark.parametrize("workers", [0, (0, 2), (3, 2)])
def test_no_workers_are_refused(workers: int | tuple[int, int]) -> None:
    with pytest.raises(BadConfig, match="workers"):
        Scale(workers=workers)
