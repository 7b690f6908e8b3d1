"""One step: forward, loss, backward, update, average. Knows nothing of loops, files or progress bars.

Each of several processes embeds its own rows of the batch; descriptors meet in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clnet_model.augment import Batch
from clnet_model.checkpoint import load_checkpoint
from clnet_model.collective import ALONE, World
from clnet_model.data import GeoPairs
from clnet_model.errors import BadCheckpoint
from clnet_model.evaluate import Metrics
from clnet_model.losses import (
    MAX_LOG_SCALE,
    OwnRows,
    position_aware_nce,
    remap_agreement,
    sector_nce,
    turned_nce,
)
from clnet_model.model import CLNet, load_pretrained_trunk
from clnet_model.precision import loss_scaler, mixed
from clnet_model.schedule import AveragedWeights, learning_rate
from clnet_model.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """What a progress display and the metrics log get after every step."""

    step: int
    share: float
    spent_s: float
    queries: int
    loss: float
    batch_recall_at_1: float
    learning_rate: float


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Everything that changes during a run."""

    model: CLNet
    both_views: nn.Module
    average: AveragedWeights
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    step: int = 0
    queries: int = 0
    mined: int = 0
    validated: int = 0
    best: Metrics | None = None
    digest: str = ""
    saved_s: float = 0.0

    def held(self) -> dict[str, Any]:
        """What `restore` needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "counters": [self.step, self.queries, self.mined, self.validated],
            "best": asdict(self.best) if self.best else None,
            "digest": self.digest,
        }

    def restore(self, held: Mapping[str, Any]) -> None:
        """Continue where `held()` was taken."""
        self.model.load_state_dict(held["model"])
        self.average.weights = held["average"]
        self.optimizer.load_state_dict(held["optimizer"])
        self.scaler.load_state_dict(held["scaler"])
        self.step, self.queries, self.mined, self.validated = held["counters"]
        self.best = Metrics(**held["best"]) if held["best"] else None
        self.digest = held["digest"]


class BothViews(nn.Module):
    """One forward pass over a batch's own images: ground and aerial descriptors, features and what the
    ground saw. Its gradients are what processes add up."""

    def __init__(self, model: CLNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, canvases: Tensor, patches: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        ground, aerial = self.model.view_ground(canvases), self.model.view_aerial(patches)
        return ground.descriptor, aerial.descriptor, ground.features, aerial.features, ground.observed


def train_step(
    state: TrainState,
    batch: Batch,
    config: TrainConfig,
    *,
    share: float,
    spent_s: float,
    world: World = ALONE,
) -> Tick:
    """Forward, loss, backward, update, average. No dependence on where the batch came from."""
    with mixed(config.precision, world.device):
        views = state.both_views(batch.canvases, batch.patches)
    loss, ground, aerial = batch_loss(views, batch, state.model.log_scale, config, world)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss * world.size).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    with torch.no_grad():
        state.model.log_scale.clamp_(max=MAX_LOG_SCALE)
    state.average.update(state.model.parameters(), state.step)
    state.step += 1
    state.queries += len(batch.true_patch)
    found = (ground.detach() @ aerial.detach().T).argmax(dim=1)
    return Tick(
        step=state.step,
        share=share,
        spent_s=spent_s,
        queries=state.queries,
        loss=world.total(float(loss.detach())),
        batch_recall_at_1=float((found == batch.true_patch).float().mean()),
        learning_rate=state.optimizer.param_groups[0]["lr"],
    )


def batch_loss(
    views: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    batch: Batch,
    log_scale: Tensor,
    config: TrainConfig,
    world: World = ALONE,
) -> tuple[Tensor, Tensor, Tensor]:
    """This process's share of the loss, and the descriptors of the whole batch: (), (Q, D), (P, D)."""
    queries, patches = batch.distance_m.shape
    own = OwnRows(queries=world.own(queries), patches=world.own(patches))
    ground, aerial, ground_features, aerial_features, observed = views
    ground, aerial = world.gathered(ground, queries), world.gathered(aerial, patches)
    loss = position_aware_nce(ground, aerial, batch.distance_m, log_scale, config.loss, own=own)
    if config.model.use_ncm:
        for weight, turned in (
            (config.loss.turned_weight, turned_nce),
            (config.loss.sector_weight, sector_nce),
        ):
            loss = loss + weight * turned(
                ground,
                aerial,
                batch.distance_m,
                log_scale,
                config.loss,
                azimuths=config.model.latent_azimuths,
                own=own,
            )
    if config.model.use_nec and config.loss.remap_weight > 0 and config.model.use_ncm:
        features = world.gathered(aerial_features, patches)
        true_patch = batch.true_patch[own.queries]
        agreement = remap_agreement(ground_features, features, observed, true_patch)
        loss = loss + config.loss.remap_weight * agreement
    return loss, ground, aerial


def start(config: TrainConfig, world: World = ALONE, pairs: Sequence[GeoPairs] = ()) -> TrainState:
    """A fresh network, its average and its optimiser, reproducible from the seed; a pretrained trunk may want
    to see what it will be trained on."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = CLNet(config.model)
    if config.pretrained is not None:
        load_pretrained_trunk(model, config.pretrained, pairs)
    if config.start_from is not None:
        _start_from(model, Path(config.start_from))
    if config.recompute:
        model.recompute_activations()
    return state_of(model, config, world)


def state_of(model: CLNet, config: TrainConfig, world: World = ALONE) -> TrainState:
    """Its average and its optimiser, before the first step."""
    model = model.train().to(world.device)
    both: nn.Module = BothViews(model)
    if world.size > 1:
        both = DistributedDataParallel(both)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.peak_learning_rate,
        betas=(0.9, 0.98),
    )
    return TrainState(
        model=model,
        both_views=both,
        average=AveragedWeights(model, decay=config.ema_decay),
        optimizer=optimizer,
        scaler=loss_scaler(config.precision, world.device),
    )


def _start_from(model: CLNet, folder: Path) -> None:
    """Begin with the weights of a checkpoint of the same shape; the stride of its gallery may differ.

    Raises:
        BadCheckpoint: unreadable, or of another shape.
    """
    earlier = load_checkpoint(folder).model
    if replace(earlier.config, zoom=model.config.zoom) != model.config:
        raise BadCheckpoint(f"{folder} has other network settings than this run; leave out --start-from")
    model.load_state_dict(earlier.state_dict())


def forget_statistics(model: nn.Module) -> None:
    """From here on running statistics are the plain mean over the batches that are shown in training mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None


def set_learning_rate(state: TrainState, share: float, config: TrainConfig) -> None:
    rate = learning_rate(share, peak=config.peak_learning_rate, warmup_share=config.warmup_share)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
