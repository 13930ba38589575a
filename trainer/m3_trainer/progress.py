"""How far a job is, told rarely enough to cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE_SECONDS = 2.0

Report = Callable[[float, int | None], None]
"""Takes the share of the job that is done, 0 to 1, and the seconds that are left, where that is known."""


class Progress:
    """Reports parts of a job at most every two seconds; the time left is what the done share took, projected."""

    def __init__(self, report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._clock = report, clock
        self._last = -PAUSE_SECONDS

    def part(self, start: float, end: float) -> Callable[[float], None]:
        """A function that takes the share of one part, which is `start` to `end` of the job.

        What is told first was done before, by an earlier attempt, and says nothing of how long the rest takes.
        """
        began, before = self._clock(), None

        def at(share: float) -> None:
            nonlocal before
            before, now = share if before is None else before, self._clock()
            if share <= before or now - self._last < PAUSE_SECONDS:
                return
            self._last = now
            self._report(start + share * (end - start), round((now - began) * (1 - share) / (share - before)))

        return at
