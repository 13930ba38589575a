"""Runs that MLflow still calls RUNNING though nothing runs any more: a process that was killed ends no run. Pure."""

from __future__ import annotations

from typing import Any

from m3_operator.api.reasons import Reason
from m3_operator.mlflow_run import Run

Object = dict[str, Any]

WISHED = (Reason.SUSPENDED, Reason.DEADLINE_EXCEEDED, Reason.RAY_JOB_DELETED, Reason.STOPPED)
"""Ends that somebody has asked for: MLflow calls such a run KILLED."""


def verdict(run: Run, job: Object | None) -> str | None:
    """What the RUNNING `run` is to be ended as, `job` being its TrainingJob if there is one; None while it may be alive."""
    if job is None or job["metadata"]["uid"] != run.job_uid or "deletionTimestamp" in job["metadata"]:
        return "KILLED"
    attempts = (job.get("status") or {}).get("attempts") or ()
    attempt = next((each for each in attempts if each["number"] == run.attempt), None)
    if attempt is None:
        # one of the forgotten attempts, or one that is too young to be written down
        return "FAILED" if attempts and run.attempt < attempts[0]["number"] else None
    if "completionTime" not in attempt:
        return None
    if attempt.get("reason") == Reason.SUCCEEDED:
        return "FINISHED"
    return "KILLED" if attempt.get("reason") in WISHED else "FAILED"
