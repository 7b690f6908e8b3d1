"""What `clnet relocalize` shows: progress bars and tables to a person, JSON lines to a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.fleet_summary import FleetSummary
from workers.manifest import Manifest
from workers.relocalize import FleetProgress

EVENT_EVERY_S = 1.0
FAULTS_SHOWN = 10
STAGES = {"embed": "embedding", "locate": "locating"}


class Display(Protocol):
    """What happens, in the order it happens."""

    def checked(self, manifest: Manifest) -> None:
        """The manifest can be used."""

    def progressed(self, seen: FleetProgress) -> None:
        """More images are done."""

    def done(self, summary: FleetSummary, out: Path) -> None:
        """The results are written."""


@contextmanager
def open_display() -> Iterator[Display]:
    """For a terminal or, where standard output is none, for whatever reads it."""
    console = Console()
    if not console.is_terminal:
        yield Events(sys.stdout)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[counts]}"), console=console, transient=True) as bar:
        yield Terminal(console, bar)


class Events:
    """One JSON object a line: `event`, `at` (RFC 3339) and what the event is about."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last_s = 0.0

    def checked(self, manifest: Manifest) -> None:
        faults = [asdict(fault) for fault in manifest.faults]
        self._write("manifest", {"images": manifest.table.num_rows, "faults": faults})

    def progressed(self, seen: FleetProgress) -> None:
        if monotonic() - self._last_s >= EVENT_EVERY_S or seen.done == seen.total:
            self._last_s = monotonic()
            self._write("progress", {**asdict(seen), "counts": dict(seen.counts)})

    def done(self, summary: FleetSummary, out: Path) -> None:
        self._write("done", {**asdict(summary), "results": str(out)})

    def _write(self, event: str, about: dict[str, Any]) -> None:
        line = {"event": event, "at": datetime.now(UTC).isoformat(), **about}
        print(json.dumps(line), file=self._out, flush=True)


class Terminal:
    """A bar for each stage, and tables."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self._console = console
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def checked(self, manifest: Manifest) -> None:
        sequences = len(manifest.table.column("sequence").unique().drop_null())
        self._console.print(f"{manifest.table.num_rows:,} images, {sequences:,} sequences")
        for fault in manifest.faults[:FAULTS_SHOWN]:
            self._console.print(f"row {fault.row} ({fault.image}): {fault.reason}", style="yellow")
        more = len(manifest.faults) - FAULTS_SHOWN
        if more > 0:
            self._console.print(f"and {more:,} more rows that cannot be used", style="yellow")

    def progressed(self, seen: FleetProgress) -> None:
        if seen.stage not in self._tasks:
            self._tasks[seen.stage] = self._bar.add_task(STAGES[seen.stage], total=seen.total, counts="")
        counts = ", ".join(f"{count:,} {status}" for status, count in sorted(seen.counts.items()))
        self._bar.update(self._tasks[seen.stage], completed=seen.done, counts=counts)

    def done(self, summary: FleetSummary, out: Path) -> None:
        table = Table(title=str(out), show_header=False)
        for status, count in summary.counts.items():
            table.add_row(status, f"{count:,}")
        if summary.moved_p50_m is not None:
            moved = f"{summary.moved_p50_m:.0f} m (median), {summary.moved_p95_m:.0f} m (95 %)"
            table.add_row("given position to computed, LOCALIZED", moved)
        if summary.r68_p50_m is not None:
            table.add_row("median r68, LOCALIZED", f"{summary.r68_p50_m:.1f} m")
        if summary.smoothed_localized:
            table.add_row("LOCALIZED by its track", f"{summary.smoothed_localized:,}")
        table.add_row("prior overruled", f"{summary.prior_conflicts:,}")
        table.add_row("embedded now", f"{summary.embedded:,} in {summary.embed_s:.1f} s")
        table.add_row("searched and fused", f"{summary.images:,} in {summary.locate_s:.1f} s")
        table.add_row("job", summary.job_id)
        self._console.print(table)
