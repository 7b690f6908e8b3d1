"""`clnet jobs`: what long jobs are doing, and stopping one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_STORE, JobsOption, StoreOption, jobs_from_options

if TYPE_CHECKING:
    from workers.jobs import JobRecord


def jobs(
    job_id: Annotated[str | None, typer.Argument(help="Show this job alone.", show_default=False)] = None,
    store: StoreOption = DEFAULT_STORE,
    folder: JobsOption = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Ask the job to stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List the jobs beside a store, or show or cancel one."""
    from cli.errors import BadOption

    known = jobs_from_options(folder, store)
    if cancel and job_id is None:
        raise BadOption("--cancel", "name the job to stop; `clnet jobs` lists them")
    look = known.cancel if cancel else known.read
    found = known.list() if job_id is None else [look(job_id)]
    if as_json:
        for record in found:
            typer.echo(json.dumps(record.to_json()))
    else:
        show(found)


def show(found: list[JobRecord]) -> None:
    """A table of jobs."""
    from cli.tables import print_table

    if not found:
        typer.echo("no jobs yet; `clnet ingest REGION PATH...` starts one")
        return
    header = ("job", "state", "done", "started", "last change", "error")
    print_table(header, [_row(record) for record in found], whole=header[:-1])


def _row(record: JobRecord) -> list[str]:
    seen = record.progress
    return [
        record.id,
        record.state.lower(),
        f"{seen.done:,} of {seen.total:,} {seen.unit}" if seen.total else "",
        f"{record.created_at:%Y-%m-%d %H:%M}",
        f"{record.updated_at:%Y-%m-%d %H:%M}",
        f"{record.error.reason}: {record.error.message}" if record.error else "",
    ]
