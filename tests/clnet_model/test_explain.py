"""What an explanation shows must be what the network computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from clnet_model.encoder import TorchEncoder
from clnet_model.errors import BadConfig
from clnet_model.explain import explain
from clnet_model.model import CLNet, CLNetConfig
from clnet_model.preprocess import Pixels

Pair = tuple[Pixels, Pixels]


def encoder_of(config: CLNetConfig) -> TorchEncoder:
    torch.manual_seed(0)
    return TorchEncoder(CLNet(config), digest="test")


@pytest.fixture
def pair(tiny: Callable[..., CLNetConfig]) -> Pair:
    config, rng = tiny(), np.random.default_rng(1)
    canvas = rng.integers(0, 255, (config.canvas.height_px, config.canvas.width_px, 4), np.uint8)
    canvas[..., 3] = 255
    return canvas, rng.integers(0, 255, (config.patch_px, config.patch_px, 3), np.uint8)


@pytest.mark.parametrize("polar", [True, False])
def test_evidence_adds_up_to_the_similarity(
    tiny: Callable[..., CLNetConfig], pair: Pair, *, polar: bool
) -> None:
    encoder = encoder_of(tiny(polar=polar))
    found = explain(encoder, *pair)
    similarity = encoder.embed_ground(pair[0][None])[0] @ encoder.embed_aerial(pair[1][None])[0]
    assert found.score == pytest.approx(float(similarity), abs=1e-5)
    assert float(found.evidence.sum()) == pytest.approx(found.score, abs=1e-5)
    assert found.evidence.shape == (encoder.model.config.latent_azimuths,)


@pytest.mark.parametrize("polar", [True, False])
def test_every_direction_attends_to_its_own_side_of_the_patch(
    tiny: Callable[..., CLNetConfig], pair: Pair, *, polar: bool
) -> None:
    found = explain(encoder_of(tiny(polar=polar)), *pair)
    columns, size, _ = found.attention.shape
    north_first = np.roll(found.attention, -columns // 2, axis=0)
    middle = (np.arange(size) + 0.5) * 2 / size - 1
    for quarter, (east, north) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)]):
        heat = north_first[round(quarter * columns / 4)]
        centre = np.array([(heat * middle[None]).sum(), -(heat * middle[:, None]).sum()]) / heat.sum()
        assert centre @ np.array([east, north]) > 0.2


def test_a_direction_that_was_not_seen_attends_to_nothing(
    tiny: Callable[..., CLNetConfig], pair: Pair
) -> None:
    canvas = pair[0].copy()
    canvas[:, :64] = 0  # the western half
    found = explain(encoder_of(tiny()), canvas, pair[1])
    columns = len(found.attention)
    assert found.attention[: columns // 2 - 1].max() == 0
    assert found.attention[columns // 2 :].max() == 1
    assert abs(found.evidence[2:6]).max() == 0


def test_without_ncm_there_is_nothing_to_show(tiny: Callable[..., CLNetConfig], pair: Pair) -> None:
    with pytest.raises(BadConfig, match="NCM"):
        explain(encoder_of(tiny().without("ncm")), *pair)
