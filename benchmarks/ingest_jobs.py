"""A whole job over a share of the imagery, and the most memory that its processes take."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def run_job(sheets: Path, zoom: int, share: int, most: int, folder: Path) -> Row:
    """Ingest one part in `share` of the imagery with the shipped model, as `clnet ingest` does; the smallest
    region is one part in `most`."""
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
        "region": f"×{most // share}",
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
    for key, field in (("rss", "VmHWM"), ("own", "RssAnon")):
        peak[key] = max(peak[key], megabytes(process, field))


def own_mb() -> int:
    """What this process takes now that is no file and not shared."""
    return megabytes(Path("/proc/self"), "RssAnon")


def megabytes(process: Path, field: str) -> int:
    lines = (process / "status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[field].split()[0]) // 1024


def is_ours(process: Path) -> bool:
    """Whether a process descends from this one."""
    number = int(process.name)
    while number > 1 and number != os.getpid():
        number = int((Path("/proc") / str(number) / "stat").read_text().rpartition(")")[2].split()[1])
    return number == os.getpid()
