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
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from plots import draw_ingest
from reporting import write_results

CUT_PX = 128
ZOOMS = (20, 22)
BLOCKS = 12
RIVAL_STRIDE = 8  # rivals read every so-manieth patch: they are slower
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
        print(json.dumps(run_job(args.sheets, args.job_zoom, int(args.one_job[0]), Path(args.one_job[1]))))
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


# Reading and cutting


def reading(sheets: Path, zoom: int, rounds: int) -> Iterator[Row]:
    """Patches a second of one core, by three ways of reading; they take turns."""
    from tiling.grid import GridSpec, plan_blocks
    from tiling.ortho import Ortho, open_ortho

    sheet = max(open_ortho([sheets]).sheets, key=lambda each: Path(each.path).stat().st_size)
    ortho = Ortho(sheets=(sheet,))
    inside = sheet.footprint.buffer(-0.0006)  # more than 35 m: no patch reaches over the edge
    blocks = sorted(plan_blocks(inside, GridSpec(zoom=zoom)), key=len, reverse=True)[:BLOCKS]
    blocks = [block for block in blocks if 2 * len(block) > len(blocks[0])]  # as in a region's middle
    patches = [patch for block in blocks for patch in block.patches]
    ways: dict[str, tuple[Callable[[], None], int]] = {
        "blocks (ours)": (lambda: cut_blocks(ortho, blocks), len(patches)),
        "WarpedVRT window per patch": (lambda: cut_windows(sheet.path, patches[::RIVAL_STRIDE]),
                                       len(patches[::RIVAL_STRIDE])),
        "rio-tiler part() per patch": (lambda: cut_parts(sheet.path, patches[::RIVAL_STRIDE]),
                                       len(patches[::RIVAL_STRIDE])),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in ways}
    decoded: dict[str, float] = {}
    per_read_byte = decoded_size(sheet.path) / Path(sheet.path).stat().st_size
    for _ in range(rounds):
        for name, (run, count) in ways.items():
            before, started_s = read_bytes(), time.perf_counter()
            run()
            rates[name].append(count / (time.perf_counter() - started_s))
            decoded[name] = (read_bytes() - before) * per_read_byte / (count * CUT_PX**2 * 3)
    slowest = rates["rio-tiler part() per patch"]
    for name, found in rates.items():
        yield {
            "stage": "read and cut, one core",
            "zoom": zoom,
            "reader": name,
            "patch_px": CUT_PX,
            "patches": ways[name][1],
            "patches_per_s": round(median(found), 1),
            "ratio_to_rio_tiler": round(median(a / b for a, b in zip(found, slowest, strict=True)), 2),
            "decoded_bytes_per_used_byte": round(decoded[name], 2),
        }


def decoded_size(path: str) -> int:
    """Bytes of a sheet's pixels and those of its overviews."""
    import rasterio

    with rasterio.open(path) as sheet:
        pixels = sheet.width * sheet.height
        return int(sheet.count * sum(pixels / factor**2 for factor in (1, *sheet.overviews(1))))


def cut_blocks(ortho: Any, blocks: Sequence[Any]) -> None:
    from tiling.ortho import cut

    for block in blocks:
        for image in cut(ortho, block, size_px=CUT_PX):
            assert image.pixels.shape == (CUT_PX, CUT_PX, 3)


def cut_windows(path: str, patches: Sequence[Any]) -> None:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    with (
        rasterio.open(path) as sheet,
        WarpedVRT(sheet, crs="EPSG:3857", resampling=Resampling.bilinear) as warped,
    ):
        for patch in patches:
            window = warped.window(*patch.mercator_bounds)
            pixels = warped.read((1, 2, 3), window=window, out_shape=(3, CUT_PX, CUT_PX),
                                 resampling=Resampling.bilinear)  # fmt: skip
            assert pixels.any()


def cut_parts(path: str, patches: Sequence[Any]) -> None:
    from rio_tiler.io import Reader

    with Reader(path) as sheet:
        for patch in patches:
            image = sheet.part(
                patch.mercator_bounds, dst_crs="EPSG:3857", bounds_crs="EPSG:3857",
                width=CUT_PX, height=CUT_PX,
                resampling_method="bilinear", reproject_method="bilinear",
            )  # fmt: skip
            assert image.data.any()


