"""From what is wished and what is observed to what to do: pure, and the same whatever woke it.

    TrainingJob ─┐
    Observed ────┼─→ reconcile() ─→ Plan(apply, settle, delete, status, events, requeue_after)
    now ─────────┘

A job is at one of three places, which its status tells:

    no attempt under way ─→ _begin   wait (suspended, backing off), give up, or make the next attempt's RayJob
    an attempt under way ─→ _follow  say how it stands; at its end: complete, fail, or _begin again
    finished             ─→ _finish  find the registered model; delete the job when its time is over
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from m3_operator.api.meta import Condition, ObjectMeta, changed, find, is_true
from m3_operator.api.reasons import ConditionType, Reason
from m3_operator.api.v1alpha1 import (
    Attempt,
    Display,
    Lineage,
    MetricValue,
    MlflowRun,
    Progress,
    RegisteredModel,
    TrainingJob,
    TrainingJobStatus,
)
from m3_operator.mlflow_run import MAX_METRICS, NoRun, Run
from m3_operator.policies import backoff, deadline, ttl
from m3_operator.rayjob_status import Child, Failure, Stage
from m3_operator.resources import names, rayjob
from m3_operator.settings import Settings

KEPT_ATTEMPTS = 10
MAX_MESSAGE = 4096
REFUSED_AGAIN = 15.0
NAME_AGAIN = 2.0
"""Seconds until a RayJob that was refused, or whose name is taken by one that is going, is asked for again."""

Object = dict[str, Any]
ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, for `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The state of the world, as far as this job is concerned."""

    settings: Settings
    child: Child | None = None
    """RayJob of the attempt under way, or the one that has the name of the next attempt's."""
    owner_is_alive: bool = True
    """Whether the owner of a child that is not ours is there to stay."""
    refusal: Failure | None = None
    """Why Kubernetes would not make the RayJob."""
    run: Run | NoRun = NoRun.NOT_ASKED
    """MLflow run of the newest attempt."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order. Doing it twice does no harm."""

    apply: tuple[Object, ...] = ()
    """RayJobs to POST."""
    settle: tuple[str, ...] = ()
    """Names of RayJobs that have ended: to be labelled, so that nobody lists them again."""
    delete: tuple[str, ...] = ()
    """Names of RayJobs to delete."""
    delete_job: bool = False
    """Delete the TrainingJob: its time to live is over."""
    status: Object | None = None
    """Merge patch of the status; None where it says everything already."""
    events: tuple[Event, ...] = ()
    """To be sent once the status is written."""
    requeue_after: float | None = None
    """Seconds until time itself changes what is to be done."""


def reconcile(job: TrainingJob, observed: Observed, now: datetime) -> Plan:
    """What to do for `job` at `now`. Raises nothing for a job that the schema accepts."""
    if job.metadata.deletion_timestamp is not None:
        return Plan()  # its RayJobs go with it, by ownerReference
    draft = _Draft(job.metadata, job.status or TrainingJobStatus(), observed, now)
    if draft.is_finished:
        _finish(draft, job)
    elif draft.attempt_under_way is not None:
        _follow(draft, job)
    else:
        _begin(draft, job)
    return draft.plan()


def refuse(meta: ObjectMeta, status: TrainingJobStatus, faults: list[str], observed: Observed, now: datetime) -> Plan:
    """What to do with a job that the API server has accepted and the models do not."""
    draft = _Draft(meta, status, observed, now)
    if draft.is_finished or meta.deletion_timestamp is not None:
        return Plan()
    failure = Failure(Reason.INVALID_SPEC, "; ".join(faults))
    if draft.attempt_under_way is not None:
        draft.delete_child()
        draft.end_attempt(failure)
    draft.fail(failure)
    draft.settle_if_done()
    return draft.plan()


def attempt_to_look_at(status: TrainingJobStatus | None) -> int:
    """Number of the attempt whose RayJob matters: the one under way, or the next; of a finished job, the last."""
    newest = status.attempts[-1] if status and status.attempts else None
    if newest is None:
        return 1
    ended = newest.completion_time is not None
    return newest.number + (ended and not _is_finished(status.conditions if status else ()))


def is_recorded(status: TrainingJobStatus | None) -> bool:
    """Whether an attempt is under way, so that its RayJob must be there."""
    return bool(status and status.attempts and status.attempts[-1].completion_time is None)


