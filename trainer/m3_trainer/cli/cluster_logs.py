"""A job's output: from its head's pod while it runs, from MLflow when it is over.

The job's process copies its lines to the container's log behind `[JOB/ATTEMPT] `: on a cluster that several jobs share they
are told apart by that, everywhere they are told apart from Ray's own lines.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from m3_trainer.cli.cluster_job import Job, Object, time_of
from m3_trainer.cli.cluster_mlflow import Missing, Mlflow
from m3_trainer.errors import InvalidSpec, TrackingUnavailable
from m3_trainer.kube import ClusterUnavailable, Kube, NotFound

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often a job that is followed is looked at."""
DRAIN_SECONDS = 3.0
"""Silence after the end of an attempt that is taken for the end of its log, where the pod lives on."""


@dataclass(frozen=True)
class Log:
    """The output of one attempt, and where it was found: `pod` or `mlflow`."""

    attempt: int
    source: str
    lines: list[str]


def read(kube: Kube, mlflow: Mlflow, job: Job, attempt: int | None, tail: int | None) -> Log:
    """What there is of an attempt's output, by default of the newest. Raises `NotFound`, `InvalidSpec`."""
    chosen = choose(job, attempt)
    number = chosen["number"]
    sources = [_from_pod, _from_mlflow] if not chosen.get("completionTime") else [_from_mlflow, _from_pod]
    reasons = []
    for source in sources:
        try:
            found = source(kube, mlflow, job, chosen)
            return Log(found.attempt, found.source, _last(found.lines, tail))
        except (Missing, NotFound, TrackingUnavailable) as error:
            reasons.append(error)
    if not chosen.get("completionTime"):
        raise NotFound(
            f"`{job.name}` runs, and has no log yet: {reasons[0]}" if job.has("Running") else no_log_yet(job)
        )
    outage = next((reason for reason in reasons if isinstance(reason, TrackingUnavailable)), None)
    if outage:
        raise outage
    raise NotFound(f"attempt {number} of `{job.name}` has left no log: {reasons[0]}{_ended_so(chosen)}")


def _ended_so(attempt: Object) -> str:
    told = f": {attempt['message']}" if attempt.get("message") else ""
    return f". It ended as {attempt['reason']}{told}" if attempt.get("reason") else ""


def choose(job: Job, number: int | None) -> Object:
    """An attempt of the job, by default the newest."""
    if not job.attempts:
        raise NotFound(no_log_yet(job))
    if number is None:
        return job.attempts[-1]
    found = next((each for each in job.attempts if each["number"] == number), None)
    if found is None:
        numbers = ", ".join(str(each["number"]) for each in job.attempts)
        raise InvalidSpec(f"--attempt: must be one of {numbers}, is {number}")
    return found


def no_log_yet(job: Job) -> str:
    """Why a job has no output: the operator's own words."""
    if job.has("Failed"):
        why = f"it failed before it ran ({job.telling['reason']}): {job.telling['message']}"
    elif job.is_unseen:
        why = "the operator has not seen it; m3 doctor says what is wrong"
    else:
        telling = job.telling
        why = f"{telling.get('message') or 'it has only just been made'} ({telling.get('reason') or 'Pending'})"
    return f"`{job.name}` has no log yet: {why}"


def _last(lines: Iterable[str], tail: int | None) -> list[str]:
    return list(lines if tail is None else deque(lines, maxlen=tail))


def _from_mlflow(_: Kube, mlflow: Mlflow, job: Job, attempt: Object) -> Log:
    text = mlflow.driver_log(job, attempt["number"])
    prefix = prefix_of(job, attempt["number"])
    return Log(attempt["number"], "mlflow", [line.removeprefix(prefix) for line in text.splitlines()])


def _from_pod(kube: Kube, _: Mlflow, job: Job, attempt: Object) -> Log:
    lines = [text for _, text in pod_lines(kube, job, attempt)]
    if not lines:
        raise NotFound(f"no line of attempt {attempt['number']} is in its pod's log")
    return Log(attempt["number"], "pod", lines)


# --- the head's pod ---------------------------------------------------------------------------------------------------
def prefix_of(job: Job, attempt: int) -> str:
    return f"[{job.name}/{attempt}] "


