"""Training: `fit` is the loop.

Several processes may run `fit` together. They draw the same batch, each embeds its own rows, and the losses
see all of them, so a run does not depend on how many there are, but for the order of additions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clnet_model.augment import Augmenter, Batch, noise_field
from clnet_model.collective import ALONE, World
from clnet_model.data import GeoPairs
from clnet_model.encoder import TorchEncoder
from clnet_model.errors import BadCheckpoint, BadConfig, BadPairs
from clnet_model.evaluate import NORTH_KNOWN, Metrics, evaluate
from clnet_model.hard_patches import look_alikes
from clnet_model.precision import mixed
from clnet_model.run_files import MetricsLog, ResumeFile, ResumeStore, keep_checkpoint
from clnet_model.sampling import BatchRows, NeighbourhoodSampler
from clnet_model.schedule import Clock
from clnet_model.train_config import TrainConfig
from clnet_model.train_step import (
    Tick,
    TrainState,
    forget_statistics,
    set_learning_rate,
    start,
    train_step,
)

Progress = Callable[[Tick], None]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run under way: what it trains on, where it writes, and its state."""

    pairs: Sequence[GeoPairs]
    validation: GeoPairs | None
    config: TrainConfig
    world: World
    out: Path
    provenance: Mapping[str, Any]
    unfinished: ResumeStore
    state: TrainState
    sampler: NeighbourhoodSampler
    noise: torch.Tensor

    def resume(self) -> float:
        """Go on where an unfinished run of the same settings on the same data was left; the seconds it had
        spent, 0 for a new run.

        Raises:
            BadCheckpoint: the unfinished run had other settings or other data.
        """
        held = self.unfinished.load(self.world.device)
        if held is None:
            return 0.0
        if held["settings"] != self.config.settings():
            raise BadCheckpoint(
                f"{self.unfinished} belongs to a run with other settings; choose another folder or delete it"
            )
        if held.get("data") != self.data():
            raise BadCheckpoint(
                f"{self.unfinished} belongs to a run on other data; give that data again, or a fresh --out"
            )
        self.state.restore(held)
        self.sampler.restore(held["sampler"])
        self.state.saved_s = float(held["spent_s"])
        return self.state.saved_s

    def save(self, spent_s: float) -> None:
        """Hand over everything needed to go on as if nothing had happened; every process calls it."""
        self.state.saved_s = spent_s
        held = {"settings": self.config.settings(), "data": self.data(), "spent_s": spent_s}
        self.unfinished.save({**held, "sampler": self.sampler.state(), **self.state.held()})

    def data(self) -> list[str | None]:
        """Fingerprints of what it trains on and, last, of what it chooses by."""
        cities = (*self.pairs, self.validation)
        return [None if city is None else city.fingerprint() for city in cities]

    def next_batch(self, share: float) -> Batch:
        """The next rows, augmented by randomness that depends on seed and step alone; both get harder as it
        goes on."""
        rows = self.sampler.draw(self.config.hardness(share))
        return self._augmented(rows, share, seed=self.config.seed * 1_000_003 + self.state.step)

    def averaged_encoder(self) -> TorchEncoder:
        """An encoder with the averaged weights, for validation, mining and keeping.

        The running statistics belong to the weights of the last steps; the averaged weights get their own
        from some batches that training is not told of.
        """
        config, world = self.config, self.world
        model = copy.deepcopy(self.state.model)
        self.state.average.copy_to(model)
        forget_statistics(model)
        with torch.no_grad(), mixed(config.precision, world.device):
            for number in range(config.statistics_batches):
                seed = config.seed + 7_000_003 * (number + 1)
                batch = self._augmented(self.sampler.scattered(seed), 1.0, seed=seed)
                model.view_ground(batch.canvases)
                model.view_aerial(batch.patches)
        return TorchEncoder(
            model,
            digest=f"training-step-{self.state.step}",
            device=str(world.device),
            precision=config.precision,
        )

    def mining_due(self, share: float) -> bool:
        return self.state.mined < sum(share >= due for due in self.config.mining_times)

    def mine_hard_patches(self) -> None:
        """Let batches hold patches that look most like a street image's own but lie elsewhere in its city.

        Processes take turns with the cities and tell each other what they found.
        """
        encoder, world, config = self.averaged_encoder(), self.world, self.config
        apart_m = 5 * config.loss.position_sigma_m
        found = {
            city: look_alikes(encoder, self.pairs[city], count=config.mined_per_query, apart_m=apart_m)
            for city in range(world.rank, len(self.pairs), world.size)
        }
        for part in world.exchanged(found):
            for city, hard in part.items():
                self.sampler.set_hard_patches(city, hard)
        self.state.mined += 1

    def validation_due(self, share: float) -> bool:
        """Without a validation city the last weights are kept, once, at the end."""
        due = share >= self.config.validate_every_share * (self.state.validated + 1)
        return due and self.validation is not None

    def keep_best(self, log: MetricsLog) -> None:
        """Validate the averaged weights and write the checkpoint unless an earlier one was better.

        The first process does it, the others wait at their next exchange.
        """
        encoder, state = self.averaged_encoder(), self.state
        state.validated += 1
        if not self.world.first:
            return
        metrics = self._validate(encoder)
        if metrics is not None:
            log.write({"step": state.step, "validation": asdict(metrics)})
            if state.best is not None and metrics.standing < state.best.standing:
                return
        state.best = metrics
        about = {
            **self.provenance,
            "config": asdict(self.config),
            "workers": self.world.size,
            "step": state.step,
            "queries": state.queries,
            "validation": None if metrics is None else asdict(metrics),
        }
        state.digest = keep_checkpoint(self.out, encoder.model, about)

    def _validate(self, encoder: TorchEncoder) -> Metrics | None:
        """Metrics on a fixed sample of the validation city's panoramas, of its photos if it has no others."""
        if self.validation is None:
            return None
        rows = self.validation.widest()
        count = min(self.config.validation_queries, len(rows))
        rows = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
        return evaluate(encoder, self.validation.subset(rows), NORTH_KNOWN)

    def _augmented(self, rows: BatchRows, share: float, *, seed: int) -> Batch:
        """These rows, augmented as strongly as this share of the run asks for."""
        config = self.config
        strengths = config.augment.scaled(0.3 + 0.7 * config.hardness(share))
        augmenter = Augmenter(strengths, config.model.canvas, seed=seed, world=self.world, noise=self.noise)
        return augmenter(self.pairs[rows.city], rows)


