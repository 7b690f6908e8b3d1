"""Why a street image and a patch are held to be one place: the correspondence field and the evidence by
direction, on the patch's own plan.

Knows one pair and one network; does not draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clnet_model.encoder import TorchEncoder
from clnet_model.errors import BadConfig
from clnet_model.precision import mixed
from clnet_model.preprocess import Pixels

Heat = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A pair seen through the network.

    `score` is the pair's similarity; `evidence` (A,) adds up to it, direction by direction, the first one
    just east of south, clockwise, like the columns of a canvas. `attention` (C, S, S) tells for each of C
    street columns which places of the north-up patch share its latent cells; each map's greatest value is 1,
    or 0 where the street image shows nothing.
    """

    score: float
    evidence: Heat
    attention: Heat


def explain(encoder: TorchEncoder, canvas: Pixels, patch: Pixels) -> Explanation:
    """The explanation of a canvas (H, W, 4) and a north-up patch (S, S, 3).

    Raises:
        BadConfig: the network was trained without NCM, which is what aligns the views.
    """
    model, config = encoder.model, encoder.model.config
    if not config.use_ncm:
        raise BadConfig("this network was trained without NCM and has no correspondence field")
    canvases, patches = (_planes(image).to(encoder.device) for image in (canvas, patch))
    with torch.inference_mode():
        with mixed(encoder.precision, torch.device(encoder.device)):
            ground, aerial = model.view_ground(canvases), model.view_aerial(patches)
            shared = model.correspondence(canvases, patches)[0].float()  # (ground tokens, aerial tokens)
        products = (ground.descriptor * aerial.descriptor)[0]
        stride = config.backbone.fine_stride_px
        columns = config.canvas.width_px // stride
        by_column = shared.reshape(-1, columns, shared.shape[1]).sum(dim=0)  # (C, aerial tokens)
        heat = _on_plan(by_column, polar=config.polar, columns=columns, size_px=config.patch_px)
    return Explanation(
        score=float(products.sum()),
        evidence=products.reshape(config.latent_azimuths, -1).sum(dim=1).cpu().numpy(),
        attention=(heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).cpu().numpy(),
    )


def _planes(image: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def _on_plan(tokens: Tensor, *, polar: bool, columns: int, size_px: int) -> Tensor:
    """Maps over aerial tokens (C, N) as north-up images (C, size_px, size_px)."""
    if not polar:
        side = math.isqrt(tokens.shape[1])
        plan = tokens.reshape(-1, 1, side, side)
        return functional.interpolate(plan, (size_px, size_px), mode="bilinear")[:, 0]
    unrolled = tokens.reshape(len(tokens), -1, columns)  # (C, rows, azimuths)
    wrapped = functional.pad(unrolled[:, None], (1, 1, 0, 0), mode="circular")
    grid = _unrolled_grid(size_px, columns).to(tokens.device)
    outside = (grid[..., 1] < -1.0).to(tokens.device)  # corners lie beyond the last ring
    found = functional.grid_sample(
        wrapped, grid[None].expand(len(tokens), -1, -1, -1), align_corners=False, padding_mode="border"
    )
    return found[:, 0].masked_fill(outside, 0.0)


def _unrolled_grid(size_px: int, columns: int) -> Tensor:
    """Where each pixel of a plan lies in the unrolled, wrapped token map: (size_px, size_px, 2)."""
    offset = (torch.arange(size_px) + 0.5) * 2 / size_px - 1
    east, north = offset[None], -offset[:, None]
    azimuth = torch.atan2(east.expand(size_px, -1), north.expand(-1, size_px))  # 0 = north, clockwise
    share = torch.hypot(east, north)
    across = azimuth / math.pi * columns / (columns + 2)  # one column was added on each side
    return torch.stack([across, 1 - 2 * share], dim=-1)
