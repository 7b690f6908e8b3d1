"""How fast a region is built, stage by stage and as a whole, and what memory it takes as the region grows.

    make bench-ingest                       # = pip install --group bench, then
    python benchmarks/ingest.py --sheets FOLDER

Reading and cutting is compared with two ways of reading each patch on its own, in turns in one process:
rio-tiler's `part()`, and a window of a WarpedVRT. Bytes decoded are bytes that the process read from the
sheet times the sheet's rate of compression. Jobs run in processes of their own, over squares of ground around
the middle of the imagery that hold a sixteenth, a quarter and all of its blocks. Writes
benchmarks/results/ingest.json and draws docs/ingest.png from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ingest_jobs import run_job
from ingest_readers import reading
from ingest_stages import stages
from plots import draw_ingest
from reporting import write_results

ZOOMS = (20, 22)
SHARES = (16, 4, 1)  # the region is the whole imagery divided by these
Row = dict[str, Any]


def main() -> None:
    """Measure everything, or in a process of its own one job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("CLNET_DATA", "../shared/data")) / "brig_ortho"
    parser.add_argument("--sheets", type=Path, default=default, help="a folder of GeoTIFF sheets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job-zoom", type=int, default=22, help="zoom of the whole jobs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ingest.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/ingest.png"))
    parser.add_argument("--one-job", nargs=2, metavar=("SHARE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_job:
        share, folder = int(args.one_job[0]), Path(args.one_job[1])
        print(json.dumps(run_job(args.sheets, args.job_zoom, share, max(SHARES), folder)))
        return
    rows = list(measure(args.sheets, args.job_zoom, args.rounds))
    write_results(args.out, rows)
    draw_ingest(rows, args.plot)
    print_tables(rows)


def measure(sheets: Path, job_zoom: int, rounds: int) -> Iterator[Row]:
    """Every cell, printed as it comes."""
    for zoom in ZOOMS:
        yield from shown(reading(sheets, zoom, rounds))
    with tempfile.TemporaryDirectory() as folder:
        jobs = [job_row(sheets, job_zoom, share, Path(folder)) for share in SHARES]
        yield from jobs
        yield from shown(stages(sheets, jobs[-1], job_zoom, Path(folder)))


def shown(rows: Iterator[Row] | Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        print(row, flush=True)
        yield row


def job_row(sheets: Path, zoom: int, share: int, folder: Path) -> Row:
    """A job in a process of its own, so that its peaks of memory are its own."""
    home = folder / str(share)
    home.mkdir()
    command = [sys.executable, __file__, "--sheets", str(sheets), "--job-zoom", str(zoom)]
    done = subprocess.run(
        [*command, "--one-job", str(share), str(home)], check=True, stdout=subprocess.PIPE, text=True
    )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def print_tables(rows: Sequence[Row]) -> None:
    """As Markdown, for docs/ingest.md: one table for each set of columns."""
    from cli.tables import markdown_table

    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        tables.setdefault(tuple(row), []).append([str(value) for value in row.values()])
    for header, cells in tables.items():
        print(markdown_table(header, cells))


if __name__ == "__main__":
    main()
