"""Whether, and when, a failed attempt is followed by another."""

from __future__ import annotations

from datetime import datetime, timedelta

FIRST = timedelta(seconds=10)
LONGEST = timedelta(minutes=6)
"""10 s, 20 s, 40 s … 6 min: what a batch/v1 Job waits."""


def may_retry(failed_attempts: int, backoff_limit: int, retriable: bool) -> bool:
    return retriable and failed_attempts <= backoff_limit


def next_start(failed_attempts: int, ended_at: datetime) -> datetime:
    """When the next attempt may start, the newest of `failed_attempts` (≥ 1) having ended at `ended_at`."""
    doublings = min(failed_attempts - 1, 10)
    return ended_at + min(FIRST * 2**doublings, LONGEST)
