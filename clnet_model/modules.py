"""The three modules of CLNet, each embedding one view alone.

NCM aligns a view's tokens to a latent azimuth × range grid that both views share; the correspondence
between a ground
token and an aerial token is the mass that they put on the same latent cells. NEC remaps a view's
features by an MLP.
GFR reweights channels by a context that a learned spatial map selects. This is a reconstruction from
the public
description (arXiv 2512.14560): the equations and the code of the paper are not public here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e4  # finite: a canvas without any observed token must not become NaN


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenGeometry:
    """Where a view's N tokens look, from a camera at the patch centre.

    `range_share` is a distance on the ground as a share of the patch's half side; `range_known` is 0
    for tokens that
    can be at any distance (everything above the horizon).
    """

    azimuth_rad: Tensor  # (N,)
    range_share: Tensor  # (N,)
    range_known: Tensor  # (N,)


def ground_geometry(
    rows: int, columns: int, *, elevation_deg: tuple[float, float], camera_height_m: float, half_side_m: float
) -> TokenGeometry:
    """Tokens of a canvas: azimuth from the column, ground distance from the row below the horizon."""
    low, high = elevation_deg
    azimuth = (torch.arange(columns) + 0.5) * 2 * math.pi / columns - math.pi
    elevation = torch.deg2rad(high - (torch.arange(rows) + 0.5) * (high - low) / rows)
    below = elevation < -math.radians(1.0)
    distance_m = camera_height_m / torch.tan(elevation.neg().clamp(min=math.radians(1.0)))
    share = (distance_m / half_side_m).clamp(0.05, 1.2)
    return TokenGeometry(
        azimuth_rad=azimuth.repeat(rows),
        range_share=share.repeat_interleave(columns),
        range_known=below.float().repeat_interleave(columns),
    )


def aerial_geometry(rows: int, columns: int) -> TokenGeometry:
    """Tokens of a north-up patch in polar coordinates around its centre."""
    east = ((torch.arange(columns) + 0.5) * 2 / columns - 1).repeat(rows)
    north = (1 - (torch.arange(rows) + 0.5) * 2 / rows).repeat_interleave(columns)
    return TokenGeometry(
        azimuth_rad=torch.atan2(east, north),
        range_share=torch.hypot(east, north),
        range_known=torch.ones(rows * columns),
    )


def polar_geometry(rows: int, columns: int) -> TokenGeometry:
    """A patch unrolled around its centre: azimuth from the column, range from the row, the edge on top."""
    azimuth = (torch.arange(columns) + 0.5) * 2 * math.pi / columns - math.pi
    share = 1 - (torch.arange(rows) + 0.5) / rows
    return TokenGeometry(
        azimuth_rad=azimuth.repeat(rows),
        range_share=share.repeat_interleave(columns),
        range_known=torch.ones(rows * columns),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """A view on the latent grid: values (B, A, R, C), attention (B, A, R, N), observed share of each
    cell (B, A, R)."""

    values: Tensor
    attention: Tensor
    observed: Tensor


class CorrespondenceField(nn.Module):
    """NCM for one view: attention of A × R latent cells over the view's tokens.

    logits = content(range cell, token) + wrapped Gaussian in azimuth + Gaussian in log range + learned
    residual of the
    token's position relative to the cell. It starts as a polar transform. All terms depend on the azimuth
    *difference* alone, so turning the world by one cell turns the latent grid by one cell, and every
    parameter learns
    from every direction.
    """

    def __init__(
        self,
        geometry: TokenGeometry,
        *,
        dim: int,
        azimuths: int,
        ranges: int,
        key_dim: int = 32,
        azimuth_sigma_deg: float,
    ) -> None:
        super().__init__()
        self.azimuths, self.ranges = azimuths, ranges
        self.norm = nn.LayerNorm(dim)
        self.key = nn.Linear(dim, key_dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.query = nn.Parameter(torch.randn(ranges, key_dim) * 0.5)
        self.log_azimuth_sigma = nn.Parameter(
            torch.full((ranges,), math.log(math.radians(azimuth_sigma_deg)))
        )
        self.log_range_sigma = nn.Parameter(torch.full((ranges,), math.log(0.5)))
        self.residual = nn.Sequential(nn.Linear(5 + ranges, 16), nn.Tanh(), nn.Linear(16, 1))
        nn.init.zeros_(self.residual[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.residual[2].bias)  # type: ignore[arg-type]
        self._register_geometry(geometry)

    def _register_geometry(self, geometry: TokenGeometry) -> None:
        """Precompute azimuth differences, log-range differences and the inputs of the residual field."""
        azimuth = (torch.arange(self.azimuths) + 0.5) * 2 * math.pi / self.azimuths - math.pi
        share = torch.logspace(math.log10(0.14), math.log10(0.9), self.ranges)
        turn = geometry.azimuth_rad[None] - azimuth[:, None]
        turn = torch.atan2(turn.sin(), turn.cos())  # (A, N), wrapped
        stretch = (geometry.range_share[None].log() - share.log()[:, None]) * geometry.range_known  # (R, N)
        tokens = geometry.azimuth_rad.numel()
        shape = (self.azimuths, self.ranges, tokens)
        ahead = geometry.range_share * turn.cos()  # (A, N)
        aside = geometry.range_share * turn.sin()
        position = torch.stack(
            [ahead, aside, turn.cos().expand_as(ahead), turn.sin(), geometry.range_known.expand_as(ahead)],
            dim=-1,
        )
        cell = torch.eye(self.ranges)[None, :, None].expand(*shape, self.ranges)
        inputs = torch.cat([position[:, None].expand(*shape, 5), cell], dim=-1)
        self.turn: Tensor
        self.stretch: Tensor
        self.inputs: Tensor
        self.register_buffer("turn", turn, persistent=False)
        self.register_buffer("stretch", stretch, persistent=False)
        self.register_buffer("inputs", inputs.contiguous(), persistent=False)

    def bias(self) -> Tensor:
        """Geometric logits (A, R, N)."""
        azimuth = -0.5 * (self.turn[:, None] / self.log_azimuth_sigma.exp()[None, :, None]) ** 2
        distance = -0.5 * (self.stretch / self.log_range_sigma.exp()[:, None]) ** 2
        residual: Tensor = self.residual(self.inputs).squeeze(-1)
        return azimuth + distance[None] + residual

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Alignment:
        """Align tokens (B, N, C); `mask` (B, N) is the observed share of each token, None when all is
        seen."""
        normed = self.norm(tokens)
        content = torch.einsum("bnk,rk->brn", self.key(normed), self.query) / math.sqrt(self.query.shape[1])
        bias = self.bias()
        logits = content[:, None] + bias  # (B, A, R, N)
        if mask is not None:
            logits = logits.masked_fill((mask < 0.5)[:, None, None], MASKED)
        attention = logits.float().softmax(dim=-1)
        values = torch.einsum("barn,bnc->barc", attention.to(normed.dtype), self.value(normed))
        return Alignment(values=values, attention=attention, observed=self._observed(bias, tokens, mask))

    def _observed(self, bias: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Share of each latent cell's geometric attention that falls on observed tokens (B, A, R)."""
        if mask is None:
            return tokens.new_ones((tokens.shape[0], self.azimuths, self.ranges))
        return torch.einsum("arn,bn->bar", bias.detach().float().softmax(dim=-1), mask.float())


