"""Position-aware contrastive loss."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from clnet_model.losses import (
    LossConfig,
    answered,
    position_aware_nce,
    sector,
    sector_nce,
    soft_targets,
    turned_nce,
)

INF = math.inf


def test_targets_follow_the_distance() -> None:
    target = soft_targets(torch.tensor([[0.0, 10.0, INF]]), sigma_m=10, label_smoothing=0)
    assert target[0, 1] / target[0, 0] == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert target[0, 2] == 0


def test_camera_between_two_patches_shares_its_target() -> None:
    target = soft_targets(torch.tensor([[12.0, 12.0, 40.0]]), sigma_m=10, label_smoothing=0)
    assert target[0, 0] == target[0, 1]
    assert float(target[0, 0]) == pytest.approx(0.5, abs=0.01)


def test_rows_without_a_right_answer_do_not_count() -> None:
    queries, patches = answered(torch.tensor([[50.0, 90.0], [INF, INF]]), LossConfig())
    assert queries.tolist() == [0, 0]
    assert patches.tolist() == [0, 0]


def test_a_camera_near_the_edge_of_its_patch_counts() -> None:
    """VIGOR's stand up to 25 m from their patch's centre; that patch is the target, and counts as well."""
    distance = torch.tensor([[25.0, 45.0, 90.0], [50.0, 4.0, 30.0]])
    queries, patches = answered(distance, LossConfig())
    assert queries.tolist() == [1, 1]
    assert patches.tolist() == [1, 1, 0]  # the third shows the second query, but is not its own
    target = soft_targets(distance, sigma_m=6, label_smoothing=0)
    assert target.argmax(dim=1).tolist() == [0, 1]
    assert float(target[0, 0]) > 0.99


def test_turned_loss_teaches_a_camera_near_the_edge_of_its_patch() -> None:
    ground, aerial = unit(1), unit(2)
    found = turned_nce(
        ground, aerial, torch.tensor([[25.0, 60.0]]), torch.tensor(3.0), LossConfig(), azimuths=16
    )
    assert float(found) > 0


def test_cameras_on_a_dense_grid_are_counted_as_by_three_sigma() -> None:
    """Where every query has a patch within 3σ, reach changes nothing: neither rows, columns nor losses."""
    camera, centre = 200 * torch.rand(40, 2), torch.cartesian_prod(*2 * [torch.arange(0.0, 201.0, 24.0)])
    distance = torch.cdist(camera, centre)
    assert float(distance.amin(dim=1).max()) < 18
    queries, patches = answered(distance, LossConfig())
    assert queries.equal((distance.amin(dim=1) < 18).float())
    assert patches.equal((distance.amin(dim=0) < 18).float())
    assert 0 < float(patches.mean()) < 1
    ground, aerial = unit(40), unit(len(centre))
    for loss in (position_aware_nce, partial(turned_nce, azimuths=16), partial(sector_nce, azimuths=16)):
        far, near = (
            loss(ground, aerial, distance, torch.tensor(3.0), LossConfig(reach_m=reach_m))
            for reach_m in (35, 0)
        )
        assert far.equal(near)


def test_sigma_zero_is_plain_infonce() -> None:
    ground, aerial = (torch.nn.functional.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    distance = torch.full((4, 4), 100.0)
    distance.fill_diagonal_(5.0)
    config = LossConfig(position_sigma_m=0, label_smoothing=0)
    logits = 10 * ground @ aerial.T
    plain = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    plain = (plain + torch.nn.functional.cross_entropy(logits.T, torch.arange(4))) / 2
    found = position_aware_nce(ground, aerial, distance, torch.tensor(math.log(10)), config)
    torch.testing.assert_close(found, plain)


def test_temperature_is_clamped() -> None:
    ground = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    distance = torch.full((3, 3), INF).fill_diagonal_(0)
    at_limit = position_aware_nce(ground, ground, distance, torch.tensor(math.log(100)), LossConfig())
    beyond = position_aware_nce(ground, ground, distance, torch.tensor(50.0), LossConfig())
    torch.testing.assert_close(at_limit, beyond, atol=1e-3, rtol=1e-3)


def test_better_ordered_similarities_cost_less() -> None:
    aerial = torch.eye(3)
    distance = torch.full((3, 3), 200.0).fill_diagonal_(2.0)
    scale = torch.tensor(2.0)
    right = position_aware_nce(aerial, aerial, distance, scale, LossConfig())
    wrong = position_aware_nce(aerial.roll(1, 0), aerial, distance, scale, LossConfig())
    assert right < wrong


def test_turned_loss_is_lowest_at_the_true_place_and_north() -> None:
    aerial = torch.nn.functional.normalize(torch.randn(5, 16 * 4), dim=1)
    distance = torch.full((5, 5), INF).fill_diagonal_(0)

    def loss(ground: torch.Tensor) -> torch.Tensor:
        return turned_nce(ground, aerial, distance, torch.tensor(3.0), LossConfig(), azimuths=16)

    turned = aerial.unflatten(1, (16, 4)).roll(4, dims=1).flatten(1)
    assert loss(aerial) < loss(turned)
    assert loss(aerial) < loss(aerial.roll(1, dims=0))


def test_turned_loss_counts_another_place_at_another_heading() -> None:
    """Two places alike but for a turn are told apart at a known heading, and not at an unknown one."""
    one = torch.nn.functional.normalize(torch.randn(1, 16 * 4), dim=1)
    twin = one.unflatten(1, (16, 4)).roll(8, dims=1).flatten(1)
    stranger = torch.nn.functional.normalize(torch.randn(1, 16 * 4), dim=1)
    distance = torch.tensor([[0.0, INF]])

    def loss(other: torch.Tensor) -> float:
        both = torch.cat([one, other])
        return float(turned_nce(one, both, distance, torch.tensor(3.0), LossConfig(), azimuths=16))

    assert loss(twin) > loss(stranger) + 0.3


def unit(rows: int, azimuths: int = 16, channels: int = 4) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, azimuths * channels), dim=1)


def test_a_sector_is_a_quarter_of_the_circle_and_of_unit_length() -> None:
    ground = unit(5)
    first, whole = sector(ground, 0, azimuths=16, config=LossConfig())
    second, _ = sector(ground, 1, azimuths=16, config=LossConfig())
    seen = [cut.unflatten(1, (16, 4)).abs().amax(dim=2) > 0 for cut in (first, second)]
    assert all(mask.sum(dim=1).tolist() == [4] * 5 for mask in seen)
    assert not (seen[0] & seen[1]).any()
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    assert whole.all()


def test_a_sector_that_the_image_did_not_see_does_not_count() -> None:
    photo = unit(1).unflatten(1, (16, 4))
    photo[:, 2:] = 0  # sees two columns of the sector's four
    _, whole = sector(photo.flatten(1), 0, azimuths=16, config=LossConfig())
    assert not whole.any()


def test_sector_loss_asks_every_part_of_the_circle_for_the_place() -> None:
    aerial = unit(6)
    distance = torch.full((6, 6), INF).fill_diagonal_(0)
    elsewhere = aerial.roll(1, dims=0).unflatten(1, (16, 4))
    half = aerial.unflatten(1, (16, 4)).clone()
    half[:, 8:] = elsewhere[:, 8:]  # one half of the view is of the place, the other of another one

    def loss(ground: torch.Tensor) -> float:
        return float(sector_nce(ground, aerial, distance, torch.tensor(3.0), LossConfig(), azimuths=16))

    assert loss(aerial) < loss(half.flatten(1)) < loss(aerial.roll(1, dims=0))
