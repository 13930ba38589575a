"""What a RayJob says of itself, in our words. The only place that knows KubeRay's status vocabulary.

Success is `Complete` and `SUCCEEDED`: `Complete` alone is also what a stopped job ends with. jobDeploymentStatus wins over
jobStatus, which still reads RUNNING in some failures. `ValidationFailed` is terminal, though KubeRay does not list it so.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from m3_operator.api import labels as keys
from m3_operator.api.reasons import Reason

MARK = "M3_ERROR "
"""Starts the last line of a job that knows why it fails. Ray puts a job's last lines into the RayJob's message."""
TAIL = 1500
"""Characters kept of the output of a job that does not."""

Object = dict[str, Any]


class Stage(Enum):
    CREATED = 1
    CLUSTER_STARTING = 2
    JOB_STARTING = 3
    RUNNING = 4
    SUCCEEDED = 5
    FAILED = 6

    @property
    def is_final(self) -> bool:
        return self in (Stage.SUCCEEDED, Stage.FAILED)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended."""

    reason: str
    message: str
    retriable: bool = False
    """False for a fault of the user's, and for a wish of the user's."""


@dataclass(frozen=True, slots=True)
class Child:
    """A RayJob as far as a TrainingJob is concerned: some hundred bytes instead of its whole manifest."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    job: str
    """Name of the TrainingJob in its label."""
    owner_kind: str
    owner_name: str
    owner_uid: str
    is_deleting: bool
    is_settled: bool
    stage: Stage
    failure: Failure | None
    cluster_name: str | None
    job_id: str | None
    created_at: datetime | None
    running_since: datetime | None
    ended_at: datetime | None


def observe(rayjob: Object) -> Child:
    """Raises nothing for a RayJob that the API server has accepted, whatever is missing in it."""
    meta, status = rayjob.get("metadata", {}), rayjob.get("status") or {}
    labels = meta.get("labels") or {}
    owner = next((ref for ref in meta.get("ownerReferences") or () if ref.get("controller")), {})
    info = status.get("rayJobInfo") or {}
    stage = _stage(status)
    return Child(
        namespace=meta.get("namespace", ""),
        name=meta.get("name", ""),
        uid=meta.get("uid", ""),
        resource_version=meta.get("resourceVersion", "0"),
        job=labels.get(keys.JOB, ""),
        owner_kind=owner.get("kind", ""),
        owner_name=owner.get("name", ""),
        owner_uid=owner.get("uid", ""),
        is_deleting="deletionTimestamp" in meta,
        is_settled=labels.get(keys.SETTLED) == "true",
        stage=stage,
        failure=_failure(status) if stage is Stage.FAILED else None,
        cluster_name=status.get("rayClusterName") or None,
        job_id=status.get("jobId") or None,
        created_at=_time(meta.get("creationTimestamp")),
        running_since=_time(info.get("startTime")),
        ended_at=_time(status.get("endTime")) or _time(info.get("endTime")),
    )


def _stage(status: Object) -> Stage:
    match status.get("jobDeploymentStatus", ""), status.get("jobStatus", ""):
        case "Complete", "SUCCEEDED":
            return Stage.SUCCEEDED
        case (("Complete" | "Failed" | "ValidationFailed"), _):
            return Stage.FAILED
        case "Running", "RUNNING":
            return Stage.RUNNING
        # what a job that has just ended says for the moment until KubeRay says the same of its deployment
        case "Running", ("SUCCEEDED" | "FAILED" | "STOPPED"):
            return Stage.RUNNING
        case "Running", _:
            return Stage.JOB_STARTING
        case "", _:
            return Stage.CREATED
    return Stage.CLUSTER_STARTING


def _failure(status: Object) -> Failure:
    message = status.get("message") or ""
    if stated := stated_failure(message):
        return stated
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        return Failure(Reason.INVALID_RAY_JOB, f"KubeRay refuses the RayJob: {message}")
    if status.get("jobDeploymentStatus") == "Complete":
        return Failure(Reason.STOPPED, "the Ray job was stopped from outside; make a new TrainingJob to run it again")
    if status.get("reason") in (None, "", "AppFailed"):
        return Failure(Reason.JOB_CRASHED, _crash(message), retriable=True)
    return Failure(str(status["reason"]), message or "KubeRay gives no message", retriable=True)


def _crash(message: str) -> str:
    tail = message[-TAIL:].strip()
    ended = "the job's process ended without saying why (killed, or out of memory)"
    return f"{ended}; last output: {tail}" if tail else ended


def stated_failure(message: str) -> Failure | None:
    """The failure that the job itself has printed, if its line is whole."""
    lines = [line for line in message.splitlines() if line.startswith(MARK)]
    if not lines:
        return None
    try:
        stated = json.loads(lines[-1].removeprefix(MARK))
    except ValueError:
        return None
    if not isinstance(stated, dict) or not re.fullmatch("[A-Z][A-Za-z0-9]{0,63}", str(stated.get("reason"))):
        return None
    text = str(stated.get("message") or "")
    # our own errors speak for themselves; of a stranger's the class is half of what it says
    told = f"{stated.get('type')}: {text}" if stated["reason"] == "UserCodeFailed" else text
    return Failure(stated["reason"], told, retriable=stated.get("retriable") is True)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
