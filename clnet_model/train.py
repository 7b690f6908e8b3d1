"""Training: `fit` is the loop; `train_step` is one step and knows nothing of loops, files or progress
bars."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clnet_model.augment import AugmentConfig, Augmenter, Batch
from clnet_model.checkpoint import git_commit, load_checkpoint, save_checkpoint, software_versions
from clnet_model.data import GeoPairs, nearest_rows
from clnet_model.encoder import Encoder, TorchEncoder
from clnet_model.errors import BadCheckpoint, BadConfig, BadPairs
from clnet_model.evaluate import NORTH_KNOWN, Metrics, evaluate
from clnet_model.losses import MAX_LOG_SCALE, LossConfig, position_aware_nce, remap_agreement, turned_nce
from clnet_model.model import CLNet, CLNetConfig, load_pretrained_trunk
from clnet_model.sampling import BatchRows, NeighbourhoodSampler, SamplerConfig
from clnet_model.schedule import AveragedWeights, BudgetConfig, Clock, learning_rate

RESUME_FILE = "resume.pt"
Progress = Callable[["Tick"], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run. `precision` auto = bfloat16 where the processor computes it natively, else float32."""

    model: CLNetConfig = field(default_factory=CLNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(max_minutes=10.0))
    peak_learning_rate: float = 8e-4
    weight_decay: float = 0.03
    warmup_share: float = 0.04
    ramp_share: float = 0.3
    clip_norm: float = 2.0
    ema_decay: float = 0.998
    statistics_batches: int = 24
    mine_at: tuple[float, ...] = (0.3, 0.55, 0.8)
    mined_per_query: int = 8
    validate_every_share: float = 0.2
    validation_queries: int = 400
    checkpoint_every_minutes: float = 5.0
    seed: int = 0
    threads: int | None = None
    precision: str = "auto"
    pretrained: str | None = None
    start_from: str | None = None


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainReport:
    """Outcome of a run; `folder` is the checkpoint with the best validation recall (the last one
    without validation)."""

    folder: Path
    digest: str
    steps: int
    queries: int
    spent_s: float
    validation: Metrics | None


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Everything that changes during a run."""

    model: CLNet
    average: AveragedWeights
    optimizer: torch.optim.AdamW
    step: int = 0
    queries: int = 0
    mined: int = 0
    validated: int = 0
    best: Metrics | None = None


def fit(
    pairs: Sequence[GeoPairs],
    config: TrainConfig,
    *,
    out: Path,
    progress: Progress | None = None,
    validation: GeoPairs | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Train on cities until the budget is used up; continue where `out` holds an unfinished run.

    The best checkpoint is chosen on the validation city alone.

    Raises:
        BadPairs: no city, or images of another size than the network takes.
        BadCheckpoint: `out` holds a run that was started with other settings.
    """
    _check_pairs(pairs, config)
    out.mkdir(parents=True, exist_ok=True)
    with torch_threads(config.threads):
        state = start(config)
        sampler = NeighbourhoodSampler(pairs, config.sampler, seed=config.seed)
        clock = Clock(config.budget, spent_s=resume(state, sampler, config, out))
        log = MetricsLog(out / "metrics.jsonl")
        saver = Saver(out, config, provenance or {})
        while (share := clock.share(state.step)) < 1:
            set_learning_rate(state, share, config)
            batch = draw_batch(pairs, sampler, config, state.step, share)
            tick = train_step(state, batch, config, share=share, spent_s=clock.spent_s)
            log.write(asdict(tick))
            if progress is not None:
                progress(tick)
            if mining_due(state, share, config):
                encoder = averaged_encoder(state, pairs, sampler, config)
                mine_hard_patches(state, encoder, pairs, sampler, config)
            if validation_due(state, share, config):
                encoder = averaged_encoder(state, pairs, sampler, config)
                saver.keep_best(state, encoder, validate(state, encoder, validation, config, log))
            saver.keep_resumable(state, sampler, clock)
        encoder = averaged_encoder(state, pairs, sampler, config)
        saver.keep_best(state, encoder, validate(state, encoder, validation, config, log))
        return saver.finish(state, clock)


def train_step(state: TrainState, batch: Batch, config: TrainConfig, *, share: float, spent_s: float) -> Tick:
    """Forward, loss, backward, update, average. No dependence on where the batch came from."""
    with torch.autocast("cpu", torch.bfloat16, enabled=wants_bfloat16(config.precision)):
        ground = state.model.view_ground(batch.canvases)
        aerial = state.model.view_aerial(batch.patches)
    loss = position_aware_nce(
        ground.descriptor, aerial.descriptor, batch.distance_m, state.model.log_scale, config.loss
    )
    if config.model.use_ncm and config.loss.turned_weight > 0:
        turned = turned_nce(
            ground.descriptor,
            aerial.descriptor,
            batch.distance_m,
            state.model.log_scale,
            config.loss,
            azimuths=config.model.latent_azimuths,
        )
        loss = loss + config.loss.turned_weight * turned
    if config.model.use_nec and config.loss.remap_weight > 0 and config.model.use_ncm:
        agreement = remap_agreement(ground.features, aerial.features, ground.observed, batch.true_patch)
        loss = loss + config.loss.remap_weight * agreement
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
    state.optimizer.step()
    with torch.no_grad():
        state.model.log_scale.clamp_(max=MAX_LOG_SCALE)
    state.average.update(state.model.parameters(), state.step)
    state.step += 1
    state.queries += len(batch.canvases)
    found = (ground.descriptor.detach() @ aerial.descriptor.detach().T).argmax(dim=1)
    return Tick(
        step=state.step,
        share=share,
        spent_s=spent_s,
        queries=state.queries,
        loss=float(loss.detach()),
        batch_recall_at_1=float((found == batch.true_patch).float().mean()),
        learning_rate=state.optimizer.param_groups[0]["lr"],
    )


