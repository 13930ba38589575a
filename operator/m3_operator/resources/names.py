"""Names and labels of what the operator makes."""

from __future__ import annotations

from m3_operator.api import labels as keys
from m3_operator.api.meta import ObjectMeta


def rayjob(job: ObjectMeta, attempt: int) -> str:
    """Name of an attempt's RayJob: the same each time it is asked for, so that a second POST meets the first.

    The uid's four digits tell it from one of a job that was deleted and made again under the same name.
    """
    return f"{job.name}-{job.uid.replace('-', '')[:4]}-{attempt}"


def labels(job: ObjectMeta, attempt: int) -> dict[str, str]:
    return {
        "app.kubernetes.io/managed-by": "m3",
        keys.JOB: job.name,
        keys.JOB_UID: job.uid,
        keys.ATTEMPT: str(attempt),
    }


def queue(job: ObjectMeta) -> dict[str, str]:
    """Kueue's label, where the job has it: for the RayJob alone, on a pod it would make Kueue manage each pod by itself."""
    name = (job.labels or {}).get(keys.QUEUE)
    return {keys.QUEUE: name} if name else {}
