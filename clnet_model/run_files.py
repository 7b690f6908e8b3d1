"""What a training run leaves on disk: its log, its checkpoint, and the state to resume from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from tensorboardX import SummaryWriter

from clnet_model.checkpoint import git_commit, save_checkpoint, software_versions
from clnet_model.model import CLNet

RESUME_FILE = "resume.pt"
LOG_FILE = "metrics.jsonl"


class ResumeStore(Protocol):
    """Where the state of an unfinished run waits. Every process calls these together."""

    def save(self, held: Mapping[str, Any]) -> None: ...

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last saved state, None for a new run."""
        ...

    def done(self) -> None:
        """The run has ended; nothing is left to resume."""
        ...


class ResumeFile:
    """A file in the run's folder, replaced atomically; for runs of one process."""

    def __init__(self, out: Path) -> None:
        self.path = out / RESUME_FILE

    def __str__(self) -> str:
        return str(self.path)

    def save(self, held: Mapping[str, Any]) -> None:
        partial = self.path.with_name(f"{RESUME_FILE}.partial")
        torch.save(dict(held), partial)
        partial.replace(self.path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        found: dict[str, Any] = torch.load(self.path, weights_only=True, map_location=device)
        return found

    def done(self) -> None:
        self.path.unlink(missing_ok=True)


class MetricsLog:
    """`metrics.jsonl`, one object a line, readable while the run goes on, and the same as TensorBoard events
    beside it."""

    def __init__(self, out: Path, *, fresh: bool, silent: bool = False) -> None:
        self.path = out / LOG_FILE
        self._events: SummaryWriter | None = None
        if silent:
            return
        if fresh:
            self.path.unlink(missing_ok=True)
        self._events = SummaryWriter(str(out / "tensorboard"), flush_secs=30)

    def write(self, values: Mapping[str, Any]) -> None:
        if self._events is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        for name, value in {**values, **values.get("validation", {})}.items():
            if name != "step" and isinstance(value, int | float):
                group = "validation" if "validation" in values else "train"
                self._events.add_scalar(f"{group}/{name}", value, values["step"])

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()


def keep_checkpoint(out: Path, model: CLNet, about: Mapping[str, Any]) -> str:
    """Write the checkpoint with its provenance and return its digest."""
    return save_checkpoint(
        out, model, provenance={**about, "git_commit": git_commit(), "versions": software_versions()}
    )