def fit(
    pairs: Sequence[GeoPairs],
    config: TrainConfig,
    *,
    out: Path,
    progress: Progress | None = None,
    validation: GeoPairs | None = None,
    provenance: Mapping[str, Any] | None = None,
    world: World = ALONE,
    unfinished: ResumeStore | None = None,
) -> TrainReport:
    """Train on cities until the budget is used up; continue where an unfinished run was left.

    The best checkpoint is chosen on the validation city alone. `unfinished` keeps the state to resume from;
    by default a file in `out`.

    Raises:
        BadPairs: no city, or images of another size than the network takes.
        BadConfig: more processes than images in a batch, or in a city.
        BadCheckpoint: the unfinished run was started with other settings or other data.
    """
    _check_pairs(pairs, config)
    _check_world(world, config, pairs)
    out.mkdir(parents=True, exist_ok=True)
    canvas, patch_px = config.model.canvas, config.model.patch_px
    with torch_threads(config.threads):
        state = start(config, world, pairs)
        run = Run(
            pairs=pairs,
            validation=validation,
            config=config,
            world=world,
            out=out,
            provenance=provenance or {},
            unfinished=unfinished or ResumeFile(out),
            state=state,
            sampler=NeighbourhoodSampler(pairs, config.sampler, seed=config.seed),
            noise=noise_field(config.seed, world.device, canvas=canvas, patch_px=patch_px),
        )
        clock = Clock(config.budget, spent_s=run.resume())
        with MetricsLog(out, fresh=state.step == 0, silent=not world.first) as log:
            while (share := clock.share(state.step, spent_s := world.agreed(clock.spent_s))) < 1:
                set_learning_rate(state, share, config)
                tick = train_step(
                    state, run.next_batch(share), config, share=share, spent_s=spent_s, world=world
                )
                log.write(asdict(tick))
                if progress is not None:
                    progress(tick)
                if run.mining_due(share):
                    run.mine_hard_patches()
                if run.validation_due(share):
                    run.keep_best(log)
                if spent_s - state.saved_s >= 60 * config.checkpoint_every_minutes:
                    run.save(spent_s)
            run.keep_best(log)
    run.unfinished.done()
    return TrainReport(
        folder=out,
        digest=state.digest,
        steps=state.step,
        queries=state.queries,
        spent_s=clock.spent_s,
        validation=state.best,
    )


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


def _check_world(world: World, config: TrainConfig, pairs: Sequence[GeoPairs]) -> None:
    batch, smallest = config.sampler.queries, min(len(city) for city in pairs)
    if batch < 2 * world.size or smallest < world.size:
        raise BadConfig(
            f"{world.size} processes share {min(batch, smallest)} street images a step: use fewer workers, a "
            "larger batch, at least 2 each, or larger cities"
        )