class FeatureRemap(nn.Module):
    """NEC: residual MLP that carries one view's features towards the other view's feature space."""

    def __init__(self, dim: int, *, expansion: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, dim * expansion)
        self.contract = nn.Linear(dim * expansion, dim)
        nn.init.normal_(self.contract.weight, std=0.02)
        nn.init.zeros_(self.contract.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., C) -> (..., C)."""
        remapped: Tensor = self.contract(functional.gelu(self.expand(self.norm(features))))
        return features + remapped


class GuidedRecalibration(nn.Module):
    """GFR: a learned spatial map pools a context; the context decides each channel's weight."""

    def __init__(self, dim: int, *, reduction: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 1)
        self.squeeze = nn.Linear(dim, dim // reduction)
        self.excite = nn.Linear(dim // reduction, dim)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, features: Tensor, observed: Tensor) -> Tensor:
        """Features (B, L, C) reweighted per channel; cells with observed share (B, L) near 0 have no say."""
        normed = self.norm(features)
        gate = self.gate(normed).squeeze(-1).float()
        spatial = gate.masked_fill(observed < 0.05, MASKED).softmax(dim=-1)  # (B, L)
        context = torch.einsum("bl,blc->bc", spatial.to(normed.dtype), normed)
        weights = 2 * torch.sigmoid(self.excite(functional.gelu(self.squeeze(context))))  # 1 at the start
        return features * weights[:, None]
