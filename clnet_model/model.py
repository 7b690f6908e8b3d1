"""CLNet: one shared trunk, three switchable modules, one descriptor per view.

A reconstruction: the public text (arXiv 2512.14560) gives the purpose of NCM, NEC and GFR, not their
equations.
With all three switched off this is the plain siamese baseline with average pooling (Sample4Geo, arXiv
2303.11851).
Once trained, a descriptor never depends on batch mates or on the other view: normalisation is per token, per
image, or by the constants that a view's training left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoBackbone, AutoConfig, ConvNextConfig, ConvNextV2Config

from clnet_model.data import GeoPairs, some_of
from clnet_model.errors import BadConfig
from clnet_model.lite import LiteTrunk, photograph_weights
from clnet_model.modules import (
    Alignment,
    CorrespondenceField,
    FeatureRemap,
    GuidedRecalibration,
    aerial_geometry,
    ground_geometry,
    polar_geometry,
)
from clnet_model.preprocess import CanvasSpec
from clnet_model.trunk import ResidualTrunk, Side, ViewNorm

PHOTOGRAPHS = "efficientnet-lite0"
SLIMMED_FOR = 96  # images of each view
SWITCHES = {"ncm": "use_ncm", "nec": "use_nec", "gfr": "use_gfr", "polar": "polar"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The trunk; tokens come from its last two stages. `residual` is our own small one, `lite0` keeps what
    EfficientNet-Lite0 has learned from photographs below a last stage that learns, `convnext` and
    `convnextv2` are the library's, for large machines and pretrained weights."""

    model_type: str = "residual"
    hidden_sizes: tuple[int, ...] = (40, 96, 192)
    depths: tuple[int, ...] = (1, 2, 2)
    stem_px: int = 4

    @property
    def fine_stride_px(self) -> int:
        return self.stem_px << (len(self.depths) - 2)

    @property
    def coarse_stride_px(self) -> int:
        return 2 * self.fine_stride_px


@dataclass(frozen=True, kw_only=True, slots=True)
class CLNetConfig:
    """Everything that defines the network and the images it expects."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    canvas: CanvasSpec = field(default_factory=CanvasSpec)
    patch_px: int = 128
    side_m: float = 70.0
    zoom: int = 22
    camera_height_m: float = 2.5
    token_dim: int = 96
    latent_azimuths: int = 32
    latent_ranges: int = 4
    azimuth_channels: int = 12
    start_sigma_cells: float = 0.36  # how far NCM's cells look around before they learn, in azimuth cells
    polar: bool = True  # unroll patches around their centre before the trunk; False: the trunk sees a plan
    use_ncm: bool = True
    use_nec: bool = True
    use_gfr: bool = True

    def __post_init__(self) -> None:
        stride = self.backbone.coarse_stride_px
        sizes = {
            "canvas.height_px": self.canvas.height_px,
            "canvas.width_px": self.canvas.width_px,
            "patch_px": self.patch_px,
        }
        for name, size_px in sizes.items():
            if size_px % stride:
                raise BadConfig(
                    f"{name} is {size_px}: it must be a multiple of the trunk's stride, {stride} px"
                )
        if not 0.1 <= self.start_sigma_cells <= 4:
            raise BadConfig(f"start_sigma_cells is {self.start_sigma_cells}: 0.1 to 4 cells are allowed")
        if not 8 <= self.dim <= 512:
            raise BadConfig(f"the descriptor has {self.dim} dimensions: 8 to 512 are allowed")

    @property
    def dim(self) -> int:
        return self.latent_azimuths * self.azimuth_channels

    @property
    def turns(self) -> int:
        """Parts of the circle by which a canvas can be turned so that its descriptor turns with it: whole
        tokens of the coarse stage and whole azimuths of the latent grid. 1 without NCM, which has no
        azimuths."""
        if not self.use_ncm:
            return 1
        return math.gcd(self.canvas.width_px // self.backbone.coarse_stride_px, self.latent_azimuths)

    def without(self, *modules: str) -> CLNetConfig:
        """The same network with some of `ncm`, `nec`, `gfr`, `polar` switched off."""
        unknown = set(modules) - set(SWITCHES)
        if unknown:
            raise BadConfig(f"unknown module {', '.join(sorted(unknown))}: choose from {', '.join(SWITCHES)}")
        return replace(self, **{SWITCHES[name]: False for name in modules})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One embedded view: descriptors (B, D), the features before the head (B, L, C), the alignment if
    NCM is on."""

    descriptor: Tensor
    features: Tensor
    observed: Tensor  # (B, L)
    alignment: Alignment | None


