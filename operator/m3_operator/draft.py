"""What is to be done, in the making: what a decision means for the status, the actions and the events. Pure.

`reconcile` and `outcome` decide; each of their sentences is a method here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from m3_operator.api.meta import Condition, ObjectMeta, changed, find, is_true
from m3_operator.api.reasons import ConditionType, Reason
from m3_operator.api.v1alpha1 import Attempt, Display, Progress, TrainingJobStatus
from m3_operator.mlflow_run import NoRun, RegisteredModel, Run
from m3_operator.pod_status import Diagnosis
from m3_operator.rayjob_status import Child, Failure, Stage
from m3_operator.resources import names
from m3_operator.settings import Settings

KEPT_ATTEMPTS = 10
MAX_MESSAGE = 4096

Object = dict[str, Any]
ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, for `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class AliasMove:
    """An alias that is to point at `version`, as long as it still points at `holder`."""

    model: str
    alias: str
    version: str
    holder: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a version's wish for an alias: to be written on the version, the alias moved where there is a `move`."""

    model: str
    version: str
    decision: str
    reason: str
    move: AliasMove | None = None


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
    diagnosis: Diagnosis | None = None
    """Why the attempt's pods do not start."""
    death: Diagnosis | None = None
    """What has killed one of the attempt's containers."""
    model: RegisteredModel | NoRun = NoRun.NOT_ASKED
    """The registered model whose alias is at stake."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order. Doing it twice does no harm."""

    apply: tuple[Object, ...] = ()
    """RayJobs to POST."""
    settle: tuple[str, ...] = ()
    """Names of RayJobs that have ended: to be labelled, so that nobody lists them again."""
    delete: tuple[str, ...] = ()
    """Names of RayJobs to delete."""
    verdict: Verdict | None = None
    """What to tell MLflow's registry."""
    delete_job: bool = False
    """Delete the TrainingJob: its time to live is over."""
    status: Object | None = None
    """Merge patch of the status; None where it says everything already."""
    events: tuple[Event, ...] = ()
    """To be sent once the status is written."""
    requeue_after: float | None = None
    """Seconds until time itself changes what is to be done."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do but to wait."""
        return self == Plan(requeue_after=self.requeue_after)


def is_finished(conditions: tuple[Condition, ...]) -> bool:
    return is_true(conditions, ConditionType.COMPLETE) or is_true(conditions, ConditionType.FAILED)


def is_recorded(status: TrainingJobStatus | None) -> bool:
    """Whether an attempt is under way, so that its RayJob must be there."""
    return bool(status and status.attempts and status.attempts[-1].completion_time is None)


