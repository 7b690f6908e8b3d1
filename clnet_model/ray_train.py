"""`fit` on a Ray cluster: workers started, watched and restarted by Ray Train.

Every worker opens the same saved cities, so their folders, and `out`, must be reachable from all nodes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from clnet_model.collective import World
from clnet_model.data import load_pairs
from clnet_model.errors import BadConfig, TrainingFailed
from clnet_model.evaluate import Metrics
from clnet_model.run_files import RESUME_FILE
from clnet_model.train import Progress, TrainReport, fit
from clnet_model.train_config import TrainConfig

RUN_NAME = "ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How many workers share a run. `workers` may be (fewest, most): then the run shrinks when a node is
    lost, grows when one joins, and goes on from its last checkpoint either way."""

    workers: int | tuple[int, int] = 2
    gpus: bool = False
    cores_per_worker: int = 1
    max_failures: int = 3

    def __post_init__(self) -> None:
        fewest, most = self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)
        if not 1 <= fewest <= most:
            raise BadConfig(f"workers is {self.workers}: give a number from 1 on, or fewest and most")
        if self.cores_per_worker < 1:
            raise BadConfig(f"cores_per_worker is {self.cores_per_worker}: a worker needs at least 1")


def fit_on_ray(
    folders: Sequence[Path],
    config: TrainConfig,
    *,
    out: Path,
    scale: Scale,
    validation: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train on the saved cities in `folders` with the connected Ray; resumes an unfinished run in `out`.

    `progress` is called in every worker, not here: watch `metrics.jsonl` in `out` from elsewhere. The result
    does not depend on the number of workers, but for the order of additions.

    Raises:
        TrainingFailed: workers failed more often than `scale.max_failures`, or their code raised.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    job = _Job(
        folders=tuple(folder.resolve() for folder in folders),
        validation=None if validation is None else validation.resolve(),
        config=config,
        out=out,
        provenance=dict(provenance or {}),
        progress=progress,
    )
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=cast(Any, scale.workers),  # a tuple is for elastic runs; its base class says int
            use_gpu=scale.gpus,
            resources_per_worker={"CPU": scale.cores_per_worker, **({"GPU": 1} if scale.gpus else {})},
        ),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=str(out),
            failure_config=FailureConfig(max_failures=scale.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:  # Ray wraps whatever a worker raised in several layers of its own
        raise TrainingFailed(
            f"training stopped: {_cause(error)}; repeat the command to go on from the last checkpoint"
        ) from error
    found = dict(result.metrics or {})
    shutil.rmtree(out / RUN_NAME, ignore_errors=True)
    best = found.pop("validation")
    return TrainReport(folder=out, validation=None if best is None else Metrics(**best), **found)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What a worker is told."""

    folders: tuple[Path, ...]
    validation: Path | None
    config: TrainConfig
    out: Path
    provenance: dict[str, Any]
    progress: Callable[[Any], None] | None


class RayCheckpoints:
    """The state to resume from as Ray Train checkpoints: the first worker writes, all of them read."""

    def __str__(self) -> str:
        return "the unfinished run"

    def save(self, held: Mapping[str, Any]) -> None:
        _report({"spent_s": held["spent_s"]}, held)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        from ray import train  # noqa: PLC0415

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            found: dict[str, Any] = torch.load(
                Path(folder) / RESUME_FILE, weights_only=True, map_location=device
            )
        return None if "finished" in found else found

    def done(self) -> None:
        """Nothing: the driver clears away the run."""


def _work(told: dict[str, Any]) -> None:
    """What every worker runs."""
    from ray import train  # noqa: PLC0415
    from ray.train.torch import get_device  # noqa: PLC0415

    job: _Job = told["job"]
    context = train.get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=get_device())
    report = fit(
        [load_pairs(folder) for folder in job.folders],
        job.config,
        out=job.out,
        progress=job.progress,
        validation=None if job.validation is None else load_pairs(job.validation),
        provenance=job.provenance,
        world=world,
        unfinished=RayCheckpoints(),
    )
    found = {name: value for name, value in asdict(report).items() if name != "folder"}
    _report(found, {"finished": found})  # without a checkpoint Ray Train forgets the metrics


def _report(metrics: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Every worker tells its metrics; the first one's state is kept."""
    from ray import train  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if train.get_context().get_world_rank() == 0:
            torch.save(dict(held), Path(folder) / RESUME_FILE)
            checkpoint = train.Checkpoint.from_directory(folder)
        train.report(dict(metrics), checkpoint=checkpoint)


def _cause(error: BaseException) -> str:
    """The last line of what the first failed worker raised, else of the error itself."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    inner = next(iter(failures.values()), error)
    text = str(inner).strip() or type(inner).__name__
    return text.splitlines()[-1].strip()
