"""Position-aware symmetric InfoNCE: neighbouring patches overlap, so the target is a posterior over places.

Knows descriptors and metric distances; does not know images. Every loss is a mean over the whole batch; with
`own` it is this process's share of that mean, and the shares of all processes add up to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from clnet_model.collective import summed

MAX_LOG_SCALE = 4.6052  # exp = 100, the usual cap (CLIP)
TURN_SIGMA = 0.6  # azimuth columns: how sharply a turn must be told


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """`position_sigma_m` 0 gives the hard targets of plain InfoNCE (the nearest patch alone). A camera
    farther than `reach_m` from all centres does not count: half a patch's side."""

    position_sigma_m: float = 6.0
    reach_m: float = 35.0  # VIGOR's cameras stand up to 25 m from their patch
    label_smoothing: float = 0.05
    remap_weight: float = 0.1
    turned_weight: float = 1.0
    sector_weight: float = 1.0
    sectors_per_query: int = 2
    sector_share: float = 0.25  # of the circle: what a photo of 90° sees


class OwnRows(NamedTuple):
    """The queries and patches of a batch whose terms of the loss this process computes."""

    queries: slice = slice(None)
    patches: slice = slice(None)


ALL_ROWS = OwnRows()


def soft_targets(distance_m: Tensor, *, sigma_m: float, label_smoothing: float) -> Tensor:
    """Target distribution (Q, P) over the columns.

    target ∝ exp(-d² / 2σ²) of the metric distance (inf across cities); a row's nearest column gets the most,
    however far it is.
    """
    nearest = distance_m.amin(dim=1, keepdim=True)
    if sigma_m <= 0:
        affinity = (distance_m <= nearest).float()
    else:
        reachable = torch.where(torch.isfinite(nearest), nearest, torch.zeros_like(nearest))
        affinity = torch.exp(-(distance_m.square() - reachable.square()) / (2 * sigma_m**2))
    target = affinity / affinity.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return (1 - label_smoothing) * target + label_smoothing / distance_m.shape[1]


