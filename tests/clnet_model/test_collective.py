"""Two processes that share a batch do what one process does with all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from clnet_model.augment import Batch, noise_field
from clnet_model.collective import ALONE, World, summed
from clnet_model.data import GeoPairs, load_pairs
from clnet_model.errors import BadConfig
from clnet_model.model import CLNetConfig
from clnet_model.preprocess import CanvasSpec
from clnet_model.run_files import ResumeFile
from clnet_model.sampling import NeighbourhoodSampler, SamplerConfig
from clnet_model.schedule import BudgetConfig
from clnet_model.train import Run, fit
from clnet_model.train_config import TrainConfig
from clnet_model.train_step import batch_loss, start, train_step

SMALL = CanvasSpec(height_px=32, width_px=128)
QUERIES = 13  # shares differ in size


def run_of(city: GeoPairs, config: TrainConfig, out: Path, world: World = ALONE) -> Run:
    return Run(
        pairs=[city],
        validation=None,
        config=config,
        world=world,
        out=out,
        provenance={},
        unfinished=ResumeFile(out),
        state=start(config, world),
        sampler=NeighbourhoodSampler([city], config.sampler, seed=config.seed),
        noise=noise_field(config.seed, world.device, canvas=SMALL, patch_px=64),
    )


def measured(config: TrainConfig, batch: Batch, world: World = ALONE) -> dict[str, Any]:
    """Loss and gradients of one batch, then the weights after two steps on it."""
    state = start(config, world)
    queries, patches = batch.distance_m.shape
    own = replace(
        batch, canvases=batch.canvases[world.own(queries)], patches=batch.patches[world.own(patches)]
    )
    views = state.both_views(own.canvases, own.patches)
    loss, _, _ = batch_loss(views, own, state.model.log_scale, config, world)
    (loss * world.size).backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad.clone() for name, value in state.model.named_parameters()}  # type: ignore[union-attr]
    ticks = [train_step(state, own, config, share=0.5, spent_s=0.0, world=world) for _ in range(2)]
    return {
        "loss": world.total(float(loss.detach())),
        "gradients": gradients,
        "losses": [tick.loss for tick in ticks],
        "recalls": [tick.batch_recall_at_1 for tick in ticks],
        "buffers": dict(state.model.named_buffers()),
    }


def work(rank: int, size: int, folder: str) -> None:
    """What each of the processes does; the first one leaves what it found."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size
    )
    world = World(rank=rank, size=size)
    told = torch.load(Path(folder) / "told.pt", weights_only=False)
    found = measured(told["config"], told["batch"], world)
    city = load_pairs(Path(folder) / "city")
    run = run_of(city, told["config"], Path(folder), world)
    batch = run.next_batch(0.5)
    found["geometry"], found["canvases"] = batch.distance_m, batch.canvases
    found["shares"] = world.exchanged((len(batch.canvases), len(batch.patches)))
    run.mine_hard_patches()
    found["hard"] = run.sampler.state()["hard"]
    found["agreed"] = (world.agreed(10.0 + rank), world.total(1.0 + rank))
    if world.first:
        torch.save(found, Path(folder) / "found.pt")
    distributed.barrier()  # nobody leaves while another still talks
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def city(toy_city: Callable[..., GeoPairs]) -> GeoPairs:
    return toy_city(seed=3, size_m=200, streets=48, patch_px=64, margin_px=8, canvas=SMALL)


@pytest.fixture(scope="module")
def together(
    city: GeoPairs, tiny: Callable[..., CLNetConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any], Run]:
    """What two processes found, what one finds, and the run it found it in."""
    folder = tmp_path_factory.mktemp("together")
    config = TrainConfig(
        model=tiny(),
        sampler=SamplerConfig(queries=QUERIES, neighbourhoods=3),
        budget=BudgetConfig(max_steps=2),
        statistics_batches=2,
        precision="fp32",
    )
    city.save(folder / "city")
    alone = run_of(city, config, folder)
    batch = alone.next_batch(0.5)
    torch.save({"config": config, "batch": batch}, folder / "told.pt")
    multiprocessing.spawn(work, args=(2, str(folder)), nprocs=2)
    found = torch.load(folder / "found.pt", weights_only=False)
    return (
        found,
        {**measured(config, batch), "geometry": batch.distance_m, "canvases": batch.canvases},
        run_of(city, config, folder),
    )


def test_loss_and_gradients_equal_those_of_one_process(
    together: tuple[dict[str, Any], dict[str, Any], Run],
) -> None:
    found, alone, _ = together
    assert found["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    for name, gradient in alone["gradients"].items():
        apart = (found["gradients"][name] - gradient).abs().max() / gradient.abs().max().clamp(min=1.0)
        assert float(apart) < 1e-5, name


def test_steps_and_running_statistics_equal_those_of_one_process(
    together: tuple[dict[str, Any], dict[str, Any], Run],
) -> None:
    found, alone, _ = together
    assert found["losses"] == pytest.approx(alone["losses"], abs=1e-3)
    assert found["recalls"] == alone["recalls"]
    for name, buffer in alone["buffers"].items():
        torch.testing.assert_close(found["buffers"][name], buffer, atol=1e-3, rtol=1e-3, msg=name)


def test_processes_draw_the_same_batch_and_share_its_images(
    together: tuple[dict[str, Any], dict[str, Any], Run],
) -> None:
    found, alone, _ = together
    torch.testing.assert_close(found["geometry"], alone["geometry"])
    torch.testing.assert_close(found["canvases"], alone["canvases"][: len(found["canvases"])])
    queries, patches = alone["geometry"].shape
    assert [sum(part) for part in zip(*found["shares"], strict=True)] == [queries, patches]
    assert found["shares"][0][0] == found["shares"][1][0] + 1 == 7


def test_hard_patches_are_told_to_all(together: tuple[dict[str, Any], dict[str, Any], Run]) -> None:
    found, _, run = together
    run.mine_hard_patches()
    alone = run.sampler.state()["hard"][0]
    same = [
        len(set(a) & set(b)) / len(b) for a, b in zip(found["hard"][0].tolist(), alone.tolist(), strict=True)
    ]
    assert sum(same) / len(same) > 0.99  # a near tie may fall either way


def test_processes_agree_on_the_first_ones_number(
    together: tuple[dict[str, Any], dict[str, Any], Run],
) -> None:
    assert together[0]["agreed"] == (10.0, 3.0)


@pytest.mark.parametrize(("count", "size"), [(13, 2), (3, 4), (8, 4), (0, 3)])
def test_shares_cover_every_row_once(count: int, size: int) -> None:
    rows = [row for rank in range(size) for row in range(count)[World(rank=rank, size=size).own(count)]]
    assert rows == list(range(count))


def test_alone_nothing_is_exchanged() -> None:
    rows = torch.ones(3, 2)
    assert ALONE.gathered(rows, 3) is rows
    assert summed(rows) is rows
    assert ALONE.exchanged(5) == [5]


@pytest.mark.parametrize(("batch", "street"), [(6, 48), (12, 3)])
def test_more_processes_than_images_are_refused(
    city: GeoPairs, tiny: Callable[..., CLNetConfig], tmp_path: Path, batch: int, street: int
) -> None:
    config = TrainConfig(model=tiny(), sampler=SamplerConfig(queries=batch, neighbourhoods=2))
    with pytest.raises(BadConfig, match="fewer workers"):
        fit([city, city.subset(np.arange(street))], config, out=tmp_path, world=World(size=4))
