"""What `clnet ingest` shows: a progress bar and tables to a person, JSON lines to a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tiling.coverage import area_km2
from tiling.ortho import Ortho
from workers.estimate import IngestEstimate
from workers.ingest_report import IngestProgress, IngestReport

EVENT_EVERY_S = 1.0


class Display(Protocol):
    """What happens, in the order it happens."""

    def opened(self, ortho: Ortho) -> None:
        """The sheets are there."""

    def estimated(self, found: IngestEstimate) -> None:
        """The dry run ended."""

    def progressed(self, seen: IngestProgress) -> None:
        """More patches are in the store."""

    def done(self, report: IngestReport) -> None:
        """The region is live."""


@contextmanager
def open_display() -> Iterator[Display]:
    """For a terminal or, where standard output is none, for whatever reads it."""
    console = Console()
    if not console.is_terminal:
        yield Events(sys.stdout)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        yield Terminal(console, bar)


class Events:
    """One JSON object a line: `event`, `at` (RFC 3339) and what the event is about."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last_s = 0.0

    def opened(self, ortho: Ortho) -> None:
        left_out = [str(error) for error in ortho.rejected]
        self._write(
            "sheets",
            {
                "sheets": len(ortho.sheets),
                "area_km2": area_km2(ortho.footprint),
                "gsd_m": ortho.gsd_m,
                "left_out": left_out,
            },
        )

    def estimated(self, found: IngestEstimate) -> None:
        self._write("estimate", asdict(found))

    def progressed(self, seen: IngestProgress) -> None:
        if monotonic() - self._last_s >= EVENT_EVERY_S or seen.share == 1.0:
            self._last_s = monotonic()
            self._write("progress", asdict(seen))

    def done(self, report: IngestReport) -> None:
        self._write("done", asdict(report))

    def _write(self, event: str, about: dict[str, Any]) -> None:
        line = {"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds")} | about
        print(json.dumps(line), file=self._out, flush=True)


class Terminal:
    """A progress bar, and a table of the result."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("reading", total=None)

    def opened(self, ortho: Ortho) -> None:
        area = area_km2(ortho.footprint)
        self._console.print(f"{len(ortho.sheets)} sheets, {area:.2f} km², {ortho.gsd_m:.2f} m per pixel")
        for error in ortho.rejected:
            self._console.print(f"left out: {error}", style="yellow")
        self._bar.update(self._task, description="starting workers")

    def estimated(self, found: IngestEstimate) -> None:
        table = Table(title=f"{found.region}: nothing was done", show_header=False)
        table.add_row("patches planned", f"{found.planned:,}")
        table.add_row("points expected", f"{found.expected:,}")
        table.add_row("area", f"{found.area_km2:.2f} km²")
        table.add_row("disk", f"about {found.disk_mb:,.0f} MB")
        table.add_row("time on this machine", f"about {found.wall_s:,.0f} s")
        table.add_row("generation", found.generation)
        table.add_row("model", found.model_digest)
        self._show(table)

    def progressed(self, seen: IngestProgress) -> None:
        self._bar.update(
            self._task, description="patches", total=seen.planned, completed=seen.indexed + seen.skipped
        )

    def done(self, report: IngestReport) -> None:
        title = "already live, nothing to do" if report.already_live else "live"
        table = Table(title=f"{report.region}: {title}", show_header=False)
        table.add_row("patches planned", f"{report.planned:,}")
        table.add_row("indexed", f"{report.indexed:,}")
        for reason, count in sorted(report.skipped.items()):
            table.add_row(f"skipped: {reason}", f"{count:,}")
        table.add_row("covered", f"{report.area_km2:.2f} km²")
        if not report.already_live:
            table.add_row("of these embedded now", f"{report.embedded:,}")
            table.add_row("wall time", f"{report.wall_s:.1f} s ({report.patches_per_s:.0f} patches/s)")
        table.add_row("job", report.job_id)
        table.add_row("generation", report.generation)
        table.add_row("model", report.model_digest)
        self._show(table)

    def _show(self, table: Table) -> None:
        self._bar.stop()
        self._console.print(table)
