"""Room for so many requests, and a hint for the others."""

from __future__ import annotations

import asyncio

import pytest

from serving.admission import Admission
from serving.errors import Overloaded, Unready


def test_what_is_too_much_is_refused_at_once():
    room = Admission(2)
    with room.enter(), room.enter():
        with pytest.raises(Overloaded):
            room.enter().__enter__()
        assert room.inside == 2
    assert room.inside == 0


def test_room_is_given_back_after_an_error():
    room = Admission(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="x"), room.enter():
            raise ValueError("x")
    assert room.inside == 0


def test_the_hint_grows_with_the_time_that_requests_take():
    now = [0.0]
    room = Admission(1, clock=lambda: now[0])
    hints = []
    for took_s in (0.01, 1.0, 8.0):
        for _ in range(60):
            with room.enter():
                now[0] += took_s
        hints.append(room.retry_after_s)
    assert hints == [pytest.approx(0.1), pytest.approx(0.5, rel=0.05), pytest.approx(4.0, rel=0.05)]


def test_a_closed_room_is_left_but_not_entered():
    async def close_while_busy() -> tuple[int, int]:
        room = Admission(2)
        with room.enter():
            closing = asyncio.create_task(room.close(5.0))
            await asyncio.sleep(0.05)
            assert not closing.done()
            with pytest.raises(Unready):
                room.enter().__enter__()
        return await closing, room.inside

    assert asyncio.run(close_while_busy()) == (0, 0)


def test_closing_a_room_does_not_wait_for_ever():
    async def close_in_vain() -> int:
        room = Admission(2)
        with room.enter():
            return await room.close(0.05)

    assert asyncio.run(close_in_vain()) == 1
