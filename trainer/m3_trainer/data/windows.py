"""Counts and sums over a trailing window of time, per key."""

from __future__ import annotations

import numpy as np

DAY = 86_400


def trailing(
    key: np.ndarray, second: np.ndarray, value: np.ndarray, days: int, delay_days: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """For each row, count and sum of `value` over rows of its key in the window `(t - delay - days, t - delay]`.

    `second` must be ascending over all rows; rows of one key and one second count up to themselves, not beyond, so nothing
    is looked at that comes later in the data. Shapes: all `(n,)`; the count is int32, the sum float64. One sort and two
    binary searches over sorted numbers, instead of a loop over keys.
    """
    order = np.argsort(key, kind="stable")
    span = int(second[-1]) - int(second[0]) + (days + delay_days + 1) * DAY if len(second) else 1
    stamp = key[order].astype(np.int64) * (2 * span) + (second[order] - second[0] if len(second) else second)
    total = np.concatenate(([0.0], np.cumsum(value[order], dtype=np.float64)))
    end = np.searchsorted(stamp, stamp - delay_days * DAY, side="right") if delay_days else np.arange(1, len(order) + 1)
    start = np.searchsorted(stamp, stamp - (delay_days + days) * DAY, side="right")
    # A window that ends before the key's first row would reach into the key before it: the stamps of two keys are more than
    # one span apart, so both bounds then fall on the same row and the window is empty.
    count, sums = np.empty(len(order), dtype=np.int32), np.empty(len(order))
    count[order], sums[order] = end - start, total[end] - total[start]
    return count, sums