class Trunk(nn.Module):
    """Shared by both views: images (B, 4, H, W) to a token grid (B, C, H / stride, W / stride)."""

    def __init__(self, config: BackboneConfig, token_dim: int) -> None:
        super().__init__()
        self.config = config
        fine_dim, coarse_dim = config.hidden_sizes[-2:]
        self.backbone = _backbone(config)
        self.fine = nn.Linear(fine_dim, token_dim)
        self.coarse = nn.Linear(coarse_dim, token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, images: Tensor, side: Side, *, around: bool) -> Tensor:
        """Tokens (B, rows, columns, C) at the fine stride; `around`: columns go once around the camera."""
        if isinstance(self.backbone, ResidualTrunk | LiteTrunk):
            fine, coarse = self.backbone(images, side, around=around)
        elif around:
            fine, coarse = self._wrapped(images)
        else:
            fine, coarse = self.backbone(images).feature_maps
        coarse = self.coarse(coarse.permute(0, 2, 3, 1))
        coarse = coarse.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        tokens: Tensor = self.norm(self.fine(fine.permute(0, 2, 3, 1)) + coarse)
        return tokens

    def _wrapped(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The library's backbones have edges: let them see a coarse token beyond, and cut it off again."""
        wrap = self.config.coarse_stride_px
        images = functional.pad(images, (wrap, wrap, 0, 0), mode="circular")
        fine, coarse = self.backbone(images).feature_maps
        edge = wrap // self.config.fine_stride_px
        return fine[..., edge:-edge], coarse[..., 1:-1]


class ViewHead(nn.Module):
    """One view's own modules: tokens and their mask to a descriptor."""

    def __init__(self, config: CLNetConfig, field_: CorrespondenceField | None) -> None:
        super().__init__()
        self.config = config
        self.ncm = field_
        self.nec = FeatureRemap(config.token_dim) if config.use_nec else None
        self.gfr = GuidedRecalibration(config.token_dim) if config.use_gfr else None

    def forward(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Alignment | None]:
        """Features (B, L, C), observed share of each (B, L), and the alignment."""
        if self.ncm is not None:
            alignment = self.ncm(tokens, mask)
            features, observed = alignment.values.flatten(1, 2), alignment.observed.flatten(1)
        else:
            alignment = None
            features, observed = tokens, tokens.new_ones(tokens.shape[:2]) if mask is None else mask
        if self.nec is not None:
            features = self.nec(features)
        if self.gfr is not None:
            features = self.gfr(features, observed)
        return features, observed, alignment


class CLNet(nn.Module):
    """Embeds street canvases and aerial patches into one space."""

    def __init__(self, config: CLNetConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.backbone, config.token_dim)
        self.ground = ViewHead(config, self._ground_field())
        self.aerial = ViewHead(config, self._aerial_field())
        columns = config.latent_ranges if config.use_ncm else 1
        self.project = nn.Sequential(
            nn.LayerNorm(config.token_dim * columns),
            nn.Linear(config.token_dim * columns, config.azimuth_channels if config.use_ncm else config.dim),
        )
        if config.polar:
            grid = polar_grid(config.canvas.height_px, config.canvas.width_px)
            self.polar_grid: Tensor
            self.register_buffer("polar_grid", grid, persistent=False)
        self.neck = ViewNorm(config.azimuth_channels if config.use_ncm else config.dim, flat=True)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # of the loss; kept for resuming

    def recompute_activations(self) -> None:
        """Trade time for memory in training: activations are computed again in the backward pass."""
        backbone = self.trunk.backbone
        if isinstance(backbone, ResidualTrunk | LiteTrunk):
            backbone.recompute = True
        else:
            backbone.gradient_checkpointing_enable()  # type: ignore[operator]

    def embed_ground(self, canvases: Tensor) -> Tensor:
        """Descriptors (B, D) of uint8 or float canvases (B, 4, H, W) in 0..255."""
        return self.view_ground(canvases).descriptor

    def embed_aerial(self, patches: Tensor) -> Tensor:
        """Descriptors (B, D) of uint8 or float patches (B, 3, S, S) in 0..255."""
        return self.view_aerial(patches).descriptor

    def view_ground(self, canvases: Tensor) -> View:
        """Everything about street canvases (B, 4, H, W)."""
        seen = self.seen_from_ground(canvases)
        mask = functional.avg_pool2d(seen[:, 3:], self.config.backbone.fine_stride_px).flatten(1)  # (B, N)
        return self._finish(Side.GROUND, *self.ground(self._tokens(seen, Side.GROUND), mask))

    def view_aerial(self, patches: Tensor) -> View:
        """Everything about aerial patches (B, 3, S, S)."""
        tokens = self._tokens(self.seen_from_above(patches), Side.AERIAL, around=self.config.polar)
        return self._finish(Side.AERIAL, *self.aerial(tokens, None))

    def seen_from_ground(self, canvases: Tensor) -> Tensor:
        """Street canvases (B, 4, H, W) as the trunk takes them."""
        return standardise(canvases[:, :3].float(), canvases[:, 3:].float() / 255.0)

    def seen_from_above(self, patches: Tensor) -> Tensor:
        """Aerial patches (B, 3, S, S) as the trunk takes them: (B, 4, H, W), unrolled where it is `polar`."""
        rgb = patches.float()
        if self.config.polar:
            grid = self.polar_grid.to(rgb.dtype).expand(len(rgb), -1, -1, -1)
            rgb = functional.grid_sample(rgb, grid, align_corners=False, padding_mode="border")
        return standardise(rgb, torch.ones_like(rgb[:, :1]))

    def _tokens(self, images: Tensor, side: Side, *, around: bool = True) -> Tensor:
        """Tokens (B, N, C) of images (B, 4, H, W)."""
        tokens: Tensor = self.trunk(images, side, around=around).flatten(1, 2)
        return tokens

    def correspondence(self, canvases: Tensor, patches: Tensor) -> Tensor:
        """How much ground token i and aerial token j of each pair share latent cells: (B, N_ground,
        N_aerial).

        Raises:
            BadConfig: the network was built without NCM.
        """
        ground, aerial = self.view_ground(canvases).alignment, self.view_aerial(patches).alignment
        if ground is None or aerial is None:
            raise BadConfig("this network was trained without NCM and has no correspondence field")
        observed = ground.attention * ground.observed[..., None]
        return torch.einsum("barn,barm->bnm", observed, aerial.attention)

    def _finish(self, side: Side, features: Tensor, observed: Tensor, alignment: Alignment | None) -> View:
        if alignment is None:
            weights = observed / observed.sum(dim=1, keepdim=True).clamp(min=1e-6)
            flat = self.project(torch.einsum("bl,blc->bc", weights.to(features.dtype), features))
            flat = self.neck(flat, side)
        else:
            batch, azimuths, ranges = alignment.observed.shape
            columns = self.project(features.reshape(batch * azimuths, ranges * features.shape[-1]))
            columns = self.neck(columns, side).unflatten(0, (batch, azimuths))  # (B, A, c)
            seen = ((alignment.observed.mean(dim=2) - 0.15) / 0.35).clamp(
                0, 1
            )  # unseen directions say nothing
            flat = (columns.float() * seen[..., None]).flatten(1)
        return View(
            descriptor=functional.normalize(flat.float(), dim=-1),
            features=features,
            observed=observed,
            alignment=alignment,
        )

    def _ground_field(self) -> CorrespondenceField | None:
        c, stride = self.config, self.config.backbone.fine_stride_px
        geometry = ground_geometry(
            c.canvas.height_px // stride,
            c.canvas.width_px // stride,
            elevation_deg=(c.canvas.elevation_min_deg, c.canvas.elevation_max_deg),
            camera_height_m=c.camera_height_m,
            half_side_m=c.side_m / 2,
        )
        return self._field(geometry) if c.use_ncm else None

    def _aerial_field(self) -> CorrespondenceField | None:
        c, stride = self.config, self.config.backbone.fine_stride_px
        if c.polar:
            geometry = polar_geometry(c.canvas.height_px // stride, c.canvas.width_px // stride)
        else:
            geometry = aerial_geometry(c.patch_px // stride, c.patch_px // stride)
        return self._field(geometry) if c.use_ncm else None

    def _field(self, geometry: Any) -> CorrespondenceField:
        c = self.config
        return CorrespondenceField(
            geometry,
            dim=c.token_dim,
            azimuths=c.latent_azimuths,
            ranges=c.latent_ranges,
            azimuth_sigma_deg=c.start_sigma_cells * 360 / c.latent_azimuths,
        )


def standardise(rgb: Tensor, mask: Tensor) -> Tensor:
    """Zero mean per channel and unit spread per image over what was seen, mask appended: (B, 4, H, W).

    Per image, so exposure and white balance of the two views need not agree.
    """
    count = mask.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
    mean = (rgb * mask).sum(dim=(2, 3), keepdim=True) / count
    centred = (rgb - mean) * mask
    spread = (centred.square().sum(dim=(1, 2, 3), keepdim=True) / (3 * count)).sqrt()
    return torch.cat([centred / (spread + 8.0), mask], dim=1)


def polar_grid(rows: int, columns: int) -> Tensor:
    """Where a patch is sampled (1, rows, columns, 2), as `grid_sample` wants it, to see it from its centre.

    Columns are azimuths like a canvas's, so the centre column is north; rows go from the patch's edge (top)
    to its centre in equal steps. (The polar transform of SAFA, Shi et al., NeurIPS 2019.)
    """
    azimuth = (torch.arange(columns) + 0.5) * 2 * math.pi / columns - math.pi
    share = 1 - (torch.arange(rows) + 0.5) / rows
    east = share[:, None] * azimuth.sin()
    south = -share[:, None] * azimuth.cos()
    return torch.stack([east, south], dim=-1)[None]


def _backbone(config: BackboneConfig) -> nn.Module:
    if config.model_type == "residual":
        return ResidualTrunk(channels=4, widths=config.hidden_sizes, depths=config.depths)
    if config.model_type == "lite0":
        return LiteTrunk(width=config.hidden_sizes[-1], depth=config.depths[-1])
    library = AutoBackbone.from_config(_hf_config(config))  # type: ignore[no-untyped-call]
    _initialise(library)
    return library  # type: ignore[no-any-return]


def _hf_config(config: BackboneConfig) -> Any:
    shared: dict[str, Any] = {
        "num_channels": 4,
        "patch_size": config.stem_px,
        "num_stages": len(config.depths),
        "hidden_sizes": list(config.hidden_sizes),
        "depths": list(config.depths),
        "layer_scale_init_value": 0.3,
        "out_features": [f"stage{len(config.depths) - 1}", f"stage{len(config.depths)}"],
    }
    match config.model_type:
        case "convnext":
            return ConvNextConfig(**shared)
        case "convnextv2":
            return ConvNextV2Config(**shared)
        case _:
            raise BadConfig(
                f"backbone type {config.model_type!r} is not known: use residual, lite0, convnext or "
                "convnextv2"
            )


def _initialise(trunk: nn.Module) -> None:
    """Unit-gain weights instead of ConvNeXt's 0.02, which is made for long schedules on millions of
    images."""
    for module in trunk.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def pretrained_backbone(name: str) -> BackboneConfig:
    """The trunk's shape: `efficientnet-lite0`, whose weights the package registry has, or the name of a
    ConvNeXt or ConvNeXtV2 on the Hugging Face hub (needs the internet or its cache)."""
    if name == PHOTOGRAPHS:
        return BackboneConfig(model_type="lite0", hidden_sizes=(112, 192), depths=(11, 2), stem_px=8)
    found = AutoConfig.from_pretrained(name)
    return BackboneConfig(
        model_type=found.model_type,
        hidden_sizes=tuple(found.hidden_sizes),
        depths=tuple(found.depths),
        stem_px=found.patch_size,
    )


def load_pretrained_trunk(model: CLNet, name: str, pairs: Sequence[GeoPairs]) -> None:
    """Copy pretrained weights into the trunk; a hub stem's fourth channel (the mask) starts at zero, and
    EfficientNet-Lite0 is slimmed for images like those of these cities.

    Raises:
        BadConfig: the package with EfficientNet-Lite0's weights is not installed, or no city is given.
    """
    if isinstance(model.trunk.backbone, LiteTrunk):
        weights = photograph_weights()
        if not pairs:
            raise BadConfig(f"{name} is slimmed for the images it will see: give cities to train on")
        canvases, patches = (
            torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            for images in some_of(pairs, SLIMMED_FOR)
        )
        seen = (model.seen_from_ground(canvases), model.seen_from_above(patches))
        model.trunk.backbone.load_photographs(weights, seen)
        return
    weights = AutoBackbone.from_pretrained(name).state_dict()  # type: ignore[no-untyped-call]
    own = model.trunk.backbone.state_dict()
    for key, value in weights.items():
        if key not in own:
            continue
        if own[key].shape == value.shape:
            own[key] = value
        elif value.dim() == 4 and own[key].shape[1] == value.shape[1] + 1:
            own[key] = functional.pad(value, (0, 0, 0, 0, 0, 1))
    model.trunk.backbone.load_state_dict(own)