def wants_run(status: TrainingJobStatus | None, child: Child | None) -> bool:
    """Whether the MLflow run decides what comes next."""
    conditions = status.conditions if status else ()
    if is_true(conditions, ConditionType.COMPLETE):
        registered = find(conditions, ConditionType.REGISTERED)
        return registered is None or registered.status == "Unknown"
    return child is not None and child.stage is Stage.SUCCEEDED and not _is_finished(conditions)


# --- no attempt under way ---------------------------------------------------------------------------------------------
def _begin(draft: _Draft, job: TrainingJob) -> None:
    if job.spec.suspend:
        draft.suspend()
        return
    draft.resume()
    if deadline.is_over(draft.status.start_time, job.spec.active_deadline_seconds, draft.now):
        draft.fail(_deadline_exceeded(job))
        draft.settle_if_done()
        return
    start = _next_start(draft.status)
    if start is not None and draft.now < start:
        _back_off(draft, job, start)
        return
    _make_rayjob(draft, job)


def _next_start(status: TrainingJobStatus) -> datetime | None:
    newest = status.attempts[-1] if status.attempts else None
    if newest is None or newest.completion_time is None or newest.reason == Reason.SUSPENDED:
        return None
    return backoff.next_start(max(status.failed_attempts, 1), newest.completion_time)


def _back_off(draft: _Draft, job: TrainingJob, start: datetime) -> None:
    newest = draft.status.attempts[-1]
    retry = f"attempt {newest.number + 1} of {job.spec.backoff_limit + 1} starts at {start:%H:%M:%S} UTC"
    message = f"attempt {newest.number} failed, {newest.reason}: {newest.message}; {retry}"
    draft.condition(ConditionType.RUNNING, "False", Reason.BACKING_OFF, message)
    draft.wake_at(start)
    draft.wake_at(deadline.due(draft.status.start_time, job.spec.active_deadline_seconds))


def _make_rayjob(draft: _Draft, job: TrainingJob) -> None:
    child, refusal = draft.observed.child, draft.observed.refusal
    number = attempt_to_look_at(draft.status)
    if child is not None:
        _take_over(draft, job, child, number)
    elif refusal is None:
        draft.apply.append(rayjob.build(job, number, draft.observed.settings))
        draft.new_attempt(number, draft.now)
    elif refusal.retriable:
        draft.condition(ConditionType.RUNNING, "False", refusal.reason, refusal.message)
        draft.wake_in(REFUSED_AGAIN)
    else:
        draft.fail(refusal)
        draft.settle_if_done()


def _take_over(draft: _Draft, job: TrainingJob, child: Child, number: int) -> None:
    """The name of the next attempt's RayJob is taken: by us, before we could note it down, or by somebody else."""
    if child.owner_uid == job.metadata.uid and not child.is_deleting:
        draft.new_attempt(number, child.created_at or draft.now)
        _follow(draft, job)
    elif child.is_deleting or not draft.observed.owner_is_alive:
        message = f"RayJob {child.name} of a deleted TrainingJob is on its way out"
        draft.condition(ConditionType.RUNNING, "False", Reason.WAITING_FOR_NAME, message)
        draft.wake_in(NAME_AGAIN)
    else:
        cure = "delete it, then make this TrainingJob again"
        draft.fail(Failure(Reason.NAME_CONFLICT, f"RayJob {child.name} belongs to somebody else: {cure}"))
        draft.settle_if_done()


# --- an attempt under way ---------------------------------------------------------------------------------------------
def _follow(draft: _Draft, job: TrainingJob) -> None:
    child = draft.observed.child
    if child is None or child.owner_uid != job.metadata.uid:
        _end(draft, job, Failure(Reason.RAY_JOB_DELETED, "the attempt's RayJob was deleted", retriable=True))
    elif child.stage is Stage.SUCCEEDED:
        draft.complete()
        _register(draft, job)
    elif child.stage is Stage.FAILED:
        _end(draft, job, child.failure or Failure(Reason.JOB_CRASHED, "", retriable=True))
    elif stop := _reason_to_stop(draft, job, child):
        draft.delete_child()
        _end(draft, job, stop)
    else:
        _watch(draft, job, child)