@dataclass
class Draft:
    """A plan while it is made."""

    meta: ObjectMeta
    before: TrainingJobStatus
    observed: Observed
    now: datetime
    wants_promotion: bool = False
    status: TrainingJobStatus = field(init=False)
    apply: list[Object] = field(default_factory=list)
    settle: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    delete_job: bool = False
    events: list[Event] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.now.replace(microsecond=0)  # metav1.Time has whole seconds
        self.status = self.before.model_copy(update={"observed_generation": self.meta.generation})

    @property
    def is_finished(self) -> bool:
        return is_finished(self.status.conditions)

    @property
    def attempt_under_way(self) -> Attempt | None:
        return self.status.attempts[-1] if is_recorded(self.status) else None

    @property
    def own_child(self) -> Child | None:
        child = self.observed.child
        return child if child is not None and child.owner_uid == self.meta.uid else None

    def update(self, **fields: Any) -> None:
        self.status = self.status.model_copy(update=fields)

    def find(self, kind: ConditionType) -> Condition | None:
        return find(self.status.conditions, kind)

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
    def new_attempt(self, number: int, start: datetime, queue: str | None) -> None:
        name = names.rayjob(self.meta, number)
        attempts = (*self.status.attempts, Attempt(number=number, ray_job_name=name, start_time=start))
        self.update(attempts=attempts[-KEPT_ATTEMPTS:], mlflow=None, progress=None)
        if queue is None:
            self.started(start)
            self.waits(Reason.CLUSTER_STARTING, f"the Ray cluster of RayJob {name} starts")
        else:
            self.waits_for_quota(queue)
        self.event("Normal", "RayJobCreated", f"attempt {number}: RayJob {name}")

    def started(self, at: datetime) -> None:
        """The clock of `activeDeadlineSeconds` starts, once."""
        self.update(start_time=self.status.start_time or at)

    def change_attempt(self, **fields: Any) -> None:
        *older, newest = self.status.attempts
        self.update(attempts=(*older, newest.model_copy(update=fields)))

    def note_child(self, child: Child) -> None:
        newest = self.status.attempts[-1]
        running = child.running_since or (self.now if child.stage is Stage.RUNNING else None)
        self.change_attempt(
            ray_cluster_name=child.cluster_name or newest.ray_cluster_name,
            head_pod_name=newest.head_pod_name or (child.head_pod if child.stage is Stage.RUNNING else None),
            job_id=child.job_id or newest.job_id,
            running_time=newest.running_time or running,
        )

    def end_attempt(self, failure: Failure) -> None:
        self.close_attempt(failure.reason, failure.message)
        if failure.reason == Reason.SUSPENDED:
            return
        self.update(failed_attempts=self.status.failed_attempts + 1)
        number = self.status.attempts[-1].number
        self.event("Warning", "AttemptFailed", f"attempt {number} failed, {failure.reason}: {failure.message}")

    def close_attempt(self, reason: str, message: str | None) -> None:
        child = self.own_child
        if child is not None:
            self.note_child(child)
        self.settle_child()
        ended = child.ended_at if child is not None and child.ended_at else self.now
        text = message[:MAX_MESSAGE] if message else None
        self.change_attempt(reason=str(reason), message=text, completion_time=ended)
        self.condition(ConditionType.CLUSTER_READY, "False", Reason.ATTEMPT_ENDED, "no attempt is under way")
        if self.find(ConditionType.QUOTA_RESERVED) is not None:
            self.condition(ConditionType.QUOTA_RESERVED, "False", Reason.ATTEMPT_ENDED, "no attempt is under way")

    def settle_child(self) -> None:
        child = self.own_child
        if child is None or child.is_settled or child.is_deleting or child.name in self.delete:
            return
        self.settle.append(child.name)

    def delete_child(self) -> None:
        child = self.own_child
        if child is not None and not child.is_deleting:
            self.delete.append(child.name)

    # how an attempt under way stands
    def waits(self, reason: str, message: str) -> None:
        """Neither cluster nor job are there yet."""
        self.condition(ConditionType.CLUSTER_READY, "False", reason, message)
        self.condition(ConditionType.RUNNING, "False", reason, message)

    def waits_for_quota(self, queue: str) -> None:
        message = f"waits for quota in Kueue's queue {queue}"
        self.condition(ConditionType.QUOTA_RESERVED, "False", Reason.WAITING_FOR_QUOTA, message)
        self.waits(Reason.WAITING_FOR_QUOTA, message)

    def is_stuck(self, reason: str, message: str) -> None:
        """It waits for what does not come by itself. Told once: the words for it may change with every try."""
        before = self.find(ConditionType.RUNNING)
        if before is None or before.reason != reason:
            self.event("Warning", reason, message)
        elif reason != Reason.UNSCHEDULABLE:
            message = before.message
        self.waits(reason, message)

    def has_cluster(self, message: str) -> None:
        self.condition(ConditionType.CLUSTER_READY, "True", Reason.CLUSTER_PROVISIONED, message)

    # the job
    def suspend(self) -> None:
        message = "nothing runs while `spec.suspend` is true"
        self.condition(ConditionType.SUSPENDED, "True", Reason.JOB_SUSPENDED, message)
        self.condition(ConditionType.RUNNING, "False", Reason.JOB_SUSPENDED, message)

    def resume(self) -> None:
        if is_true(self.status.conditions, ConditionType.SUSPENDED):
            self.condition(ConditionType.SUSPENDED, "False", Reason.JOB_RESUMED, "`spec.suspend` is false again")

    def complete(self, message: str) -> None:
        self.close_attempt(Reason.SUCCEEDED, None)
        self.condition(ConditionType.COMPLETE, "True", Reason.SUCCEEDED, message)
        self._finished()
        self.progress(percentage=100, estimated_remaining_seconds=None)
        self.event("Normal", "JobComplete", message)

    def fail(self, failure: Failure) -> None:
        self.condition(ConditionType.FAILED, "True", failure.reason, failure.message)
        self._finished()
        self.settle_if_done()
        self.event("Warning", "JobFailed", f"{failure.reason}: {failure.message}")

    def _finished(self) -> None:
        self.condition(ConditionType.RUNNING, "False", Reason.FINISHED, "the job has finished")
        self.update(completion_time=self.now)

    def settle_if_done(self) -> None:
        asked = [ConditionType.REGISTERED] + [ConditionType.PROMOTED] * self.wants_promotion
        known = all((found := self.find(kind)) is not None and found.status != "Unknown" for kind in asked)
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
            verdict=self.verdict,
            delete_job=self.delete_job,
            status=patch or None,
            events=tuple(self.events),
            requeue_after=min(self.wakes, default=None),
        )


_WORDS = {
    Reason.BACKING_OFF: "Retrying",
    Reason.CLUSTER_STARTING: "Starting",
    Reason.JOB_STARTING: "Starting",
    Reason.WAITING_FOR_QUOTA: "Queued",
}
"""For a user's eye; of every other reason to wait, the reason itself is the word to look for."""


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
    if running is None:
        return "Pending"
    return next((word for reason, word in _WORDS.items() if running.reason == reason), running.reason)


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