def read_bytes() -> int:
    """Bytes that this process has asked the system for, from the disk or its cache."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


# Whole jobs


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


def run_job(sheets: Path, zoom: int, share: int, folder: Path) -> Row:
    """Ingest a share of the imagery with the shipped model, as `clnet ingest` does."""
    from spatial_index.store import open_store
    from tiling.ortho import open_ortho
    from workers.ingest import ingest
    from workers.jobs import Jobs

    ortho = open_ortho([sheets])
    grid = encoder_grid(zoom)
    area = area_of(ortho, grid, share)
    seen: list[tuple[float, int]] = []
    peaks = Peaks()
    started_s = time.perf_counter()

    def progress(now: Any) -> None:
        seen.append((time.perf_counter() - started_s, now.indexed + now.skipped))
        peaks.look()

    with open_store(directory=folder / "store", create=True) as store:
        report = ingest(
            "bench", ortho, store=store, jobs=Jobs(folder / "jobs"), grid=grid, area=area, progress=progress
        )
    return {
        "stage": "whole job",
        "zoom": zoom,
        "region": f"×{SHARES[0] // share}",
        "area_km2": round(report.area_km2, 2),
        "planned": report.planned,
        "indexed": report.indexed,
        "wall_s": round(report.wall_s, 1),
        "startup_s": round(seen[0][0], 1),
        "patches_per_s": round((seen[-1][1] - seen[0][1]) / max(seen[-1][0] - seen[0][0], 1e-9), 1),
        "driver_rss_mb": peaks.driver["rss"],
        "driver_own_mb": peaks.driver["own"],
        "largest_worker_rss_mb": peaks.worker["rss"],
        "largest_worker_own_mb": peaks.worker["own"],
        "cores": len(os.sched_getaffinity(0)),
    }


def encoder_grid(zoom: int) -> Any:
    from clnet_model.encoder import load_encoder
    from tiling.grid import GridSpec

    return GridSpec(zoom=zoom, side_m=load_encoder(None).side_m)


def area_of(ortho: Any, grid: Any, share: int) -> Any:
    """The patch tiles of the middle of the imagery: all that shows something, or an nth of it."""
    import shapely

    from tiling.grid import LngLat, mercator_at
    from tiling.ortho import read_window

    west, south, east, north = ortho.footprint.bounds
    left, bottom = mercator_at(LngLat(lng=west, lat=south))
    right, top = mercator_at(LngLat(lng=east, lat=north))
    _, alpha = read_window(ortho, (left, bottom, right, top), 512)
    rows, columns = (np.percentile(np.nonzero(alpha)[axis], (0, 50, 100)) for axis in (0, 1))
    reach = 0.5 / np.sqrt(share)
    x = [west + (east - west) * at(columns, alpha.shape[1], side, reach) for side in (-1, 1)]
    y = [north - (north - south) * at(rows, alpha.shape[0], side, reach) for side in (-1, 1)]
    return shapely.intersection(shapely.box(x[0], y[1], x[1], y[0]), ortho.footprint)


def at(edges: Any, size: int, side: int, reach: float) -> float:
    """A place along an axis, 0 to 1: so far from the middle of the imagery."""
    low, _, high = edges
    return float(((low + high) / 2 + side * reach * (high - low)) / size)


class Peaks:
    """The most memory so far: resident as the kernel keeps it, and of that what is no file and not shared.

    The rest are pages of files (the store's, Ray's object store) that the kernel may take back.
    """

    def __init__(self) -> None:
        self.driver = {"rss": 0, "own": 0}
        self.worker = {"rss": 0, "own": 0}

    def look(self) -> None:
        """Look at this process and at the embedding workers below it."""
        note(self.driver, Path("/proc/self"))
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if b"MapWorker" in (process / "cmdline").read_bytes() and is_ours(process):
                    note(self.worker, process)
            except (OSError, KeyError):  # it ended meanwhile
                continue


def note(peak: dict[str, int], process: Path) -> None:
    lines = (process / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    for key, field in (("rss", "VmHWM"), ("own", "RssAnon")):
        peak[key] = max(peak[key], int(status[field].split()[0]) // 1024)


def is_ours(process: Path) -> bool:
    """Whether a process descends from this one."""
    number = int(process.name)
    while number > 1 and number != os.getpid():
        number = int((Path("/proc") / str(number) / "stat").read_text().rpartition(")")[2].split()[1])
    return number == os.getpid()


# Stages alone


def stages(sheets: Path, job: Row, zoom: int, folder: Path) -> Iterator[Row]:
    """What each stage does alone on all cores, and what that makes of the largest job."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        cut = sum(pool.map(cut_rate, [sheets] * cores, [zoom] * cores, range(cores)))
        embed = sum(pool.map(embed_rate, range(cores)))
    write = write_rate(folder / "1", folder / "rewritten")
    alone_s = {
        "read and cut": job["planned"] / cut,
        "embed": job["indexed"] / embed,
        "write": job["indexed"] / write,
    }
    rates = {"read and cut": cut, "embed": embed, "write": write}
    for name, rate in rates.items():
        yield {
            "stage": f"{name}, alone on {1 if name == 'write' else cores} cores",
            "zoom": zoom,
            "points_per_s" if name == "write" else "patches_per_s": round(rate, 1),
            "alone_s": round(alone_s[name], 1),
        }
    running_s = job["wall_s"] - job["startup_s"]
    yield {
        "stage": "whole job against its stages",
        "zoom": zoom,
        "slowest_stage": max(alone_s, key=alone_s.__getitem__),
        "wall_to_slowest_ratio": round(job["wall_s"] / max(alone_s.values()), 2),
        "without_startup_ratio": round(running_s / max(alone_s.values()), 2),
        "wall_to_sum_ratio": round(job["wall_s"] / sum(alone_s.values()), 2),
    }