def start(config: TrainConfig) -> TrainState:
    """A fresh network, its average and its optimiser, reproducible from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = CLNet(config.model)
    if config.pretrained is not None:
        load_pretrained_trunk(model, config.pretrained)
    if config.start_from is not None:
        _start_from(model, Path(config.start_from))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.peak_learning_rate,
        betas=(0.9, 0.98),
    )
    return TrainState(
        model=model.train(), average=AveragedWeights(model, decay=config.ema_decay), optimizer=optimizer
    )


def _start_from(model: CLNet, folder: Path) -> None:
    """Begin with the weights of a checkpoint of the same shape.

    Raises:
        BadCheckpoint: unreadable, or of another shape.
    """
    earlier = load_checkpoint(folder).model
    if earlier.config != model.config:
        raise BadCheckpoint(f"{folder} has other network settings than this run; leave out --start-from")
    model.load_state_dict(earlier.state_dict())


def draw_batch(
    pairs: Sequence[GeoPairs], sampler: NeighbourhoodSampler, config: TrainConfig, step: int, share: float
) -> Batch:
    """The next rows, augmented by randomness that depends on seed and step alone; both get harder as it
    goes on."""
    rows = sampler.draw(hardness_at(share, config))
    return augmented(pairs, rows, config, share, seed=config.seed * 1_000_003 + step)


def augmented(
    pairs: Sequence[GeoPairs], rows: BatchRows, config: TrainConfig, share: float, *, seed: int
) -> Batch:
    """These rows, augmented as strongly as this share of the run asks for."""
    strength = 0.3 + 0.7 * hardness_at(share, config)
    return Augmenter(config.augment.scaled(strength), config.model.canvas, seed=seed)(pairs[rows.city], rows)


def hardness_at(share: float, config: TrainConfig) -> float:
    """0 at the start, 1 from `ramp_share` of the run on."""
    return min(1.0, share / config.ramp_share) if config.ramp_share > 0 else 1.0


def set_learning_rate(state: TrainState, share: float, config: TrainConfig) -> None:
    rate = learning_rate(share, peak=config.peak_learning_rate, warmup_share=config.warmup_share)
    for group in state.optimizer.param_groups:
        group["lr"] = rate


def averaged_encoder(
    state: TrainState, pairs: Sequence[GeoPairs], sampler: NeighbourhoodSampler, config: TrainConfig
) -> TorchEncoder:
    """An encoder with the averaged weights, for validation, mining and keeping.

    The running statistics belong to the weights of the last steps; the averaged weights get their own from
    some batches that training is not told of.
    """
    model = copy.deepcopy(state.model)
    state.average.copy_to(model)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=wants_bfloat16(config.precision)):
        for number in range(config.statistics_batches):
            seed = config.seed + 7_000_003 * (number + 1)
            batch = augmented(pairs, sampler.scattered(seed), config, 1.0, seed=seed)
            model.view_ground(batch.canvases)
            model.view_aerial(batch.patches)
    return TorchEncoder(model, digest=f"training-step-{state.step}")


def mining_due(state: TrainState, share: float, config: TrainConfig) -> bool:
    return state.mined < sum(share >= due for due in config.mine_at)


def mine_hard_patches(
    state: TrainState,
    encoder: Encoder,
    pairs: Sequence[GeoPairs],
    sampler: NeighbourhoodSampler,
    config: TrainConfig,
) -> None:
    """For every street image the patches that look most like its true patch but lie elsewhere in the city."""
    for number, city in enumerate(pairs):
        nearest, _ = nearest_rows(city.street_xy_m, city.patch_xy_m, count=1)
        near, inverse = np.unique(nearest[:, 0].astype(np.intp), return_inverse=True)
        vectors = np.concatenate(
            [encoder.embed_aerial(city.centre_patches(near[i : i + 256])) for i in range(0, len(near), 256)]
        )
        alike = vectors @ vectors.T
        offset = city.patch_xy_m[near][:, None] - city.patch_xy_m[near][None]
        alike[np.hypot(offset[..., 0], offset[..., 1]) < 3 * config.loss.position_sigma_m] = -np.inf
        count = min(config.mined_per_query, len(near) - 1)
        hardest = np.argpartition(-alike, count, axis=1)[:, :count]
        sampler.set_hard_patches(number, near[hardest][inverse].astype(np.int32))
    state.mined = state.mined + 1


def validation_due(state: TrainState, share: float, config: TrainConfig) -> bool:
    return share >= config.validate_every_share * (state.validated + 1)


def validate(
    state: TrainState,
    encoder: Encoder,
    validation: GeoPairs | None,
    config: TrainConfig,
    log: MetricsLog,
) -> Metrics | None:
    """Metrics of the averaged weights on a fixed sample of the validation city's panoramas."""
    state.validated += 1
    if validation is None:
        return None
    rows = validation.panoramas()
    rows = rows[np.linspace(0, len(rows) - 1, min(config.validation_queries, len(rows))).astype(int)]
    metrics = evaluate(encoder, validation.subset(rows), NORTH_KNOWN)
    log.write({"step": state.step, "validation": asdict(metrics)})
    return metrics


