"""A request id is worked on once, however often and however concurrently it comes."""

from __future__ import annotations

import asyncio

import pytest

from serving.errors import DeadlineExceeded, RequestIdReused
from serving.once import Once, RequestKey

KEY = RequestKey(caller="a", method="m", request_id="1")


class Work:
    """Counts how often it begins and ends; waits until it may end."""

    def __init__(self, *, fails: int = 0) -> None:
        self.begun = self.ended = self.cancelled = 0
        self.may_end = asyncio.Event()
        self._fails = fails

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.begun <= self._fails:
            raise ValueError("not yet")
        self.ended += 1
        return self.begun


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_repeated_request_is_answered_from_memory():
    async def run():
        once, work = Once(finish=False), Work()
        work.may_end.set()
        return [await once(KEY, b"x", work) for _ in range(3)], work.begun

    assert asyncio.run(run()) == ([1, 1, 1], 1)


def test_requests_at_the_same_time_share_the_work():
    async def run():
        once, work = Once(finish=False), Work()
        tasks = [asyncio.create_task(once(KEY, b"x", work)) for _ in range(3)]
        await settled()
        work.may_end.set()
        return await asyncio.gather(*tasks), work.begun

    assert asyncio.run(run()) == ([1, 1, 1], 1)


def test_another_content_is_refused():
    async def run():
        once, work = Once(finish=False), Work()
        work.may_end.set()
        await once(KEY, b"x", work)
        with pytest.raises(RequestIdReused):
            await once(KEY, b"y", work)

    asyncio.run(run())


@pytest.mark.parametrize("field", ["caller", "method", "request_id"])
def test_keys_differ_in_every_part(field):
    async def run():
        once, work = Once(finish=False), Work()
        work.may_end.set()
        other = RequestKey(**{"caller": "a", "method": "m", "request_id": "1", field: "z"})
        return await once(KEY, b"x", work), await once(other, b"y", work)

    assert asyncio.run(run()) == (1, 2)


def test_an_error_is_not_remembered():
    async def run():
        once, work = Once(finish=False), Work(fails=1)
        work.may_end.set()
        with pytest.raises(ValueError, match="not yet"):
            await once(KEY, b"x", work)
        return await once(KEY, b"x", work)

    assert asyncio.run(run()) == 2


def test_work_that_nobody_waits_for_is_cancelled():
    async def run():
        once, work = Once(finish=False), Work()
        task = asyncio.create_task(once(KEY, b"x", work))
        await settled()
        task.cancel()
        await settled()
        return work.cancelled, len(once)

    assert asyncio.run(run()) == (1, 0)


def test_the_one_who_stays_gets_the_answer():
    async def run():
        once, work = Once(finish=False), Work()
        first, second = (asyncio.create_task(once(KEY, b"x", work)) for _ in range(2))
        await settled()
        first.cancel()
        await settled()
        work.may_end.set()
        return await second, work.begun, work.cancelled

    assert asyncio.run(run()) == (1, 1, 0)


def test_a_change_goes_on_without_those_who_asked_for_it():
    async def run():
        once, work = Once(finish=True), Work()
        task = asyncio.create_task(once(KEY, b"x", work))
        await settled()
        task.cancel()
        await settled()
        work.may_end.set()
        return await once(KEY, b"x", work), work.begun

    assert asyncio.run(run()) == (1, 1)


def test_what_is_old_is_forgotten():
    now = [0.0]

    async def run():
        once, work = Once(finish=False, keep_s=10.0, clock=lambda: now[0]), Work()
        work.may_end.set()
        first = await once(KEY, b"x", work)
        now[0] = 11.0
        return first, await once(KEY, b"x", work)

    assert asyncio.run(run()) == (1, 2)


def test_memory_is_bounded():
    async def run():
        once, work = Once(finish=False, most=10), Work()
        work.may_end.set()
        for number in range(100):
            await once(RequestKey(caller="a", method="m", request_id=str(number)), b"x", work)
        return len(once)

    assert asyncio.run(run()) <= 10


def test_who_joins_work_that_goes_on_waits_no_longer_than_they_said():
    async def run():
        once, work = Once(finish=False), Work()
        patient = asyncio.create_task(once.within(10.0, KEY, b"x", work))
        await settled()
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await once.within(0.05, KEY, b"x", work)
        work.may_end.set()
        return await patient, work.begun

    assert asyncio.run(run()) == (1, 1)


def test_who_joins_work_of_less_time_gets_their_own():
    async def hurried() -> int:
        await asyncio.sleep(0.05)
        raise DeadlineExceeded(0.05)

    async def run():
        once, work = Once(finish=False), Work()
        work.may_end.set()
        first = asyncio.create_task(once.within(1.0, KEY, b"x", hurried))
        await settled()
        second = await once.within(10.0, KEY, b"x", work)
        with pytest.raises(DeadlineExceeded):
            await first
        return second, work.begun

    assert asyncio.run(run()) == (1, 1)


def test_work_that_took_all_its_time_is_not_begun_again():
    async def run():
        begun = []

        async def late() -> int:
            begun.append(1)
            raise DeadlineExceeded(1.0)

        with pytest.raises(DeadlineExceeded):
            await Once(finish=False).within(10.0, KEY, b"x", late)
        return len(begun)

    assert asyncio.run(run()) == 1