def answered(distance_m: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Which queries (Q,) and which patches (P,) have a right answer in the batch: 1, the others 0.

    A query has one where it is within reach of its nearest patch; that patch has one too, and so has every
    patch within 3σ of a query. distance_m (Q, P).
    """
    nearest = distance_m.amin(dim=1, keepdim=True)
    if config.position_sigma_m <= 0:
        return torch.isfinite(nearest[:, 0]).float(), torch.isfinite(distance_m.amin(dim=0)).float()
    near_m = 3 * config.position_sigma_m
    shown = nearest < max(near_m, config.reach_m)  # (Q, 1)
    own = shown & (distance_m <= nearest)
    return shown[:, 0].float(), (own | (distance_m < near_m)).any(dim=0).float()


def position_aware_nce(
    ground: Tensor,
    aerial: Tensor,
    distance_m: Tensor,
    log_scale: Tensor,
    config: LossConfig,
    *,
    own: OwnRows = ALL_ROWS,
) -> Tensor:
    """Mean of both directions' cross-entropies between scaled similarities and the soft targets.

    ground (Q, D), aerial (P, D) L2-normalised; distance_m (Q, P) between camera and patch centre.
    """
    scale = log_scale.clamp(max=MAX_LOG_SCALE).exp()
    query_weight, patch_weight = answered(distance_m, config)
    rows = _cross_entropy(
        scale * ground[own.queries] @ aerial.T, distance_m, query_weight, config, own.queries
    )
    columns = _cross_entropy(
        scale * aerial[own.patches] @ ground.T, distance_m.T, patch_weight, config, own.patches
    )
    return (rows + columns) / 2


def turned_nce(
    ground: Tensor,
    aerial: Tensor,
    distance_m: Tensor,
    log_scale: Tensor,
    config: LossConfig,
    *,
    azimuths: int,
    own: OwnRows = ALL_ROWS,
    counted: Tensor | None = None,
) -> Tensor:
    """Which place and which way was north: the true patch and turn of each street descriptor against all
    patches at all turns. `counted` (Q,) leaves rows out.

    Arguments as in `position_aware_nce`; descriptors are `azimuths` columns, and turning the world by one
    column turns them by one column, so P patches bring P * azimuths - 1 negatives for the price of one
    product. It is what gets training off its first plateau, and what a search with unknown heading asks.
    """
    columns = aerial.reshape(len(aerial), azimuths, -1)
    turns = torch.stack([columns.roll(-k, dims=1) for k in range(azimuths)], dim=1).flatten(2)  # (P, A, D)
    scale = log_scale.clamp(max=MAX_LOG_SCALE).exp()
    logits = scale * torch.einsum("qd,pkd->qpk", ground[own.queries], turns)
    target = soft_targets(distance_m, sigma_m=config.position_sigma_m, label_smoothing=0.0)  # (Q, P)
    weight, _ = answered(distance_m, config)
    weight = weight if counted is None else weight * counted
    column = torch.arange(azimuths, device=ground.device)
    away = torch.minimum(column, azimuths - column).to(logits)
    turn = torch.exp(-0.5 * (away / TURN_SIGMA) ** 2)
    joint = (target[own.queries, :, None] * (turn / turn.sum())).flatten(1)  # (Q, P * A)
    joint = (1 - config.label_smoothing) * joint + config.label_smoothing / joint.shape[1]
    losses = -(joint * logits.flatten(1).log_softmax(dim=1)).sum(dim=1)
    return (losses * weight[own.queries]).sum() / weight.sum().clamp(min=1.0)


def sector_nce(
    ground: Tensor,
    aerial: Tensor,
    distance_m: Tensor,
    log_scale: Tensor,
    config: LossConfig,
    *,
    azimuths: int,
    own: OwnRows = ALL_ROWS,
) -> Tensor:
    """`turned_nce` for parts of the street descriptors, each as if a photo had seen no more than that sector.

    A descriptor is cut, not embedded again: every panorama is several photos for the price of a few products.
    """
    shares = []
    for number in range(config.sectors_per_query):
        cut, whole = sector(ground, number, azimuths=azimuths, config=config)
        shares.append(
            turned_nce(cut, aerial, distance_m, log_scale, config, azimuths=azimuths, own=own, counted=whole)
        )
    return torch.stack(shares).mean()


def sector(ground: Tensor, number: int, *, azimuths: int, config: LossConfig) -> tuple[Tensor, Tensor]:
    """One sector of each street descriptor (Q, D), zero elsewhere and of unit length again, and whether the
    image saw all of it (Q,).

    A query's sectors lie at even distances around the circle and begin elsewhere from row to row.
    """
    columns = ground.reshape(len(ground), azimuths, -1)  # (Q, A, c)
    around = torch.arange(azimuths, device=ground.device)
    start = 7 * torch.arange(len(ground), device=ground.device) + number * (
        azimuths // config.sectors_per_query
    )
    inside = (around - start[:, None]) % azimuths < round(azimuths * config.sector_share)  # (Q, A)
    seen = columns.detach().abs().amax(dim=2) > 0
    cut = functional.normalize((columns * inside[..., None]).flatten(1), dim=-1)
    return cut, (seen | ~inside).all(dim=1)


def remap_agreement(ground: Tensor, aerial: Tensor, observed: Tensor, true_patch: Tensor) -> Tensor:
    """NEC's auxiliary loss: remapped ground features should lie where the true patch's features lie.

    ground (Q, L, C), aerial (P, L, C), observed (Q, L) share of each latent cell, true_patch (Q,)
    column of each row. Several processes each give their own queries.
    """
    cosine = functional.cosine_similarity(ground.float(), aerial[true_patch].float(), dim=-1)  # (Q, L)
    return ((1 - cosine) * observed).sum() / summed(observed.sum()).clamp(min=1.0)


def _cross_entropy(
    logits: Tensor, distance_m: Tensor, weight: Tensor, config: LossConfig, own: slice
) -> Tensor:
    """`logits` of the own rows, `distance_m` and `weight` of all rows."""
    target = soft_targets(distance_m, sigma_m=config.position_sigma_m, label_smoothing=config.label_smoothing)
    losses = -(target[own] * logits.log_softmax(dim=1)).sum(dim=1)
    return (losses * weight[own]).sum() / weight.sum().clamp(min=1.0)
