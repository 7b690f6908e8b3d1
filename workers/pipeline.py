"""Pipelines on Ray Data: work out to a pool of actors, tables of vectors back.

Knows Ray; what an actor does with a block is `workers.embedding`. A fleet's images: `workers.fleet_pipeline`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from clnet_model.errors import ModelError
from spatial_index.errors import SpatialIndexError
from tiling.errors import TilingError
from workers.cluster import plan_actors, ray_cluster
from workers.embedding import BlockEmbedder, EmbedSettings, block_to_row
from workers.errors import WorkerError, WorkerLost
from workers.ingest_plan import KeyedBlock

MAX_BLOCKS_PER_CALL = (
    8  # reading ahead pays from a few blocks on; a call is also one step of the progress bar
)
OURS = (TilingError, ModelError, SpatialIndexError, WorkerError)
CALLS_PER_ACTOR = 12  # at least, so that actors finish together


def embed_on_ray(
    blocks: Iterable[KeyedBlock], settings: EmbedSettings, *, address: str | None = None
) -> Iterator[pa.Table]:
    """Read, cut and embed blocks in Ray actors; tables in no particular order, one row per patch.

    Args:
        address: see `ray_cluster`.

    Raises:
        tiling.errors.UnreadableSheet: a sheet fails to decode and `on_error` is "fail".
        ModelChanged: the checkpoint holds another model than the settings name.
        ClusterUnavailable: no Ray, or no free core.
        WorkerLost: an actor died and Ray could not replace it.
    """
    with ray_cluster(address):
        rows = [block_to_row(block) for block in blocks]
        per_call = rows_per_call(len(rows), most=MAX_BLOCKS_PER_CALL) if rows else 1
        yield from run_actors(rows, BlockEmbedder, {"settings": settings}, per_call=per_call)


def rows_per_call(rows: int, *, most: int) -> int:
    """As many as go well together, few enough for actors to finish together."""
    return max(1, min(most, -(-rows // (CALLS_PER_ACTOR * plan_actors(limit=rows).actors))))


def run_actors(
    rows: list[dict[str, Any]], actor: type, settings: dict[str, Any], *, per_call: int
) -> Iterator[pa.Table]:
    """The tables that actors make of rows, `per_call` rows a call. Ray must be connected.

    Raises:
        What the actors raise of ours; ClusterUnavailable, WorkerLost.
    """
    if rows:
        import ray.data  # noqa: PLC0415  after ray_cluster has set the environment
        from ray.exceptions import RayError  # noqa: PLC0415

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors arrive as exceptions
        plan = plan_actors(limit=len(rows))
        dataset = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // per_call)).map_batches(
            actor,
            fn_constructor_kwargs={**settings, "threads": plan.cores},
            batch_size=None,  # what from_items put together
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=plan.actors),
            num_cpus=plan.cores,
            num_gpus=plan.gpus,
        )
        try:
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        except RayError as exc:
            raise translated(exc) from exc


def translated(exc: BaseException) -> BaseException:
    """Our own error from under Ray's wrapping; a bug stays as Ray reports it, with the remote traceback."""
    from ray.exceptions import RayTaskError  # noqa: PLC0415

    inner: BaseException | None = exc
    while inner is not None:
        if isinstance(inner, OURS) and not isinstance(inner, RayTaskError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    if isinstance(exc, RayTaskError):
        return exc
    summary = str(exc).strip().splitlines()[0]
    return WorkerLost(f"a worker died ({summary}); free some memory and start the job again")
