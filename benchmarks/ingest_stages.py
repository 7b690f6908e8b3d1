"""What each stage of a job does alone, with all the processor to itself."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ingest_jobs import area_of, encoder_grid, own_mb

Row = dict[str, Any]


def stages(sheets: Path, job: Row, zoom: int, folder: Path) -> Iterator[Row]:
    """What each stage does alone on all cores, and what that makes of the largest job."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        cut = sum(pool.map(cut_rate, [sheets] * cores, [zoom] * cores, range(cores)))
        embed = sum(pool.map(embed_rate, range(cores)))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        write, store_mb = pool.submit(write_rate, folder / "1", folder / "rewritten").result()
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
            **({"store_own_mb": store_mb} if name == "write" else {}),
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


def write_rate(job: Path, folder: Path) -> tuple[float, int]:
    """Points a second of the embedded store, with the vectors that the job kept, and the memory in MB that it
    takes for them."""
    import pyarrow.parquet as pq

    from spatial_index.records import GenerationSpec
    from spatial_index.store import open_store
    from workers.jobs import Jobs
    from workers.tally import to_records

    (record,) = Jobs(job / "jobs").list()
    parts = sorted((job / "jobs" / record.id / "vectors").glob("*.parquet"))
    dim = pq.read_schema(parts[0]).field("vector").type.list_size
    names = ("region", "generation", "model_digest", "zoom", "side_m")
    spec = GenerationSpec(dim=dim, **{name: record.spec[name] for name in names})
    with open_store(directory=folder, create=True) as store:
        store.create_generation(spec)
        before_mb, took_s, points = own_mb(), 0.0, 0
        for part in parts:
            table = pq.read_table(part)
            started_s = time.perf_counter()
            records = to_records(table, spec)
            store.write(spec.region, spec.generation, records)
            took_s += time.perf_counter() - started_s
            points += len(records)
        del table, records
        return points / took_s, own_mb() - before_mb
