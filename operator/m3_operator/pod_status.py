"""Why a Ray cluster does not start, or what has killed it, from its pods and their events: pure.

KubeRay tells of the head alone, and not of what the scheduler says; so the pods are looked at, only those of jobs that wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from m3_operator.api import labels
from m3_operator.api.reasons import Reason

MOUNT_EVENT = "FailedMount"
UNPULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
MISCONFIGURED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
CREATING = "ContainerCreating"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why something does not go on, and what to do about it."""

    reason: str
    message: str


def diagnose(pods: Iterable[Object], events: Iterable[Object] = ()) -> dict[str, Diagnosis]:
    """What keeps each job waiting, by the job's uid; nothing of a job whose pods are merely on their way."""
    mounts = {event["involvedObject"].get("uid"): str(event.get("message", "")) for event in events}
    found: dict[str, Diagnosis] = {}
    # the head first: without it the workers wait in any case
    for pod in sorted(pods, key=lambda pod: _labels(pod).get("ray.io/node-type") != "head"):
        if trouble := _unscheduled(pod) or _container(pod) or _unmounted(pod, mounts):
            found.setdefault(_labels(pod).get(labels.JOB_UID, ""), trouble)
    return found


def is_creating(pod: Object) -> bool:
    """Whether it waits for its volumes, or is about to start: only events tell which."""
    return any(_waiting(status).get("reason") == CREATING for status in _containers(pod))


def memory_kill(pods: Iterable[Object]) -> Diagnosis | None:
    """The container that was killed at its memory limit, if one was."""
    for pod in pods:
        for status in _containers(pod):
            if _was_killed(status):
                return _out_of_memory(pod, status)
    return None


def _unscheduled(pod: Object) -> Diagnosis | None:
    conditions = pod.get("status", {}).get("conditions") or ()
    scheduled = next((each for each in conditions if each.get("type") == "PodScheduled"), {})
    if scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return None
    cure = "ask for less in `spec.ray`, or free or add a node"
    if "persistentvolumeclaim" in str(scheduled.get("message")):
        cure = "make the claim, or correct its name"
    return Diagnosis(Reason.UNSCHEDULABLE, f"{scheduled.get('message')} ({_name(pod)}): {cure}")


def _container(pod: Object) -> Diagnosis | None:
    for status in _containers(pod):
        waiting = _waiting(status)
        reason, told = waiting.get("reason", ""), waiting.get("message") or "no message"
        if reason in UNPULLED:
            cure = "correct `spec.image`, push the image, or name its registry's Secret in `spec.imagePullSecrets`"
            return Diagnosis(Reason.IMAGE_PULL_BACK_OFF, f"image {status.get('image')} of {_name(pod)}: {told}: {cure}")
        if reason in MISCONFIGURED:
            cure = "make it, or correct its name in the spec"
            return Diagnosis(Reason.CREATE_CONTAINER_CONFIG_ERROR, f"{told} ({_name(pod)}): {cure}")
        if _was_killed(status):
            return _out_of_memory(pod, status)
        if reason == "CrashLoopBackOff":
            code = _ended(status).get("exitCode")
            message = f"{status.get('name')} of {_name(pod)} ends with exit code {code}: see its log, kubectl logs {_name(pod)}"
            return Diagnosis(Reason.CRASH_LOOP_BACK_OFF, message)
    return None


def _unmounted(pod: Object, mounts: dict[Any, str]) -> Diagnosis | None:
    told = mounts.get(pod["metadata"].get("uid"))
    if told is None or not is_creating(pod):
        return None
    return Diagnosis(Reason.VOLUME_NOT_MOUNTED, f"{told} ({_name(pod)}): make it, or correct its name in the spec")


def _out_of_memory(pod: Object, status: Object) -> Diagnosis:
    limit = _memory_limit(pod, status.get("name", ""))
    role = "head" if _labels(pod).get("ray.io/node-type") == "head" else "workers"
    cure = f"raise `spec.ray.{role}.resources.limits.memory`, or train on fewer rows with `data.sampleSize`"
    return Diagnosis(
        Reason.OOM_KILLED, f"{status.get('name')} of {_name(pod)} was killed at its memory limit{limit}: {cure}"
    )


def _memory_limit(pod: Object, container: str) -> str:
    for spec in pod.get("spec", {}).get("containers", ()):
        if spec.get("name") == container:
            limit = (spec.get("resources", {}).get("limits") or {}).get("memory")
            return f" of {limit}" if limit else ""
    return ""


def _was_killed(status: Object) -> bool:
    return _ended(status).get("reason") == "OOMKilled"


def _ended(status: Object) -> Object:
    """How the container last ended."""
    for state in ("state", "lastState"):
        if ended := (status.get(state) or {}).get("terminated"):
            return ended
    return {}


def _waiting(status: Object) -> Object:
    return (status.get("state") or {}).get("waiting") or {}


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _labels(pod: Object) -> dict[str, str]:
    return pod["metadata"].get("labels") or {}


def _name(pod: Object) -> str:
    return pod["metadata"]["name"]
