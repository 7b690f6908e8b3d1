"""Position-aware contrastive loss."""

from __future__ import annotations

import math

import pytest
import torch

from clnet_model.losses import LossConfig, position_aware_nce, soft_targets
from clnet_model.memory import Memory, Placed

INF = math.inf


def placed(vectors: torch.Tensor, *, step_m: float, offset_m: float = 0.0, world: int = 0) -> Placed:
    """Row k stands at x = k * step_m + offset_m."""
    east_m = torch.arange(len(vectors), dtype=torch.float64) * step_m + offset_m
    xy_m = torch.stack([east_m, torch.zeros_like(east_m)], dim=1)
    return Placed(vectors=vectors, world=torch.full((len(vectors),), world), xy_m=xy_m)


def test_targets_follow_the_distance() -> None:
    target, weight = soft_targets(torch.tensor([[0.0, 10.0, INF]]), sigma_m=10, label_smoothing=0)
    assert weight.tolist() == [1]
    assert target[0, 1] / target[0, 0] == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert target[0, 2] == 0


def test_camera_between_two_patches_shares_its_target() -> None:
    target, _ = soft_targets(torch.tensor([[12.0, 12.0, 40.0]]), sigma_m=10, label_smoothing=0)
    assert target[0, 0] == target[0, 1]
    assert float(target[0, 0]) == pytest.approx(0.5, abs=0.01)


def test_rows_without_a_right_answer_do_not_count() -> None:
    _, weight = soft_targets(torch.tensor([[50.0, 90.0], [INF, INF]]), sigma_m=10, label_smoothing=0)
    assert weight.tolist() == [0, 0]


def test_sigma_zero_is_plain_infonce() -> None:
    ground, aerial = (torch.nn.functional.normalize(torch.randn(4, 8), dim=1) for _ in range(2))
    config = LossConfig(position_sigma_m=0, label_smoothing=0)
    logits = 10 * ground @ aerial.T
    plain = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    plain = (plain + torch.nn.functional.cross_entropy(logits.T, torch.arange(4))) / 2
    found = position_aware_nce(
        placed(ground, step_m=100), placed(aerial, step_m=100, offset_m=5), torch.tensor(math.log(10)), config
    )
    torch.testing.assert_close(found, plain)


def test_temperature_is_clamped() -> None:
    ground = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    both = placed(ground, step_m=1000), placed(ground, step_m=1000)
    at_limit = position_aware_nce(*both, torch.tensor(math.log(100)), LossConfig())
    beyond = position_aware_nce(*both, torch.tensor(50.0), LossConfig())
    torch.testing.assert_close(at_limit, beyond, atol=1e-3, rtol=1e-3)


def test_better_ordered_similarities_cost_less() -> None:
    aerial = placed(torch.eye(3), step_m=200, offset_m=2)
    scale = torch.tensor(2.0)
    right = position_aware_nce(placed(torch.eye(3), step_m=200), aerial, scale, LossConfig())
    wrong = position_aware_nce(placed(torch.eye(3).roll(1, 0), step_m=200), aerial, scale, LossConfig())
    assert right < wrong


def test_remembered_patches_count_like_the_steps_own() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(9, 8), dim=1)
    scale, config = torch.tensor(2.0), LossConfig()
    ground = placed(vectors[:3], step_m=50)
    aerial, earlier = placed(vectors[3:6], step_m=50), placed(vectors[6:], step_m=50, offset_m=1000)
    memory = Memory(4)
    memory.add(earlier, earlier)
    whole = [
        Placed(
            vectors=torch.cat([own.vectors, earlier.vectors]),
            world=torch.zeros(6, dtype=torch.int64),
            xy_m=torch.cat([own.xy_m, earlier.xy_m]),
        )
        for own in (ground, aerial)
    ]
    found = position_aware_nce(ground, aerial, scale, config, memory=memory)
    rows, columns = (
        _rows_loss(ground, whole[1], scale, config),
        _rows_loss(aerial, whole[0], scale, config),
    )
    assert float(found) == pytest.approx(float(rows + columns) / 2)


def test_a_neighbour_from_an_earlier_step_is_no_negative() -> None:
    vectors = torch.eye(4)
    asked, own = placed(vectors[:1], step_m=1), placed(vectors[:1], step_m=1)
    scale, config = torch.tensor(3.0), LossConfig(label_smoothing=0)
    same, other = Memory(1), Memory(1)
    same.add(placed(vectors[:1], step_m=1), placed(vectors[:1], step_m=1))
    other.add(placed(vectors[:1], step_m=1, world=1), placed(vectors[:1], step_m=1, world=1))
    shared = position_aware_nce(asked, own, scale, config, memory=same)
    refused = position_aware_nce(asked, own, scale, config, memory=other)
    assert float(shared) == pytest.approx(math.log(2), abs=1e-5)  # as alike and as near: half each
    assert float(refused) == pytest.approx(math.log(2), abs=1e-5)
    # in another world the twin is a wrong answer: only there does pushing it away lower the loss
    for memory, falls in ((same, False), (other, True)):
        turned = Memory(1)
        ground, aerial = memory._held[0]
        away = Placed(vectors=vectors[1:2], world=aerial.world, xy_m=aerial.xy_m)
        turned.add(Placed(vectors=vectors[1:2], world=ground.world, xy_m=ground.xy_m), away)
        assert (position_aware_nce(asked, own, scale, config, memory=turned) < math.log(2)) == falls


def test_memory_forgets_the_oldest_step_and_survives_a_round_trip() -> None:
    memory = Memory(2)
    for step in range(3):
        memory.add(placed(torch.full((1, 2), float(step)), step_m=1), placed(torch.zeros(1, 2), step_m=1))
    again = Memory(2)
    again.restore(memory.state())
    ground, _ = again.before(placed(torch.full((1, 2), 9.0), step_m=1), placed(torch.zeros(1, 2), step_m=1))
    assert ground.vectors[:, 0].tolist() == [9.0, 1.0, 2.0]


def _rows_loss(rows: Placed, columns: Placed, scale: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """The formula once more, plainly."""
    distance = (rows.xy_m[:, None] - columns.xy_m[None]).norm(dim=2).float()
    target, weight = soft_targets(
        distance, sigma_m=config.position_sigma_m, label_smoothing=config.label_smoothing
    )
    logits = scale.exp() * rows.vectors @ columns.vectors.T
    return (-(target * logits.log_softmax(dim=1)).sum(dim=1) * weight).sum() / weight.sum()
