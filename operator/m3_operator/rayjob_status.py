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
    SUSPENDED = 2
    CLUSTER_STARTING = 3
    JOB_STARTING = 4
    RUNNING = 5
    SUCCEEDED = 6
    FAILED = 7

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
    is_explained: bool
    """Whether the failure is the job's own word, or KubeRay's judgement of the manifest: pods could not tell more."""
    trouble: Failure | None
    """Why KubeRay cannot make the cluster's pods."""
    queue: str | None
    """Kueue's queue: Kueue alone suspends this RayJob and lets it run."""
    cluster_name: str | None
    head_pod: str | None
    cluster_ready_at: datetime | None
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
    stage = _stage(status, rayjob.get("spec", {}).get("suspend") is True)
    failure = _failure(status) if stage is Stage.FAILED else None
    cluster = status.get("rayClusterStatus") or {}
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
        failure=failure,
        is_explained=failure is not None and failure.reason not in UNEXPLAINED,
        trouble=_trouble(rayjob, status, cluster),
        queue=labels.get(keys.QUEUE),
        cluster_name=status.get("rayClusterName") or None,
        head_pod=(cluster.get("head") or {}).get("podName") or None,
        cluster_ready_at=_since(cluster, "RayClusterProvisioned"),
        job_id=status.get("jobId") or None,
        created_at=_time(meta.get("creationTimestamp")),
        running_since=_time(info.get("startTime")),
        ended_at=_time(status.get("endTime")) or _time(info.get("endTime")),
    )


def _stage(status: Object, suspend: bool) -> Stage:
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
        case (("Suspending" | "Suspended"), _):
            return Stage.SUSPENDED
        case "", _:
            return Stage.SUSPENDED if suspend else Stage.CREATED
    return Stage.CLUSTER_STARTING


UNEXPLAINED = (
    Reason.JOB_CRASHED,
    "SubmissionFailed",
    "JobStatusCheckTimeoutExceeded",
    "JobDeploymentStatusTransitionGracePeriodExceeded",
)
"""Ends of which KubeRay saw only the outside: a killed head looks like any of them."""


def _trouble(rayjob: Object, status: Object, cluster: Object) -> Failure | None:
    told = _condition(cluster, "ReplicaFailure")
    if told.get("status") == "True":
        text = " ".join(str(told.get("message", "")).split())
        return refused_by_kubernetes(text.removeprefix(str(told.get("reason"))).strip(), Reason.POD_REFUSED)
    # KubeRay writes an empty status where it has not found the cluster; a cluster that is there tells its generation
    if rayjob.get("spec", {}).get("clusterSelector") and cluster and not cluster.get("observedGeneration"):
        message = (
            f"RayCluster {status.get('rayClusterName')} is not there: make it, or correct `spec.ray.clusterSelector`"
        )
        return Failure(Reason.RAY_CLUSTER_NOT_FOUND, message, retriable=True)
    return None


def refused_by_kubernetes(message: str, otherwise: str) -> Failure:
    """Why something may not be made: a quota, which may have room later, or `otherwise`."""
    if "exceeded quota" not in message:
        return Failure(otherwise, message, retriable=True)
    cure = "ask for less in `spec.ray`, wait for other jobs to end, or raise the namespace's ResourceQuota"
    return Failure(Reason.QUOTA_EXCEEDED, f"{message}: {cure}", retriable=True)


def _condition(cluster: Object, kind: str) -> Object:
    return next((each for each in cluster.get("conditions") or () if each.get("type") == kind), {})


def _since(cluster: Object, kind: str) -> datetime | None:
    condition = _condition(cluster, kind)
    return _time(condition.get("lastTransitionTime")) if condition.get("status") == "True" else None


def _failure(status: Object) -> Failure:
    message = status.get("message") or ""
    if stated := stated_failure(message):
        return stated
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        return Failure(Reason.INVALID_RAY_JOB, f"KubeRay refuses the RayJob: {message}")
    if status.get("jobDeploymentStatus") == "Complete":
        return Failure(Reason.STOPPED, "the Ray job was stopped from outside; make a new TrainingJob to run it again")
    if OUT_OF_MEMORY.search(message):
        return Failure(Reason.OOM_KILLED, _out_of_memory(message))
    if status.get("reason") in (None, "", "AppFailed"):
        return Failure(Reason.JOB_CRASHED, _crash(message), retriable=True)
    return Failure(str(status["reason"]), message or "KubeRay gives no message", retriable=True)


OUT_OF_MEMORY = re.compile("running low on memory|memory usage threshold")
"""Ray's own watch over memory stops what uses most of it just before the kernel would."""


def _out_of_memory(message: str) -> str:
    used = re.search(r"was ([0-9.]+ ?[KMGT]?i?B)(?: used)? / ([0-9.]+ ?[KMGT]?i?B)", message)
    told = f"at {used[1]} of its memory limit of {used[2]}" if used else "at its memory limit"
    cure = "raise `spec.ray.head.resources.limits.memory`, or train on fewer rows with `data.sampleSize`"
    return f"Ray has stopped the job {told}: {cure}"


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
