"""The time a job and an attempt may take. Ours rather than KubeRay's: an edit counts at once, and retries share one budget."""

from __future__ import annotations

from datetime import datetime, timedelta


def due(start: datetime | None, seconds: int | None) -> datetime | None:
    """When the time is over; None where there is no limit, or the clock has not started."""
    return start + timedelta(seconds=seconds) if start is not None and seconds is not None else None


def is_over(start: datetime | None, seconds: int | None, now: datetime) -> bool:
    end = due(start, seconds)
    return end is not None and now >= end
