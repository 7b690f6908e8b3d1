"""Requests that carry an id are answered once: the same id again gets the same answer, without the work.

Remembered in the memory of one replica, for ten minutes and until 512 later ones have come; knows nothing of
what the work is.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import DeadlineExceeded, RequestIdReused

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestKey:
    """What makes a request the same request."""

    caller: str
    method: str
    request_id: str


@dataclass(kw_only=True, slots=True)
class _Entry(Generic[T]):
    content: bytes
    task: asyncio.Task[T]
    waiting: int
    began_s: float


class Once(Generic[T]):
    """Shares the work of equal requests, also while it is still going on. Errors are not remembered.

    Args:
        finish: True for work that changes something: it goes on when those who wait for it have left, so
            that it is never half known whether it was done. Otherwise it is cancelled with the last of them.
        most: answers remembered; bounds the memory, whatever `keep_s` is.
        keep_s: for how long at most, seconds.
    """

    def __init__(
        self,
        *,
        finish: bool,
        most: int = 512,
        keep_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._finish = finish
        self._most = most
        self._keep_s = keep_s
        self._clock = clock
        self._entries: OrderedDict[RequestKey, _Entry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    async def __call__(self, key: RequestKey, content: bytes, work: Callable[[], Awaitable[T]]) -> T:
        """The work's result, or that of the same request before.

        Raises:
            RequestIdReused: the id came before with another content.
        """
        self._forget_old()
        while True:
            entry = self._entries.get(key) or self._begin(key, content, work)
            if entry.content != content:
                raise RequestIdReused(key.request_id)
            try:
                return await self._wait_for(entry)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # The work went away with another who asked for it; here it is still wanted.
                self._drop(key, entry)

    async def within(
        self, timeout_s: float, key: RequestKey, content: bytes, work: Callable[[], Awaitable[T]]
    ) -> T:
        """The same, in the caller's own time: neither longer, nor less because another who asked had less.

        Raises:
            RequestIdReused: the id came before with another content.
            DeadlineExceeded: the time was up.
        """
        ours = False

        async def run() -> T:
            nonlocal ours
            ours = True
            return await work()

        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return await self(key, content, run)
                    except DeadlineExceeded:
                        if ours:
                            raise
        except TimeoutError as error:
            raise DeadlineExceeded(timeout_s) from error

    def _begin(self, key: RequestKey, content: bytes, work: Callable[[], Awaitable[T]]) -> _Entry[T]:
        async def run() -> T:
            return await work()

        task = asyncio.create_task(run())
        entry = _Entry(content=content, task=task, waiting=0, began_s=self._clock())
        self._entries[key] = entry
        task.add_done_callback(lambda done: self._drop_failed(key, entry, done))
        return entry

    async def _wait_for(self, entry: _Entry[T]) -> T:
        entry.waiting += 1
        try:
            return await asyncio.shield(entry.task)
        finally:
            entry.waiting -= 1
            if not entry.waiting and not self._finish:
                entry.task.cancel()  # without effect on what is done

    def _drop_failed(self, key: RequestKey, entry: _Entry[T], done: asyncio.Task[T]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._drop(key, entry)

    def _drop(self, key: RequestKey, entry: _Entry[T]) -> None:
        if self._entries.get(key) is entry:
            del self._entries[key]

    def _forget_old(self) -> None:
        now_s = self._clock()
        for key, entry in list(self._entries.items()):
            is_old = now_s - entry.began_s > self._keep_s or len(self._entries) >= self._most
            if not is_old:
                return  # entries stand in the order in which they began
            if entry.task.done():
                del self._entries[key]
