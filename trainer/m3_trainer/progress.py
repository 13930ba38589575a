"""How far a job is, told rarely enough to cost nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
LINE_SECONDS = 15.0

Report = Callable[[float, int | None], None]
"""Takes the share of the job that is done, 0 to 1, and the seconds that are left, where that is known."""


class Watch(Protocol):
    """Somebody who looks on: a bar on a terminal, or a log."""

    def step(self, name: str) -> None:
        """A step begins."""
        ...

    def share(self, done: float, seconds_left: int | None) -> None:
        """As `Report`, and as often as there is news."""
        ...


class Lines:
    """A plain line each fifteen seconds: for logs, which keep everything that a bar would do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._step, self._last = clock, "", clock()

    def step(self, name: str) -> None:
        self._step, self._last = name, self._clock()

    def share(self, done: float, seconds_left: int | None) -> None:
        now = self._clock()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        left = "" if seconds_left is None else f", about {seconds_left} s left"
        log.info("%-20s %3.0f %%%s", self._step, done * 100, left)


class Progress:
    """Reports parts of a job at most every two seconds; the time left is what the done share took, projected."""

    def __init__(self, report: Report, clock: Callable[[], float] = time.monotonic, watch: Watch | None = None) -> None:
        self._report, self._clock, self._watch = report, clock, watch
        self._last = -PAUSE_SECONDS

    def part(self, start: float, end: float) -> Callable[[float], None]:
        """A function that takes the share of one part, which is `start` to `end` of the job.

        What is told first was done before, by an earlier attempt, and says nothing of how long the rest takes.
        """
        began, before = self._clock(), None

        def at(share: float) -> None:
            nonlocal before
            before, now = share if before is None else before, self._clock()
            if share <= before:
                return
            done, left = start + share * (end - start), round((now - began) * (1 - share) / (share - before))
            if self._watch:
                self._watch.share(done, left)
            if now - self._last >= PAUSE_SECONDS:
                self._last = now
                self._report(done, left)

        return at
