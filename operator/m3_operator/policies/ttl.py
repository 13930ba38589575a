"""When a finished job is deleted."""

from __future__ import annotations

from datetime import datetime, timedelta


def delete_at(completion: datetime | None, ttl_seconds: int | None) -> datetime | None:
    if completion is None or ttl_seconds is None:
        return None
    return completion + timedelta(seconds=ttl_seconds)
