"""A network taken to other imagery by its statistics alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clnet_model.adapt import FEWEST, adapted, in_part
from clnet_model.encoder import load_encoder
from clnet_model.errors import BadConfig, BadPairs
from clnet_model.model import BackboneConfig, CLNet, CLNetConfig
from clnet_model.trunk import Side


@pytest.fixture(scope="module")
def model() -> CLNet:
    return load_encoder().model


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Blotches in the colours of no simulated city."""
    dice = np.random.default_rng(0)

    def blotches(count: int, height: int, width: int) -> np.ndarray:
        small = dice.integers(0, 256, (count, height // 8, width // 8, 3), np.uint8)
        return small.repeat(8, axis=1).repeat(8, axis=2)

    street = blotches(48, 64, 256)
    return np.concatenate([street, np.full_like(street[..., :1], 255)], axis=-1), blotches(64, 128, 128)


def test_features_of_the_new_imagery_are_centred(model, images):
    canvases, patches = images[0].copy(), images[1]
    canvases[:, :, 100:] = 0  # photos, which are shown as they are
    new = adapted(model, canvases, patches)

    def off_centre(network: CLNet, side: Side) -> float:
        """How far the mean of the last normalised features is from 0, in spreads."""
        norm = network.neck.sides[side.value]
        seen: list[torch.Tensor] = []
        hook = norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        with torch.inference_mode():
            if side is Side.GROUND:
                network.view_ground(torch.from_numpy(canvases).permute(0, 3, 1, 2))
            else:
                network.view_aerial(torch.from_numpy(patches).permute(0, 3, 1, 2))
        hook.remove()
        scaled = (torch.cat(seen) - norm.running_mean) / norm.running_var.sqrt()
        return float(scaled.mean(dim=0).abs().mean())

    for side in Side:
        assert off_centre(new, side) < 0.1 < off_centre(model, side)


def test_what_was_learned_stays_and_the_former_network_too(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    new = adapted(model, *images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in new.named_parameters())
    assert not torch.equal(new.neck.sides[0].running_mean, before["neck.sides.0.running_mean"])
    assert not new.training


def test_an_embedding_still_depends_on_its_own_image_alone(model, images):
    new, patches = adapted(model, *images), torch.from_numpy(images[1]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        together, alone = new.embed_aerial(patches[:8])[0], new.embed_aerial(patches[:1])[0]
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_same_images_give_the_same_network(model, images):
    first, second = (adapted(model, *images).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_panoramas_are_shown_in_part_and_photos_as_they_are(images):
    panoramas, photos = images[0], images[0].copy()
    photos[:, :, 100:] = 0
    shown = in_part(panoramas, np.random.default_rng(0))
    whole = (shown[..., 3] > 0).all(axis=(1, 2))
    assert 0.2 < whole.mean() < 0.6
    assert (shown[~whole][..., 3] > 0).mean() < 0.25
    np.testing.assert_array_equal(in_part(photos, np.random.default_rng(0)), photos)


@pytest.mark.parametrize(("street", "aerial", "what"), [(3, 64, "3 street images"), (48, 31, "31 patches")])
def test_too_few_images_are_refused(model, images, street, aerial, what):
    with pytest.raises(BadPairs, match=f"{what} are too few.*at least {FEWEST}"):
        adapted(model, images[0][:street], images[1][:aerial])


def test_a_trunk_without_statistics_is_refused(images):
    backbone = BackboneConfig(model_type="convnext", hidden_sizes=(8, 16), depths=(1, 1))
    with pytest.raises(BadConfig, match="convnext trunk keeps no statistics"):
        adapted(CLNet(CLNetConfig(backbone=backbone)), *images)