def _reason_to_stop(draft: _Draft, job: TrainingJob, child: Child) -> Failure | None:
    attempt = draft.status.attempts[-1]
    if job.spec.suspend:
        return Failure(Reason.SUSPENDED, "stopped by `spec.suspend`", retriable=True)
    if deadline.is_over(draft.status.start_time, job.spec.active_deadline_seconds, draft.now):
        return _deadline_exceeded(job)
    waiting = child.stage is not Stage.RUNNING and attempt.running_time is None
    if waiting and deadline.is_over(attempt.start_time, job.spec.pre_running_deadline_seconds, draft.now):
        message = f"not running {job.spec.pre_running_deadline_seconds} s after its start (`preRunningDeadlineSeconds`)"
        return Failure(Reason.PRE_RUNNING_DEADLINE_EXCEEDED, message, retriable=True)
    return None


def _deadline_exceeded(job: TrainingJob) -> Failure:
    message = f"not complete {job.spec.active_deadline_seconds} s after the first attempt (`activeDeadlineSeconds`)"
    return Failure(Reason.DEADLINE_EXCEEDED, message)


def _end(draft: _Draft, job: TrainingJob, failure: Failure) -> None:
    draft.end_attempt(failure)
    if failure.reason == Reason.SUSPENDED or backoff.may_retry(
        draft.status.failed_attempts, job.spec.backoff_limit, failure.retriable
    ):
        draft.observed = Observed(draft.observed.settings)  # what was observed was the attempt that is over
        _begin(draft, job)
    else:
        draft.fail(failure)
        draft.settle_if_done()


_STAGES: dict[Stage, tuple[ConditionStatus, Reason, str]] = {
    Stage.CREATED: ("False", Reason.RAY_JOB_CREATED, "RayJob {child.name} waits for KubeRay"),
    Stage.CLUSTER_STARTING: ("False", Reason.CLUSTER_STARTING, "the Ray cluster of RayJob {child.name} starts"),
    Stage.JOB_STARTING: ("False", Reason.JOB_STARTING, "the Ray cluster is ready, the job starts"),
    Stage.RUNNING: ("True", Reason.JOB_RUNNING, "RayJob {child.name} runs"),
}


def _watch(draft: _Draft, job: TrainingJob, child: Child) -> None:
    status, reason, message = _STAGES[child.stage]
    draft.condition(ConditionType.RUNNING, status, reason, message.format(child=child))
    draft.note_child(child)
    if isinstance(run := draft.observed.run, Run):
        _note_run(draft, job, run)
        draft.progress(percentage=run.percentage, estimated_remaining_seconds=run.remaining_seconds)
    draft.wake_at(deadline.due(draft.status.start_time, job.spec.active_deadline_seconds))
    if draft.status.attempts[-1].running_time is None:
        start = draft.status.attempts[-1].start_time
        draft.wake_at(deadline.due(start, job.spec.pre_running_deadline_seconds))


# --- finished ---------------------------------------------------------------------------------------------------------
def _finish(draft: _Draft, job: TrainingJob) -> None:
    if wants_run(draft.status, None):
        _register(draft, job)
    draft.settle_child()
    draft.settle_if_done()
    over = ttl.delete_at(draft.status.completion_time, job.spec.ttl_seconds_after_finished)
    draft.delete_job = over is not None and draft.now >= over
    draft.wake_at(over)


def _register(draft: _Draft, job: TrainingJob) -> None:
    run = draft.observed.run
    if isinstance(run, Run):
        _note_run(draft, job, run)
        _note_model(draft, run)
    elif run is NoRun.NOT_FOUND:
        message = f"MLflow's experiment {job.spec.tracking.experiment_name} has no run of this job"
        draft.condition(ConditionType.REGISTERED, "False", Reason.RUN_NOT_FOUND, message)
    else:
        message = f"MLflow at {draft.observed.settings.tracking_uri} gives no answer; it is asked again"
        draft.condition(ConditionType.REGISTERED, "Unknown", Reason.TRACKING_UNAVAILABLE, message)
    draft.settle_if_done()


def _note_model(draft: _Draft, run: Run) -> None:
    if run.model_name is None or run.model_version is None:
        message = f"MLflow's run {run.run_id} names no model version"
        draft.condition(ConditionType.REGISTERED, "False", Reason.NO_MODEL_VERSION, message)
        return
    uri = f"models:/{run.model_name}/{run.model_version}"
    model = RegisteredModel(name=run.model_name, version=run.model_version, uri=uri)
    draft.update(model=model)
    draft.condition(ConditionType.REGISTERED, "True", Reason.MODEL_REGISTERED, uri)
    draft.event("Normal", Reason.MODEL_REGISTERED, uri)


