"""What a person reads of a cluster's jobs on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from m3_trainer.cli.cluster_job import Job, Object, next_steps, time_of

COLUMNS = ("NAME", "STATUS", "PROGRESS", "METRIC", "MODEL", "ATTEMPT", "AGE")
UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def table(jobs: Sequence[Job], with_namespace: bool) -> str:
    """A line for each job, the columns of `kubectl get`."""
    lead = ("NAMESPACE",) if with_namespace else ()
    rows = [(*lead, *COLUMNS), *((*((job.namespace,) if lead else ()), *_row(job)) for job in jobs)]
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("   ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(job: Job) -> tuple[str, ...]:
    progress, model = job.status.get("progress") or {}, job.status.get("model") or {}
    percentage = progress.get("percentage")
    return (
        job.name,
        status_word(job),
        "" if percentage is None else f"{percentage} %",
        metric(progress),
        f"{model['name']}/{model['version']}" if model else "",
        str(job.attempts[-1]["number"]) if job.attempts else "",
        duration(job.age_seconds),
    )


def status_word(job: Job) -> str:
    """The state, and what it waits for where that needs somebody."""
    if job.is_unseen:
        return "Pending (not seen by the operator)"
    if job.has("Failed") or job.is_stuck:
        return f"{job.state} ({job.telling.get('reason')})"
    return job.state


def metric(progress: Object) -> str:
    metrics = progress.get("metrics") or ()
    return f"{metrics[0]['name']}={metrics[0]['value']:.4f}" if metrics else ""


def duration(seconds: float) -> str:
    """Two units at most, as kubectl: 45s, 3m12s, 2h5m, 4d3h."""
    left = max(0, int(seconds))
    for index, (unit, size) in enumerate(UNITS):
        if left >= size:
            smaller, small = UNITS[index + 1] if index + 1 < len(UNITS) else ("s", 1)
            rest = left % size // small
            return f"{left // size}{unit}" + (f"{rest}{smaller}" if rest else "")
    return f"{left}s"


# --- one job ----------------------------------------------------------------------------------------------------------
def job(job: Job) -> str:
    """Everything about one job, and what to do next."""
    parts = [_head(job), _conditions(job), _attempts(job), _metrics(job), _outcome(job), _next(job)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(job: Job) -> list[str]:
    lines = [f"TrainingJob {job.namespace}/{job.name}: {status_word(job)}, {duration(job.age_seconds)} old"]
    message = job.telling.get("message")
    if message:
        lines += [f"  {line}" for line in message.splitlines()]
    if told := progress(job):
        lines.append(f"  {told}")
    return lines


def progress(job: Job) -> str:
    """How far a running job is: `40 % done, about 35s left`."""
    found = job.status.get("progress") or {}
    if job.is_finished or found.get("percentage") is None:
        return ""
    left = found.get("estimatedRemainingSeconds")
    return f"{found['percentage']} % done" + (f", about {duration(left)} left" if left is not None else "")


def _conditions(job: Job) -> list[str]:
    conditions = job.status.get("conditions") or []
    if not conditions:
        return []
    rows = [("condition", "status", "reason", "since")]
    rows += [
        (each["type"], each["status"], each["reason"], _ago(job, each["lastTransitionTime"])) for each in conditions
    ]
    telling = job.telling
    others = [each for each in conditions if each.get("message") and each["type"] != telling.get("type")]
    return [*columns(rows).splitlines(), *(f"  {each['type']}: {each['message']}" for each in others)]


def _ago(job: Job, moment: str) -> str:
    return f"{duration((job.now - time_of(moment)).total_seconds())} ago"


def _attempts(job: Job) -> list[str]:
    if not job.attempts:
        return []
    rows = [("attempt", "RayJob", "took", "ended")]
    rows += [(str(each["number"]), each["rayJobName"], _took(job, each), _ended(job, each)) for each in job.attempts]
    return columns(rows).splitlines()


def _took(job: Job, attempt: Object) -> str:
    end = time_of(attempt["completionTime"]) if attempt.get("completionTime") else job.now
    return duration((end - time_of(attempt["startTime"])).total_seconds())


def _ended(job: Job, attempt: Object) -> str:
    if not attempt.get("completionTime"):
        return ""
    told = (attempt.get("message") or "").splitlines()
    is_told_above = job.telling.get("message") == attempt.get("message")
    return f"{attempt.get('reason') or ''}" + (f": {told[0][:100]}" if told and not is_told_above else "")


def _metrics(job: Job) -> list[str]:
    found = (job.status.get("progress") or {}).get("metrics") or ()
    return [f"  {each['name']:<28} {each['value']:.4f}" for each in found]


def _outcome(job: Job) -> list[str]:
    model, run = job.status.get("model") or {}, job.status.get("mlflow") or {}
    lines = []
    if model:
        aliases = f", alias {', '.join(model['aliases'])}" if model.get("aliases") else ""
        lines.append(f"model   {model['name']} version {model['version']} ({model['uri']}){aliases}")
    if run:
        lines.append(f"MLflow  {run.get('url') or 'run ' + run['runId']}")
    return lines


def _next(job: Job) -> list[str]:
    steps = next_steps(job)
    width = max(map(len, steps), default=0)
    return ["next:", *(f"  {what:<{width}}  {command}" for what, command in steps.items())] if steps else []


# --- while somebody waits ---------------------------------------------------------------------------------------------
def change(job: Job) -> str:
    """One line about a job that is being waited for; the same line where nothing worth a line has changed."""
    telling = job.telling
    message = (telling.get("message") or "").splitlines()
    parts = [status_word(job), progress(job), metric(job.status.get("progress") or {}) if job.has("Running") else ""]
    parts += [message[0]] if message and not job.has("Running") else []
    return f"{job.name}: " + ", ".join(filter(None, parts))


# --- doctor -----------------------------------------------------------------------------------------------------------
def finding(name: str, verdict: str, seen: str, cure: str) -> str:
    """One check, and its cure below it."""
    lead = f"{verdict:<9}{name:<15}"
    return f"{lead}{seen}" + (f"\n{'':<{len(lead)}}→ {cure}" if cure else "")
