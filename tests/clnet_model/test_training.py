"""The loop: it learns, stops on budget, resumes, and leaves a checkpoint with its history."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clnet_model.augment import AugmentConfig, noise_field
from clnet_model.checkpoint import load_checkpoint, save_checkpoint
from clnet_model.collective import ALONE
from clnet_model.data import GeoPairs
from clnet_model.errors import BadCheckpoint, BadConfig, BadPairs
from clnet_model.model import CLNet, CLNetConfig
from clnet_model.preprocess import CanvasSpec
from clnet_model.run_files import ResumeFile
from clnet_model.sampling import NeighbourhoodSampler, SamplerConfig
from clnet_model.schedule import BudgetConfig, learning_rate
from clnet_model.train import Run, fit
from clnet_model.train_config import TrainConfig
from clnet_model.train_step import Tick, start, train_step

SMALL = CanvasSpec(height_px=32, width_px=128)


@pytest.fixture(scope="module")
def city(toy_city: Callable[..., GeoPairs]) -> GeoPairs:
    return toy_city(seed=3, size_m=200, streets=48, patch_px=64, margin_px=8, canvas=SMALL)


@pytest.fixture
def config(tiny: Callable[..., CLNetConfig]) -> TrainConfig:
    return TrainConfig(
        model=tiny(),
        sampler=SamplerConfig(queries=12, neighbourhoods=3),
        budget=BudgetConfig(max_steps=4),
        threads=1,
        precision="fp32",
    )


@pytest.fixture
def run_in(city: GeoPairs) -> Callable[[TrainConfig, Path], Run]:
    """A run on the toy city that has not begun."""

    def make(config: TrainConfig, out: Path) -> Run:
        return Run(
            pairs=[city],
            validation=None,
            config=config,
            world=ALONE,
            out=out,
            provenance={},
            unfinished=ResumeFile(out),
            state=start(config),
            sampler=NeighbourhoodSampler([city], config.sampler, seed=config.seed),
            noise=noise_field(config.seed, ALONE.device, canvas=SMALL, patch_px=64),
        )

    return make


def test_a_run_leaves_a_loadable_checkpoint_with_its_history(
    city: GeoPairs, config: TrainConfig, tmp_path: Path
) -> None:
    ticks: list[Tick] = []
    report = fit(
        [city],
        config,
        out=tmp_path,
        progress=ticks.append,
        validation=city,
        provenance={"command": "clnet train x"},
    )
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.digest == report.digest
    assert checkpoint.provenance["command"] == "clnet train x"
    assert checkpoint.provenance["config"]["seed"] == 0
    assert report.validation is not None
    assert [tick.step for tick in ticks] == [1, 2, 3, 4]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation" in line for line in lines) >= 1
    assert not (tmp_path / "resume.pt").exists()


def test_photos_alone_choose_a_checkpoint(city: GeoPairs, config: TrainConfig, tmp_path: Path) -> None:
    photos = replace(city, hfov_deg=np.full(len(city), 90.0, np.float32))
    report = fit([photos], config, out=tmp_path, validation=photos)
    assert report.validation is not None
    assert report.validation.queries == len(city)


def test_it_memorises_one_batch(
    run_in: Callable[[TrainConfig, Path], Run], config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(config, augment=AugmentConfig.off(), peak_learning_rate=3e-3)
    run = run_in(config, tmp_path)
    for group in run.state.optimizer.param_groups:
        group["lr"] = 3e-3
    batch = run.next_batch(0.0)
    ticks = [train_step(run.state, batch, config, share=0, spent_s=0) for _ in range(40)]
    assert ticks[-1].batch_recall_at_1 >= 0.8
    assert ticks[-1].loss < 0.8 * ticks[0].loss


def test_same_seed_same_weights(city: GeoPairs, config: TrainConfig, tmp_path: Path) -> None:
    first, second = (fit([city], config, out=tmp_path / name) for name in ("a", "b"))
    assert first.digest == second.digest


def test_resumed_run_equals_the_undisturbed_one(city: GeoPairs, config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, checkpoint_every_minutes=0.0)
    undisturbed = fit([city], config, out=tmp_path / "whole")

    class Killed(Exception):
        pass

    def stop_after_two(tick: Tick) -> None:
        if tick.step == 3:
            raise Killed

    out = tmp_path / "killed"
    with pytest.raises(Killed):
        fit([city], config, out=out, progress=stop_after_two)
    steps: list[int] = []
    resumed = fit([city], config, out=out, progress=lambda tick: steps.append(tick.step))
    assert steps == [3, 4]
    assert resumed.digest == undisturbed.digest


def test_recomputed_activations_give_the_same_gradients(
    run_in: Callable[[TrainConfig, Path], Run], config: TrainConfig, tmp_path: Path
) -> None:
    losses = []
    for recompute in (False, True):
        run = run_in(replace(config, recompute=recompute), tmp_path)
        batch = run.next_batch(0.0)
        ticks = [train_step(run.state, batch, run.config, share=0, spent_s=0) for _ in range(2)]
        losses.append([tick.loss for tick in ticks])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_tensorboard_events_lie_beside_the_log(city: GeoPairs, config: TrainConfig, tmp_path: Path) -> None:
    fit([city], config, out=tmp_path)
    events = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert sum(path.stat().st_size for path in events) > 0


def test_resuming_with_other_settings_is_refused(
    run_in: Callable[[TrainConfig, Path], Run], city: GeoPairs, config: TrainConfig, tmp_path: Path
) -> None:
    run_in(config, tmp_path).save(spent_s=0.0)
    with pytest.raises(BadCheckpoint, match="other settings"):
        fit([city], replace(config, seed=1), out=tmp_path)


@pytest.mark.parametrize("part", ["street_xy_m", "patches"])
def test_resuming_on_other_data_is_refused(
    run_in: Callable[[TrainConfig, Path], Run], city: GeoPairs, config: TrainConfig, tmp_path: Path, part: str
) -> None:
    run_in(config, tmp_path).save(spent_s=0.0)
    other = replace(city, **{part: getattr(city, part)[::-1]})
    with pytest.raises(BadCheckpoint, match="fresh --out"):
        fit([other], config, out=tmp_path)
    with pytest.raises(BadCheckpoint, match="other data"):
        fit([city], config, out=tmp_path, validation=city)


def test_wall_clock_budget_ends_the_run(city: GeoPairs, config: TrainConfig, tmp_path: Path) -> None:
    report = fit([city], replace(config, budget=BudgetConfig(max_minutes=0.02)), out=tmp_path)
    assert report.steps >= 1
    assert report.spent_s < 30


def test_thread_setting_is_given_back(city: GeoPairs, config: TrainConfig, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    config = replace(config, threads=before + 1, budget=BudgetConfig(max_steps=1))
    fit([city], config, out=tmp_path)
    assert torch.get_num_threads() == before


def test_mining_finds_patches_elsewhere(
    run_in: Callable[[TrainConfig, Path], Run], city: GeoPairs, config: TrainConfig, tmp_path: Path
) -> None:
    run = run_in(config, tmp_path)
    run.mine_hard_patches()
    hard = run.sampler.state()["hard"][0].numpy()
    away = city.patch_xy_m[hard] - city.street_xy_m[:, None]
    assert (away**2).sum(axis=-1).min() ** 0.5 > 12


def test_both_or_no_budget_is_refused() -> None:
    with pytest.raises(BadConfig):
        BudgetConfig()
    with pytest.raises(BadConfig):
        BudgetConfig(max_steps=1, max_minutes=1.0)


def test_no_city_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(BadPairs, match="no city"):
        fit([], config, out=tmp_path)


def test_cities_of_another_size_are_refused(city: GeoPairs, config: TrainConfig, tmp_path: Path) -> None:
    other = replace(config, model=replace(config.model, patch_px=80))
    with pytest.raises(BadPairs, match="rebuild the pairs"):
        fit([city], other, out=tmp_path)


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(share, peak=1.0, warmup_share=0.1) for share in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0.02)


def test_a_run_goes_on_from_an_earlier_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CLNet(config.model), provenance={})
    state = start(replace(config, start_from=str(tmp_path)))
    earlier = load_checkpoint(tmp_path).model.state_dict()
    assert all(torch.equal(value, earlier[name]) for name, value in state.model.state_dict().items())


def test_a_checkpoint_of_another_shape_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, CLNet(config.model.without("gfr")), provenance={})
    with pytest.raises(BadCheckpoint, match="other network settings"):
        start(replace(config, start_from=str(tmp_path)))