def head(kube: Kube, job: Job, attempt: Object) -> Object:
    """The pod in which an attempt's process runs: its own cluster's head, or that of the cluster it was sent to."""
    own = f"m3.dev/job={job.name},m3.dev/job-uid={job.uid},m3.dev/attempt={attempt['number']},ray.io/node-type=head"
    shared = f"ray.io/cluster={attempt.get('rayClusterName') or ''},ray.io/node-type=head"
    for selector in (own, *([shared] if attempt.get("rayClusterName") else ())):
        if pods := kube.pods(job.namespace, selector):
            return max(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
    raise NotFound(f"attempt {attempt['number']} of `{job.name}` has no pod")


def pod_lines(kube: Kube, job: Job, attempt: Object, follow: bool = False) -> Iterator[tuple[str, str]]:
    """Time and text of the attempt's lines in the head's log. A shared cluster's log may hold an older job of this name."""
    pod = head(kube, job, attempt)
    container = pod["spec"]["containers"][0]["name"]  # KubeRay's rule: Ray's own is the first
    prefix, start = prefix_of(job, attempt["number"]), time_of(attempt["startTime"])
    for moment, text in kube.pod_log(job.namespace, pod["metadata"]["name"], container, follow):
        if text.startswith(prefix) and _when(moment) >= start:
            yield moment, text.removeprefix(prefix)


def _when(moment: str) -> datetime:
    """A log's time has nanoseconds; Python's has microseconds."""
    return datetime.fromisoformat(moment).astimezone(UTC)


# --- following --------------------------------------------------------------------------------------------------------
def follow(
    kube: Kube, mlflow: Mlflow, namespace: str, name: str, attempt: int | None, tail: int | None
) -> Iterator[str]:
    """Lines as they come, across attempts, until the job is over; of one attempt alone where it is named."""
    number, told = attempt, ""
    while True:
        job = look(kube, namespace, name)
        if job.attempts and number is None:
            number = job.attempts[-1]["number"]
        current = next((each for each in job.attempts if each["number"] == number), None)
        if current:
            yield from _follow_attempt(kube, mlflow, job, current, tail)
            number, tail, told = current["number"] + 1, None, ""
            if attempt is not None:
                return
        elif job.is_finished or job.has("Suspended"):
            if not job.attempts:
                log.warning("%s", no_log_yet(job))
            return
        else:
            told = _say_once(told, job)
        time.sleep(0 if current else LOOK_SECONDS)


def look(kube: Kube, namespace: str, name: str) -> Job:
    return Job(kube.job(namespace, name), datetime.now(UTC))


def _say_once(told: str, job: Job) -> str:
    words = no_log_yet(job) if not job.attempts else f"`{job.name}`: {job.telling.get('message', '')}"
    if words != told:
        log.info("%s", words)
    return words


def _follow_attempt(kube: Kube, mlflow: Mlflow, job: Job, attempt: Object, tail: int | None) -> Iterator[str]:
    """Lines of one attempt until it is over. A connection that breaks is taken up after the last line that was seen."""
    last, told, seen = "", "", 0
    while True:
        over_before = bool(attempt.get("completionTime"))
        for moment, line in _new_lines(kube, job, attempt, last, tail if not last else None):
            last, seen = moment, seen + 1
            yield line
        job = look(kube, job.namespace, job.name)
        attempt = next((each for each in job.attempts if each["number"] == attempt["number"]), attempt)
        if over_before:
            break
        told = _say_once(told, job) if not seen else told
        if not attempt.get("completionTime"):
            time.sleep(LOOK_SECONDS)
    if not seen:  # shorter than one look, or over before this began
        yield from _kept(kube, mlflow, job, attempt, tail)


def _kept(kube: Kube, mlflow: Mlflow, job: Job, attempt: Object, tail: int | None) -> Iterator[str]:
    try:
        yield from read(kube, mlflow, job, attempt["number"], tail).lines
    except (NotFound, TrackingUnavailable) as error:
        log.warning("%s", error)


def _new_lines(kube: Kube, job: Job, attempt: Object, after: str, tail: int | None) -> Iterator[tuple[str, str]]:
    """Lines later than `after`, until the container ends, the line is cut, or the attempt is over and silent.

    A thread reads: on a shared cluster the log has no end, and somebody has to look whether the job has.
    """
    try:
        present = [pair for pair in pod_lines(kube, job, attempt) if pair[0] > after]
    except NotFound:
        return
    yield from present if tail is None else present[max(0, len(present) - tail) :]
    after = present[-1][0] if present else after
    if attempt.get("completionTime"):
        return
    lines: queue.Queue[tuple[str, str] | None] = queue.Queue()
    threading.Thread(target=_pump, args=(kube, job, attempt, lines), daemon=True).start()
    quiet_since = time.monotonic()
    while True:
        try:
            pair = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if _is_over(kube, job, attempt) and time.monotonic() - quiet_since > DRAIN_SECONDS:
                return
            continue
        if pair is None:
            return
        quiet_since = time.monotonic()
        if pair[0] > after:
            yield pair


def _pump(kube: Kube, job: Job, attempt: Object, lines: queue.Queue[tuple[str, str] | None]) -> None:
    try:
        for pair in pod_lines(kube, job, attempt, follow=True):
            lines.put(pair)
    except (NotFound, ClusterUnavailable) as error:
        log.debug("the log ends: %s", error)
    finally:
        lines.put(None)


def _is_over(kube: Kube, job: Job, attempt: Object) -> bool:
    try:
        now = look(kube, job.namespace, job.name)
    except (NotFound, ClusterUnavailable):
        return False
    found = next((each for each in now.attempts if each["number"] == attempt["number"]), {})
    return bool(found.get("completionTime")) or now.is_finished
