"""Progress bars of the training and evaluation commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from clnet_model.train import Tick


@contextmanager
def labelled_bars() -> Iterator[Callable[[str, float], None]]:
    """A bar per label: call with the label and the finished share, 0 to 1."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(label: str, share: float) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=1.0)
            bars.update(tasks[label], completed=share)

        yield show


@contextmanager
def training_bar() -> Iterator[Callable[[Tick], None]]:
    """One bar for a run, with smoothed loss, batch recall and speed."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("starting", total=1.0)
        smooth = {"loss": 0.0, "recall": 0.0}

        def show(tick: Tick) -> None:
            keep = min(0.95, 1 - 1 / tick.step)
            smooth["loss"] = keep * smooth["loss"] + (1 - keep) * tick.loss
            smooth["recall"] = keep * smooth["recall"] + (1 - keep) * tick.batch_recall_at_1
            speed = tick.queries / max(tick.spent_s, 1e-3)
            label = (
                f"step {tick.step}  loss {smooth['loss']:.3f}  batch R@1 {smooth['recall']:.2f}  "
                f"{tick.queries:,} images, {speed:.0f}/s"
            )
            bars.update(task, completed=min(1.0, tick.share), description=label)

        yield show
