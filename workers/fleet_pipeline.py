"""A fleet's images on Ray: chunks out to actors, vectors and answers back.

Knows Ray; what an actor does with a chunk is `workers.fleet_actor`. Ray must be connected: see
`workers.cluster.ray_cluster`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from workers.cluster import free_cores
from workers.fleet_actor import (
    AnswerActor,
    FleetActor,
    answer_fleet_here,
    chunk_to_item,
    packed,
    split_by_number,
)
from workers.pipeline import rows_per_call, run_actors, translated

if TYPE_CHECKING:
    from workers.chunks import Chunks
    from workers.relocalize import Embedder, Localizer

CHUNKS_AT_ONCE = 2_000  # 128,000 rows of a manifest: what Ray has to keep at once
MOST_CHUNKS_PER_CALL = 4  # an actor reads ahead within a call; what a killed one had not given back is lost
CHUNKS_AHEAD = 2  # given to each answering actor, so that it never waits for us
RESTARTS = 3  # of an answering actor that dies


def embed_fleet_on_ray(
    chunks: Chunks, make_embedder: Callable[[int | None], Embedder], numbers: Sequence[int]
) -> Generator[tuple[int, pa.Table]]:
    """Read and embed chunks of a fleet's images in Ray actors; in no particular order.

    Raises:
        ModelError: the checkpoint cannot be read.
        ClusterUnavailable: no free core.
        WorkerLost: an actor died and Ray could not replace it.
    """
    for first in range(0, len(numbers), CHUNKS_AT_ONCE):
        items = [chunk_to_item(chunks, number) for number in numbers[first : first + CHUNKS_AT_ONCE]]
        per_call = rows_per_call(len(items), most=MOST_CHUNKS_PER_CALL)
        for table in run_actors(items, FleetActor, {"make_embedder": make_embedder}, per_call=per_call):
            yield from split_by_number(table)


def answer_fleet_on_ray(chunks: Chunks, localizer: Localizer) -> Generator[list[dict[str, Any]]]:
    """The answers of chunk after chunk, made on every free core; here, where the localizer cannot be sent.

    Raises:
        SpatialIndexError: the index cannot answer.
        ClusterUnavailable: no free core.
        WorkerLost: an actor died again and again.
    """
    if localizer.portable_bytes is None or len(chunks) == 1:
        yield from answer_fleet_here(chunks, localizer)
        return
    import ray  # noqa: PLC0415  takes 1 s
    from ray.exceptions import RayError  # noqa: PLC0415

    shared = ray.put(localizer)  # once on each machine; actors read its arrays where they lie
    make = ray.remote(AnswerActor).options(num_cpus=1, max_restarts=RESTARTS, max_task_retries=RESTARTS)
    actors: list[Any] = [make.remote(shared) for _ in range(free_cores(at_most=len(chunks)))]
    asked: deque[Any] = deque()
    try:
        for number in range(len(chunks)):
            actor = actors[number % len(actors)]
            rows, seen = packed(chunks.rows_table(number)), packed(chunks.get(number))
            asked.append(actor.answer.remote(rows, seen))
            if len(asked) >= CHUNKS_AHEAD * len(actors):
                yield ray.get(asked.popleft())
        while asked:
            yield ray.get(asked.popleft())
    except RayError as exc:
        raise translated(exc) from exc
    finally:
        for actor in actors:
            ray.kill(actor)
