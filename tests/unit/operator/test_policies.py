"""Small decisions, with the clock passed in."""

from datetime import UTC, datetime, timedelta

import pytest

from m3_operator.policies import backoff, deadline, ttl

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("failed", "limit", "retriable", "expected"),
    [(1, 2, True, True), (2, 2, True, True), (3, 2, True, False), (1, 0, True, False), (1, 2, False, False)],
)
def test_backoff_limit_counts_retries(failed, limit, retriable, expected):
    assert backoff.may_retry(failed, limit, retriable) is expected


@pytest.mark.parametrize(("failed", "seconds"), [(1, 10), (2, 20), (3, 40), (6, 320), (7, 360), (100, 360)])
def test_pauses_double_up_to_six_minutes(failed, seconds):
    assert backoff.next_start(failed, NOON) == NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("start", "seconds", "now", "over"),
    {
        "before": (NOON, 60, NOON + timedelta(seconds=59), False),
        "at the moment": (NOON, 60, NOON + timedelta(seconds=60), True),
        "no limit": (NOON, None, NOON + timedelta(days=9), False),
        "not started": (None, 60, NOON, False),
    }.values(),
    ids=["before", "at", "unlimited", "not started"],
)
def test_deadline(start, seconds, now, over):
    assert deadline.is_over(start, seconds, now) is over


@pytest.mark.parametrize(
    ("completion", "seconds", "when"),
    [(NOON, 60, NOON + timedelta(seconds=60)), (NOON, 0, NOON), (NOON, None, None), (None, 60, None)],
)
def test_time_to_live(completion, seconds, when):
    assert ttl.delete_at(completion, seconds) == when