def _note_run(draft: _Draft, job: TrainingJob, run: Run) -> None:
    base = draft.observed.settings.ui_url
    page = f"{base}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    lineage = Lineage(git_commit=run.git_commit, data_digest=run.data_digest, rows=run.rows, spec_hash=run.spec_hash)
    draft.update(
        mlflow=MlflowRun(experiment_id=run.experiment_id, run_id=run.run_id, url=page),
        lineage=lineage if lineage.dump() else None,
    )
    draft.progress(metrics=_metrics(run.metrics, job.spec.evaluation.metrics))


def _metrics(values: dict[str, float], first: tuple[str, ...]) -> tuple[MetricValue, ...]:
    order = [name for name in first if name in values] + [name for name in values if name not in first]
    return tuple(MetricValue(name=name, value=values[name]) for name in order[:MAX_METRICS])


# --- the status in the making -----------------------------------------------------------------------------------------
def _is_finished(conditions: tuple[Condition, ...]) -> bool:
    return is_true(conditions, ConditionType.COMPLETE) or is_true(conditions, ConditionType.FAILED)


@dataclass
class _Draft:
    """The plan while it is made. Policies above say what; this says what that means for status, actions and events."""

    meta: ObjectMeta
    before: TrainingJobStatus
    observed: Observed
    now: datetime
    status: TrainingJobStatus = field(init=False)
    apply: list[Object] = field(default_factory=list)
    settle: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    delete_job: bool = False
    events: list[Event] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.now.replace(microsecond=0)  # metav1.Time has whole seconds
        self.status = self.before.model_copy(update={"observed_generation": self.meta.generation})

    @property
    def is_finished(self) -> bool:
        return _is_finished(self.status.conditions)

    @property
    def attempt_under_way(self) -> Attempt | None:
        return self.status.attempts[-1] if is_recorded(self.status) else None

    def update(self, **fields: Any) -> None:
        self.status = self.status.model_copy(update=fields)

    def condition(self, kind: ConditionType, status: ConditionStatus, reason: str, message: str) -> None:
        new = Condition(
            type=kind.value,
            status=status,
            observed_generation=self.meta.generation,
            last_transition_time=self.now,
            reason=str(reason),
            message=message[:MAX_MESSAGE],
        )
        self.update(conditions=changed(self.status.conditions, new))

    def event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self.events.append(Event(kind, str(reason), message[:1000]))

    def wake_in(self, seconds: float) -> None:
        self.wakes.append(max(seconds, 0.0))

    def wake_at(self, time: datetime | None) -> None:
        if time is not None:
            # a second more: `now` is cut to whole seconds, and a wake that comes too early comes in vain
            self.wake_in((time - self.now).total_seconds() + 1.0)

    # attempts
    def new_attempt(self, number: int, start: datetime) -> None:
        name = names.rayjob(self.meta, number)
        attempt = Attempt(number=number, ray_job_name=name, start_time=start)
        attempts = (*self.status.attempts, attempt)[-KEPT_ATTEMPTS:]
        self.update(attempts=attempts, start_time=self.status.start_time or start, mlflow=None, progress=None)
        self.condition(ConditionType.RUNNING, "False", Reason.RAY_JOB_CREATED, f"RayJob {name} waits for KubeRay")
        self.event("Normal", Reason.RAY_JOB_CREATED, f"attempt {number}: RayJob {name}")

    def change_attempt(self, **fields: Any) -> None:
        *older, newest = self.status.attempts
        self.update(attempts=(*older, newest.model_copy(update=fields)))

    def note_child(self, child: Child) -> None:
        newest = self.status.attempts[-1]
        running = child.running_since or (self.now if child.stage is Stage.RUNNING else None)
        self.change_attempt(
            ray_cluster_name=child.cluster_name or newest.ray_cluster_name,
            job_id=child.job_id or newest.job_id,
            running_time=newest.running_time or running,
        )

    def end_attempt(self, failure: Failure) -> None:
        self._close_attempt(failure.reason, failure.message)
        if failure.reason == Reason.SUSPENDED:
            return
        self.update(failed_attempts=self.status.failed_attempts + 1)
        number = self.status.attempts[-1].number
        self.event("Warning", "AttemptFailed", f"attempt {number} failed, {failure.reason}: {failure.message}")

    def _close_attempt(self, reason: str, message: str | None) -> None:
        child = self.observed.child
        if child is not None and child.owner_uid == self.meta.uid:
            self.note_child(child)
        self.settle_child()
        ended = child.ended_at if child is not None and child.ended_at else self.now
        text = message[:MAX_MESSAGE] if message else None
        self.change_attempt(reason=str(reason), message=text, completion_time=ended)

    def settle_child(self) -> None:
        child = self.observed.child
        ours = child is not None and child.owner_uid == self.meta.uid and not child.is_settled
        if child is not None and ours and not child.is_deleting and child.name not in self.delete:
            self.settle.append(child.name)

    def delete_child(self) -> None:
        child = self.observed.child
        if child is not None and child.owner_uid == self.meta.uid and not child.is_deleting:
            self.delete.append(child.name)

    # the job
    def suspend(self) -> None:
        self.condition(
            ConditionType.SUSPENDED, "True", Reason.JOB_SUSPENDED, "nothing runs while `spec.suspend` is true"
        )
        self.condition(
            ConditionType.RUNNING, "False", Reason.JOB_SUSPENDED, "nothing runs while `spec.suspend` is true"
        )

    def resume(self) -> None:
        if is_true(self.status.conditions, ConditionType.SUSPENDED):
            self.condition(ConditionType.SUSPENDED, "False", Reason.JOB_RESUMED, "`spec.suspend` is false again")

    def complete(self) -> None:
        self._close_attempt(Reason.SUCCEEDED, None)
        number = self.status.attempts[-1].number
        message = f"attempt {number} has succeeded"
        self.condition(ConditionType.COMPLETE, "True", Reason.SUCCEEDED, message)
        self._finished()
        self.progress(percentage=100, estimated_remaining_seconds=None)
        self.event("Normal", "JobComplete", message)

    def fail(self, failure: Failure) -> None:
        self.condition(ConditionType.FAILED, "True", failure.reason, failure.message)
        self._finished()
        self.event("Warning", "JobFailed", f"{failure.reason}: {failure.message}")

    def _finished(self) -> None:
        self.condition(ConditionType.RUNNING, "False", Reason.FINISHED, "the job has finished")
        self.update(completion_time=self.now)

    def settle_if_done(self) -> None:
        registered = find(self.status.conditions, ConditionType.REGISTERED)
        known = registered is not None and registered.status != "Unknown"
        self.update(settled=self.is_finished and (known or is_true(self.status.conditions, ConditionType.FAILED)))

    def progress(self, **fields: Any) -> None:
        old = self.status.progress or Progress()
        new = old.model_copy(update=fields)
        if new != old:
            self.update(progress=new.model_copy(update={"last_updated_time": self.now}))

    # the outcome
    def plan(self) -> Plan:
        self.update(display=_display(self.status))
        patch = merge_patch(self.before.dump(), self.status.dump())
        return Plan(
            apply=tuple(self.apply),
            settle=tuple(self.settle),
            delete=tuple(self.delete),
            delete_job=self.delete_job,
            status=patch or None,
            events=tuple(self.events),
            requeue_after=min(self.wakes, default=None),
        )


_WORDS = {
    Reason.BACKING_OFF: "Retrying",
    Reason.CLUSTER_STARTING: "Starting",
    Reason.JOB_STARTING: "Starting",
}


def _display(status: TrainingJobStatus) -> Display:
    metrics = status.progress.metrics if status.progress else ()
    model = status.model
    return Display(
        status=_word(status.conditions),
        metric=f"{metrics[0].name}={metrics[0].value:.4f}" if metrics else None,
        model=f"{model.name}/{model.version}" if model else None,
    )


def _word(conditions: tuple[Condition, ...]) -> str:
    for kind in (ConditionType.FAILED, ConditionType.COMPLETE, ConditionType.SUSPENDED, ConditionType.RUNNING):
        if is_true(conditions, kind):
            return kind.value
    running = find(conditions, ConditionType.RUNNING)
    return next((word for reason, word in _WORDS.items() if running and running.reason == reason), "Pending")


def merge_patch(old: Object, new: Object) -> Object:
    """The JSON merge patch (RFC 7386) that makes `new` of `old`; empty where they are the same."""
    patch: Object = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_patch(before, value):
                patch[name] = inner
        elif name not in old or value != before:
            patch[name] = value
    return patch
