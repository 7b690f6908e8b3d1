"""How many requests are let in at once; the others are refused at once, with a hint when to come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import Overloaded, Unready

SHORTEST_RETRY_S = 0.1
LONGEST_RETRY_S = 10.0
GLANCE_S = 0.02  # how often a closed room is looked into
MEMORY = 0.9  # the mean time of a request remembers about the last ten


class Admission:
    """Counts what is being worked on. A queue without end would only make every answer late."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._inside = 0
        self._is_closed = False
        self._mean_s = 0.5

    @property
    def is_closed(self) -> bool:
        """Nobody is let in any more."""
        return self._is_closed

    @property
    def inside(self) -> int:
        """Requests being worked on."""
        return self._inside

    @property
    def retry_after_s(self) -> float:
        """By then, half of what is inside now will be done."""
        return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, self._mean_s / 2))

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Room for one request while the block runs.

        Raises:
            Overloaded: there is none.
            Unready: the room is closed.
        """
        if self._is_closed:
            raise Unready
        if self._inside >= self._most:
            raise Overloaded(self.retry_after_s)
        self._inside += 1
        began_s = self._clock()
        try:
            yield
        finally:
            self._inside -= 1
            self._mean_s = MEMORY * self._mean_s + (1.0 - MEMORY) * (self._clock() - began_s)

    async def close(self, longest_s: float) -> int:
        """Let nobody in any more, and wait for those inside; how many are left after the time."""
        self._is_closed = True
        deadline_s = self._clock() + longest_s
        while self._inside and self._clock() < deadline_s:
            await asyncio.sleep(GLANCE_S)
        return self._inside
