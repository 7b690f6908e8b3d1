"""Steps of a long command on one screen: a bar while one runs, a line with its duration when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Step:
    """The step that is running."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def update(self, share: float, detail: str = "") -> None:
        """Show how much is done, 0..1, and what is being done."""
        self._progress.update(self._task, completed=share, total=1.0, detail=detail)

    def tick(self, total: int) -> Callable[[], None]:
        """A callback for each of `total` equal pieces."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self.update(done / max(total, 1), f"{done}/{total}")

        return advance


class Steps:
    """Runs steps one after the other and remembers how long each took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.perf_counter()
        self.durations_s: dict[str, float] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("[dim]{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def wall_s(self) -> float:
        """Time since the first step could have begun."""
        return time.perf_counter() - self._began_s

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One named step; its line stays on the screen when it is done."""
        task = self._progress.add_task(name, total=None, detail="")
        began_s = time.perf_counter()
        try:
            yield Step(self._progress, task)
        except BaseException:
            self._progress.console.print(f"[red]failed[/red] {name}", highlight=False)
            raise
        finally:
            self._progress.remove_task(task)
        took_s = time.perf_counter() - began_s
        self.durations_s[name] = took_s
        self._progress.console.print(f"[green]done[/green] {took_s:7.1f} s  {name}", highlight=False)
