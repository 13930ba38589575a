"""Keys that wait for work: each at most once, each by one worker at a time, after a failure later and later.

kopf serialises by object, and a TrainingJob is woken by two kinds of objects and by the clock. So events only add a key here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from m3_operator.errors import OperatorError

logger = logging.getLogger(__name__)

KeyT = TypeVar("KeyT", bound=Hashable)

FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
PATIENCE = 5.0
"""Seconds that a key gives way to urgent ones."""
BURST = 10
"""So many urgent keys within a second are a burst."""


class Workqueue(Generic[KeyT]):
    """Belongs to one event loop."""

    def __init__(self, work: Callable[[KeyT], Awaitable[float | None]]) -> None:
        """`work` does what a key needs, and says after how many seconds it needs something again."""
        self._work = work
        self._urgent: deque[KeyT] = deque()
        self._calm: deque[KeyT] = deque()
        self._ready = asyncio.Semaphore(0)
        self._newest_urgent: deque[float] = deque(maxlen=BURST)
        self._waiting: dict[KeyT, tuple[float, deque[KeyT]]] = {}
        self._busy: set[KeyT] = set()
        self._timers: dict[KeyT, asyncio.TimerHandle] = {}
        self._failures: Counter[KeyT] = Counter()

    def __len__(self) -> int:
        """Keys that wait for a worker; without those that wait for a time."""
        return len(self._waiting)

    @property
    def is_in_a_burst(self) -> bool:
        """Whether urgent keys come thick and fast, or many still wait."""
        if len(self._newest_urgent) < BURST:
            return False
        return bool(self._urgent) or asyncio.get_running_loop().time() - self._newest_urgent[0] < 1.0

    def oldest(self) -> float:
        """Seconds that the first of them has waited."""
        since = min((since for since, _ in self._waiting.values()), default=None)
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def add(self, key: KeyT, urgent: bool = False) -> None:
        """Work on `key` soon; once, however often it is added before that. An urgent one goes before those that are not."""
        if key in self._waiting:
            return
        lane, now = (self._urgent if urgent else self._calm), asyncio.get_running_loop().time()
        self._waiting[key] = (now, lane)
        if urgent:
            self._newest_urgent.append(now)
        if key not in self._busy:
            self._queue(key, lane)

    def _queue(self, key: KeyT, lane: deque[KeyT]) -> None:
        lane.append(key)
        self._ready.release()

    def _next(self) -> KeyT:
        if not self._urgent or (self._calm and self._has_waited_long(self._calm[0])):
            return self._calm.popleft()
        return self._urgent.popleft()

    def _has_waited_long(self, key: KeyT) -> bool:
        since, _ = self._waiting[key]
        return asyncio.get_running_loop().time() - since > PATIENCE

    def add_after(self, key: KeyT, seconds: float) -> None:
        """Work on `key` in `seconds`; the soonest wish counts."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= when:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._ring, key)

    def _ring(self, key: KeyT) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def run(self, workers: int) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            await self._ready.acquire()
            key = self._next()
            self._waiting.pop(key)
            self._busy.add(key)
            try:
                await self._attend(key)
            finally:
                self._busy.discard(key)
            if key in self._waiting:
                self._queue(key, self._waiting[key][1])

    async def _attend(self, key: KeyT) -> None:
        # A task of its own, and its exception looked at instead of caught: one job's trouble, of whatever kind, must
        # not end the worker that all jobs share.
        task = asyncio.ensure_future(self._work(key))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._failed(key, error)
            return
        self._failures.pop(key, None)
        if (seconds := task.result()) is not None:
            self.add_after(key, seconds)

    def _failed(self, key: KeyT, error: BaseException) -> None:
        delay = min(FIRST_DELAY * 2 ** self._failures[key], LONGEST_DELAY)
        self._failures[key] += 1
        logger.warning(
            "%s: tried again in %g s: %s",
            key,
            delay,
            error,
            exc_info=None if isinstance(error, OperatorError) else error,
        )
        self.add_after(key, delay)
