"""Dynamic batching without a waiting time: while one batch is computed, the next one gathers.

A lone client never waits for company, and under load batches grow to what arrives during one computation. (A
fixed wait, as in `serve.batch`, must choose: 20 ms fill batches and cost every lone request 20 ms.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]


class Batcher:
    """Runs a function of stacked rows in a thread, one batch at a time.

    Args:
        compute: (N, ...) -> (N, ...), row by row independent.
        max_rows: most rows in a batch; a longer request makes a batch of its own.
    """

    def __init__(self, compute: Callable[[Pixels], Vectors], *, max_rows: int) -> None:
        self._compute = compute
        self._max_rows = max_rows
        self._waiting: deque[tuple[Pixels, asyncio.Future[Vectors]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, rows: Pixels) -> Vectors:
        """The results of these rows; cancelling the call takes them out of the queue."""
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while batch := self._next_batch():
            futures = [future for _, future in batch]
            try:
                results = await asyncio.to_thread(self._compute, np.concatenate([rows for rows, _ in batch]))
            except Exception as error:
                for future in futures:
                    _settle(future, error)
                continue
            ends = np.cumsum([len(rows) for rows, _ in batch])
            for future, part in zip(futures, np.split(results, ends[:-1]), strict=True):
                _settle(future, part)

    def _next_batch(self) -> list[tuple[Pixels, asyncio.Future[Vectors]]]:
        batch: list[tuple[Pixels, asyncio.Future[Vectors]]] = []
        count = 0
        while self._waiting:
            rows, future = self._waiting[0]
            if batch and count + len(rows) > self._max_rows:
                break
            self._waiting.popleft()
            if not future.cancelled():
                batch.append((rows, future))
                count += len(rows)
        return batch


def _settle(future: asyncio.Future[Vectors], outcome: Vectors | Exception) -> None:
    if future.done():  # the caller has gone
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