class MetricsLog:
    """One JSON object per line; readable while the run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, values: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


class Saver:
    """Writes the best checkpoint and the state to resume from."""

    def __init__(self, out: Path, config: TrainConfig, provenance: Mapping[str, Any]) -> None:
        self.out, self.config, self.provenance = out, config, provenance
        self._saved_at = time.monotonic()

    def keep_best(self, state: TrainState, encoder: TorchEncoder, metrics: Metrics | None) -> None:
        better = metrics is None or state.best is None or metrics.recall_at_1 >= state.best.recall_at_1
        if better:
            state.best = metrics
            self._write(state, encoder)

    def keep_resumable(self, state: TrainState, sampler: NeighbourhoodSampler, clock: Clock) -> None:
        if time.monotonic() - self._saved_at < 60 * self.config.checkpoint_every_minutes:
            return
        self._saved_at = time.monotonic()
        write_resumable(state, sampler, self.config, self.out, spent_s=clock.spent_s)

    def finish(self, state: TrainState, clock: Clock) -> TrainReport:
        (self.out / RESUME_FILE).unlink(missing_ok=True)
        return TrainReport(
            folder=self.out,
            digest=self._digest,
            steps=state.step,
            queries=state.queries,
            spent_s=clock.spent_s,
            validation=state.best,
        )

    def _write(self, state: TrainState, encoder: TorchEncoder) -> None:
        about = {
            **self.provenance,
            "config": asdict(self.config),
            "step": state.step,
            "queries": state.queries,
            "validation": asdict(state.best) if state.best else None,
            "git_commit": git_commit(),
            "versions": software_versions(),
        }
        self._digest = save_checkpoint(self.out, encoder.model, provenance=about)


def write_resumable(
    state: TrainState, sampler: NeighbourhoodSampler, config: TrainConfig, out: Path, *, spent_s: float
) -> None:
    """Everything needed to go on as if nothing had happened; replaced atomically."""
    held = {
        "settings": json.dumps(asdict(config), sort_keys=True, default=str),
        "spent_s": spent_s,
        "model": state.model.state_dict(),
        "average": state.average.weights,
        "optimizer": state.optimizer.state_dict(),
        "counters": [state.step, state.queries, state.mined, state.validated],
        "best": asdict(state.best) if state.best else None,
        "sampler": sampler.state(),
    }
    partial = out / f"{RESUME_FILE}.partial"
    torch.save(held, partial)
    partial.replace(out / RESUME_FILE)


def resume(state: TrainState, sampler: NeighbourhoodSampler, config: TrainConfig, out: Path) -> float:
    """Load an unfinished run of the same settings into `state`; the seconds it had spent, 0 for a new run."""
    path = out / RESUME_FILE
    if not path.exists():
        (out / "metrics.jsonl").unlink(missing_ok=True)
        return 0.0
    held = torch.load(path, weights_only=True)
    if held["settings"] != json.dumps(asdict(config), sort_keys=True, default=str):
        raise BadCheckpoint(
            f"{path} belongs to a run with other settings; choose another folder or delete it"
        )
    state.model.load_state_dict(held["model"])
    state.average.weights = held["average"]
    state.optimizer.load_state_dict(held["optimizer"])
    state.step, state.queries, state.mined, state.validated = held["counters"]
    state.best = Metrics(**held["best"]) if held["best"] else None
    sampler.restore(held["sampler"])
    return float(held["spent_s"])


def wants_bfloat16(precision: str) -> bool:
    match precision:
        case "auto":  # emulated bfloat16 is 6 to 35 times slower than float32
            return bool(torch.cpu._is_avx512_bf16_supported())
        case "bf16":
            return True
        case "fp32":
            return False
        case _:
            raise BadConfig(f"precision is {precision!r}: choose auto, bf16 or fp32")


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Use so many threads inside, and give the setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_pairs(pairs: Sequence[GeoPairs], config: TrainConfig) -> None:
    if not pairs:
        raise BadPairs("no city to train on; give at least one data folder")
    canvas = (config.model.canvas.height_px, config.model.canvas.width_px)
    for city in pairs:
        if city.patch_px != config.model.patch_px or city.canvases.shape[1:3] != canvas:
            raise BadPairs(
                f"{city.city}: patches {city.patch_px} px, canvases {city.canvases.shape[1:3]}; the network "
                f"takes {config.model.patch_px} px and {canvas}; rebuild the pairs"
            )
