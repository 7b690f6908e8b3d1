"""Batches gather while the previous one is computed."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from serving.batching import Batcher


def rows(*values):
    return np.array(values, np.uint8)[:, None]


class Slow:
    """Doubles rows, once it is allowed to."""

    def __init__(self):
        self.batches = []
        self.allowed = threading.Event()
        self.started = threading.Event()

    def __call__(self, batch):
        self.batches.append(len(batch))
        self.started.set()
        assert self.allowed.wait(5)
        return batch.astype(np.float32) * 2


async def gathered(slow, requests, max_rows):
    """Send one request, and the others while it is being computed."""
    batcher = Batcher(slow, max_rows=max_rows)
    first = asyncio.create_task(batcher(requests[0]))
    await asyncio.to_thread(slow.started.wait, 5)
    others = [asyncio.create_task(batcher(request)) for request in requests[1:]]
    await asyncio.sleep(0)
    slow.allowed.set()
    return await asyncio.gather(first, *others)


def test_requests_share_a_batch_and_get_their_own_rows():
    slow = Slow()
    found = asyncio.run(gathered(slow, [rows(1), rows(2, 3), rows(4)], max_rows=8))
    assert slow.batches == [1, 3]
    assert [part.ravel().tolist() for part in found] == [[2], [4, 6], [8]]


def test_a_batch_stays_within_its_limit():
    slow = Slow()
    asyncio.run(gathered(slow, [rows(1), rows(2, 3), rows(4, 5), rows(6)], max_rows=3))
    assert slow.batches == [1, 2, 3]


def test_a_request_above_the_limit_is_a_batch_of_its_own():
    slow = Slow()
    asyncio.run(gathered(slow, [rows(1), rows(2, 3, 4, 5), rows(6)], max_rows=2))
    assert slow.batches == [1, 4, 1]


def test_a_failed_batch_fails_its_requests_and_no_others():
    def compute(batch):
        if batch[0, 0] == 0:
            raise ValueError("no")
        return batch.astype(np.float32)

    async def run():
        batcher = Batcher(compute, max_rows=4)
        with pytest.raises(ValueError, match="no"):
            await batcher(rows(0))
        return await batcher(rows(7))

    assert asyncio.run(run()).tolist() == [[7.0]]


def test_a_cancelled_request_is_not_computed():
    slow = Slow()

    async def run():
        batcher = Batcher(slow, max_rows=8)
        first = asyncio.create_task(batcher(rows(1)))
        await asyncio.to_thread(slow.started.wait, 5)
        gone, kept = asyncio.create_task(batcher(rows(2))), asyncio.create_task(batcher(rows(3)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        slow.allowed.set()
        await asyncio.gather(first, kept)

    asyncio.run(run())
    assert slow.batches == [1, 1]
