"""What an ingest would do and cost, before it is started: counts from the mask, times from a small trial."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from clnet_model.encoder import Encoder, load_encoder
from spatial_index.records import Storage
from tiling.antimeridian import continuous_bounds
from tiling.coverage import area_km2
from tiling.grid import WORLD_M, Block, Bounds, GridSpec, LngLat, mercator_at
from tiling.ortho import Ortho, cut, read_window
from workers.ingest_plan import MIN_VALID_FRACTION, IngestPlan, plan_ingest

START_S = 15.0  # Ray and the framework in the actors, measured on 2 cores
BYTES_PER_POINT = 2_300  # beside the vector; measured on 110,866: 2.2 kB stored and 1.5 kB kept, 384-d
BYTES_PER_NUMBER = {"float32": 4, "float16": 2, "int8": 5}  # int8 lies beside float32
TRIAL_PATCHES = 32
MASK_PX = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestEstimate:
    """`planned` is exact; `expected` counts the patches whose centre shows imagery in a coarse mask."""

    region: str
    generation: str
    model_digest: str
    planned: int
    expected: int
    area_km2: float
    disk_mb: float
    wall_s: float


def estimate(
    region: str,
    ortho: Ortho,
    *,
    checkpoint: Path | None = None,
    grid: GridSpec | None = None,
    area: BaseGeometry | None = None,
    min_valid_fraction: float = MIN_VALID_FRACTION,
    storage: Storage = "float32",
    load: Callable[[Path | None], Encoder] = load_encoder,
) -> IngestEstimate:
    """Plan the job and try a little of it, without Ray and without a store.

    Raises:
        NothingToIngest: no patch centre lies on the orthophoto.
        TilingError, ModelError: a sheet or the checkpoint cannot be read.
    """
    encoder = load(checkpoint)
    plan = plan_ingest(
        region,
        ortho,
        encoder,
        grid=grid,
        area=area,
        min_valid_fraction=min_valid_fraction,
        storage=storage,
    )
    expected, fullest = _shown(ortho, plan)
    cut_s, embed_s = _trial(ortho, encoder, fullest)
    cores = len(os.sched_getaffinity(0))
    return IngestEstimate(
        region=region,
        generation=plan.spec.generation,
        model_digest=plan.spec.model_digest,
        planned=plan.planned,
        expected=expected,
        area_km2=area_km2(plan.area),
        disk_mb=expected * (BYTES_PER_NUMBER[storage] * encoder.dim + BYTES_PER_POINT) / 1e6,
        wall_s=START_S + expected * (cut_s + embed_s) / cores,
    )


def _shown(ortho: Ortho, plan: IngestPlan) -> tuple[int, Block]:
    """How many patch centres show imagery, and the block with most of them."""
    west, south, east, north = continuous_bounds(plan.area)
    bounds = *mercator_at(LngLat(lng=west, lat=south)), *mercator_at(LngLat(lng=east, lat=north))
    _, alpha = read_window(ortho, bounds, MASK_PX)
    counted = [(_shown_in(alpha, bounds, keyed.block), keyed.block) for keyed in plan.blocks()]
    _, fullest = max(counted, key=itemgetter(0))
    return sum(shown for shown, _ in counted), fullest


def _shown_in(alpha: npt.NDArray[np.uint8], bounds: Bounds, block: Block) -> int:
    centres = np.array([patch.centre_mercator for patch in block.patches])  # (N, 2)
    height, width = alpha.shape
    centres[:, 0] += WORLD_M * np.round(((bounds[0] + bounds[2]) / 2 - centres[:, 0]) / WORLD_M)
    columns = (centres[:, 0] - bounds[0]) / (bounds[2] - bounds[0]) * width
    rows = (bounds[3] - centres[:, 1]) / (bounds[3] - bounds[1]) * height
    inside = alpha[np.clip(rows, 0, height - 1).astype(int), np.clip(columns, 0, width - 1).astype(int)]
    return int((inside > 0).sum())


def _trial(ortho: Ortho, encoder: Encoder, block: Block) -> tuple[float, float]:
    """Seconds of one core per patch, for cutting and for embedding."""
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the actors have it
    try:
        start_s = perf_counter()
        images = list(cut(ortho, block, size_px=encoder.patch_px))
        cut_s = (perf_counter() - start_s) / len(images)
        pixels = np.stack([image.pixels for image in images[:TRIAL_PATCHES]])  # (N, S, S, 3)
        encoder.embed_aerial(pixels[:1])  # the first call pays for set-up
        start_s = perf_counter()
        encoder.embed_aerial(pixels)
        return cut_s, (perf_counter() - start_s) / len(pixels)
    finally:
        torch.set_num_threads(threads)
