"""Progress bars of the training and evaluation commands."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from clnet_model.train_step import Tick


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
def followed_log(out: Path, show: Callable[[Tick], None]) -> Iterator[None]:
    """Meanwhile, show the last step that a run elsewhere has written to its log in `out`."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(1.0):
            tick = _last_tick(out)
            if tick is not None:
                show(tick)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _last_tick(out: Path) -> Tick | None:
    """The newest whole line of the log that is a step's."""
    from clnet_model.run_files import LOG_FILE
    from clnet_model.train_step import Tick

    try:
        with (out / LOG_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().decode().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, TypeError):  # a line that is being written, or a validation's
            return Tick(**json.loads(line))
    return None


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
