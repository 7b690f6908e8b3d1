"""What an ingest would do and cost, before it is started: counts from the mask, times from a small trial."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from clnet_model.encoder import Encoder, load_encoder
from tiling.coverage import area_km2
from tiling.grid import Block, Bounds, GridSpec, LngLat, mercator_at
from tiling.ortho import Ortho, cut, read_window
from workers.job import MIN_VALID_FRACTION, plan_job

START_S = 15.0  # Ray and the framework in the actors, measured on 2 cores
BYTES_PER_POINT = 2_300  # payload, indexes and log beside the vector; measured on 27,723 points
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
    footprint_km2: float
    disk_mb: float
    wall_s: float


def estimate(
    region: str,
    ortho: Ortho,
    *,
    checkpoint: Path | None = None,
    grid: GridSpec | None = None,
    min_valid_fraction: float = MIN_VALID_FRACTION,
    load: Callable[[Path | None], Encoder] = load_encoder,
) -> IngestEstimate:
    """Plan the job and try a little of it, without Ray and without a store.

    Raises:
        NothingToIngest: no patch centre lies on the orthophoto.
        TilingError, ModelError: a sheet or the checkpoint cannot be read.
    """
    encoder = load(checkpoint)
    job = plan_job(region, ortho, encoder, grid, min_valid_fraction)
    shown = _shown_by_block(ortho, job.blocks)
    cut_s, embed_s = _trial(ortho, encoder, job.blocks[int(np.argmax(shown))])
    expected = int(sum(shown))
    cores = len(os.sched_getaffinity(0))
    return IngestEstimate(
        region=region,
        generation=job.spec.generation,
        model_digest=job.spec.model_digest,
        planned=job.planned,
        expected=expected,
        footprint_km2=area_km2(ortho.footprint),
        disk_mb=expected * (4 * encoder.dim + BYTES_PER_POINT) / 1e6,
        wall_s=START_S + expected * (cut_s + embed_s) / cores,
    )


def _shown_by_block(ortho: Ortho, blocks: Sequence[Block]) -> list[int]:
    """Per block, how many patch centres show imagery."""
    west, south, east, north = ortho.footprint.bounds
    bounds = *mercator_at(LngLat(lng=west, lat=south)), *mercator_at(LngLat(lng=east, lat=north))
    _, alpha = read_window(ortho, bounds, MASK_PX)
    return [_shown(alpha, bounds, block) for block in blocks]


def _shown(alpha: npt.NDArray[np.uint8], bounds: Bounds, block: Block) -> int:
    centres = np.array([patch.centre_mercator for patch in block.patches])  # (N, 2)
    height, width = alpha.shape
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