def cut_rate(sheets: Path, zoom: int, part: int) -> float:
    """Planned patches a second of one process over a fortieth of the job's blocks."""
    from clnet_model.encoder import load_encoder
    from tiling.grid import plan_blocks
    from tiling.ortho import cut, open_ortho

    encoder, ortho, grid = load_encoder(None), open_ortho([sheets]), encoder_grid(zoom)
    blocks = list(plan_blocks(area_of(ortho, grid, 1), grid))[part::40]
    started_s = time.perf_counter()
    for block in blocks:
        for _ in cut(ortho, block, size_px=encoder.patch_px):
            pass
    return sum(map(len, blocks)) / (time.perf_counter() - started_s)


def embed_rate(part: int) -> float:
    """Patches a second of one process with one thread."""
    import torch

    from clnet_model.encoder import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder(None)
    size = encoder.patch_px
    pixels = np.random.default_rng(part).integers(0, 256, (256, size, size, 3), np.uint8)
    encoder.embed_aerial(pixels)
    rounds, started_s = 0, time.perf_counter()
    while time.perf_counter() - started_s < 15:
        encoder.embed_aerial(pixels)
        rounds += 1
    return rounds * len(pixels) / (time.perf_counter() - started_s)


def write_rate(job: Path, folder: Path) -> float:
    """Points a second of the embedded store, with the vectors that the job kept."""
    import pyarrow.parquet as pq

    from spatial_index.records import GenerationSpec
    from spatial_index.store import open_store
    from workers.jobs import Jobs
    from workers.tally import to_records

    (record,) = Jobs(job / "jobs").list()
    tables = [
        pq.read_table(part) for part in sorted((job / "jobs" / record.id / "vectors").glob("*.parquet"))
    ]
    dim = tables[0].schema.field("vector").type.list_size
    names = ("region", "generation", "model_digest", "zoom", "side_m")
    spec = GenerationSpec(dim=dim, **{name: record.spec[name] for name in names})
    with open_store(directory=folder, create=True) as store:
        store.create_generation(spec)
        started_s, points = time.perf_counter(), 0
        for table in tables:
            records = to_records(table, spec)
            store.write(spec.region, spec.generation, records)
            points += len(records)
        return points / (time.perf_counter() - started_s)


# What comes out


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
