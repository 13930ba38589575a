"""A TrainingJob as a person or a script wants to know it: pure, from the object that the API server gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]

CONDITIONS = (
    "Suspended", "QuotaReserved", "ClusterReady", "Running", "Complete", "Failed", "Registered", "Promoted",
)  # fmt: skip
UNSEEN_SECONDS = 20
"""An operator that is there writes a status within one resync of 10 s; twice that is no accident."""
FORWARDED = 5050
"""Port of this machine for the cluster's MLflow, as the chart's notes say it."""
NORMAL = frozenset({"ClusterStarting", "RayJobCreated", "JobStarting", "JobRunning", "Finished", "JobSuspended"})
"""Reasons of Running that need nobody."""
MENDED_IN_FILE = frozenset({"InvalidSpec", "InvalidData", "TrainingFailed", "UserCodeFailed", "OOMKilled"})


@dataclass(frozen=True)
class Job:
    """One TrainingJob; `now` is when it was looked at."""

    object: Object
    now: datetime

    @property
    def name(self) -> str:
        return self.object["metadata"]["name"]

    @property
    def namespace(self) -> str:
        return self.object["metadata"]["namespace"]

    @property
    def uid(self) -> str:
        return self.object["metadata"]["uid"]

    @property
    def status(self) -> Object:
        return self.object.get("status") or {}

    @property
    def attempts(self) -> list[Object]:
        return self.status.get("attempts") or []

    @property
    def age_seconds(self) -> float:
        return (self.now - time_of(self.object["metadata"]["creationTimestamp"])).total_seconds()

    def condition(self, kind: str) -> Object:
        """The condition of that type; empty where there is none yet."""
        return next((each for each in self.status.get("conditions") or () if each["type"] == kind), {})

    def has(self, kind: str) -> bool:
        return self.condition(kind).get("status") == "True"

    @property
    def is_finished(self) -> bool:
        return self.has("Complete") or self.has("Failed")

    @property
    def state(self) -> str:
        """Complete, Failed, Suspended, Running, Starting, Retrying or Pending."""
        if word := next((kind for kind in ("Failed", "Complete", "Suspended", "Running") if self.has(kind)), None):
            return word
        words = {"BackingOff": "Retrying", "ClusterStarting": "Starting", "JobStarting": "Starting"}
        return words.get(self.condition("Running").get("reason", ""), "Pending")

    @property
    def telling(self) -> Object:
        """The condition that says most about the job as it is."""
        kinds = ("Failed", "Complete", "Suspended", "Running")
        return next((self.condition(kind) for kind in kinds if self.has(kind)), self.condition("Running"))

    @property
    def is_unseen(self) -> bool:
        """The operator has said nothing about it, for longer than that takes."""
        return not self.status.get("conditions") and self.age_seconds > UNSEEN_SECONDS

    @property
    def is_stuck(self) -> bool:
        waits = self.condition("Running").get("reason") not in NORMAL
        return self.is_unseen or (not self.is_finished and bool(self.condition("Running")) and waits)


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# --- waiting ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """What waiting for a condition has come to: reached, out of reach for ever, or neither."""

    reached: bool = False
    impossible: bool = False


def judge(job: Job, wanted: str) -> Verdict:
    """Whether `wanted` is true of the job, or cannot become true any more.

    `Running` counts as reached by a job that has run and is over: whoever waits for it may look too late.
    """
    if job.has(wanted) or (wanted == "Running" and any(attempt.get("runningTime") for attempt in job.attempts)):
        return Verdict(reached=True)
    if job.has("Failed"):
        return Verdict(impossible=True)
    is_late = wanted in ("Registered", "Promoted")
    is_over = job.has("Complete") and (not is_late or bool(job.status.get("settled")))
    return Verdict(impossible=is_over)


# --- what to do next --------------------------------------------------------------------------------------------------
def next_steps(job: Job) -> dict[str, str]:
    """What a person would do now, and the command for it."""
    where = "" if job.namespace == "default" else f" -n {job.namespace}"
    if job.has("Complete"):
        return _after_success(job)
    if job.has("Failed"):
        return _after_failure(job, where)
    if job.has("Suspended"):
        return {"go on with it": f"m3 resume {job.name}{where}"}
    if job.is_unseen:
        return {"see why the operator does not take it up": f"m3 doctor{where}"}
    return _while_it_waits(job, where) if job.is_stuck else {"follow it": f"m3 logs -f {job.name}{where}"}


def _after_success(job: Job) -> dict[str, str]:
    uri, url = (job.status.get("model") or {}).get("uri"), (job.status.get("mlflow") or {}).get("url")
    steps = _ways_to(url) if url else {}
    server = f" --tracking-uri {_from_here(url).partition('/#/')[0]}" if url else ""
    return steps | ({"score with it": f"m3 predict {uri}{server} --features '[…]'"} if uri else {})


def _service_of(url: str) -> tuple[str, str, int] | None:
    """Name, namespace and port of the Service that an address leads to; None for one that is open to the world."""
    parts = urlsplit(url)
    names = (parts.hostname or "").split(".")
    return (names[0], names[1], parts.port or 80) if len(names) > 2 and names[2] == "svc" else None


def _from_here(url: str) -> str:
    """The address behind a port-forward, where it is one of the cluster's inside."""
    service = _service_of(url)
    return url if service is None else f"http://localhost:{FORWARDED}/{url.split('/', 3)[3]}"


def _ways_to(url: str) -> dict[str, str]:
    service = _service_of(url)
    if service is None:
        return {"look at it in MLflow": f"open {url}"}
    name, namespace, port = service
    return {
        "make MLflow reachable": f"kubectl port-forward -n {namespace} service/{name} {FORWARDED}:{port} &",
        "look at it in MLflow": f"open {_from_here(url)}",
    }


def _after_failure(job: Job, where: str) -> dict[str, str]:
    steps = {"read its output": f"m3 logs {job.name}{where}"} if job.attempts else {}
    mended = job.condition("Failed").get("reason") in MENDED_IN_FILE
    return steps | {
        "mend the file, and run it again" if mended else "run it again": f"m3 submit --replace -f FILE{where}"
    }


def _while_it_waits(job: Job, where: str) -> dict[str, str]:
    attempt = job.attempts[-1]["number"] if job.attempts else 1
    if job.condition("Running")["reason"] == "BackingOff":
        return {"read why the attempt failed": f"m3 logs {job.name} --attempt {attempt}{where}"}
    if job.condition("Running")["reason"] in ("KubeRayNotResponding", "RequestRefused", "QuotaExceeded"):
        return {"look at the cluster": f"m3 doctor{where}"}
    return {
        "look at its pods": f"kubectl describe pods -l m3.dev/job={job.name}{where}",
        "give it up": f"m3 cancel {job.name}{where}",
    }


# --- for scripts ------------------------------------------------------------------------------------------------------
def document(job: Job) -> Object:
    """The job as `--output json` tells it: docs/cli.md lists the keys."""
    telling, status = job.telling, job.status
    return {
        "name": job.name,
        "namespace": job.namespace,
        "uid": job.uid,
        "state": job.state,
        "reason": telling.get("reason"),
        "message": telling.get("message"),
        "created": job.object["metadata"]["creationTimestamp"],
        "started": status.get("startTime"),
        "finished": status.get("completionTime"),
        "conditions": status.get("conditions") or [],
        "attempts": job.attempts,
        "progress": status.get("progress"),
        "mlflow": status.get("mlflow"),
        "model": status.get("model"),
        "promotion": status.get("promotion"),
        "lineage": status.get("lineage"),
        "next": next_steps(job),
    }
