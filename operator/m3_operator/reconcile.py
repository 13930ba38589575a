"""From what is wished and what is observed to what to do: pure, and the same whatever woke it.

    TrainingJob ─┐
    Observed ────┼─→ reconcile() ─→ Plan(apply, settle, delete, verdict, status, events, requeue_after)
    now ─────────┘

A job is at one of three places, which its status tells:

    no attempt under way ─→ _begin   wait (suspended, backing off), give up, or make the next attempt's RayJob
    an attempt under way ─→ _follow  say how it stands; at its end: complete, fail, or _begin again
    finished             ─→ _finish  find the registered model, move its alias; delete the job when its time is over

What each decision means for the status is in `draft`, what a complete job has brought in `outcome`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from m3_operator.api.labels import QUEUE
from m3_operator.api.meta import ObjectMeta, is_true
from m3_operator.api.reasons import ConditionType, Reason
from m3_operator.api.v1alpha1 import Attempt, TrainingJob, TrainingJobStatus
from m3_operator.draft import Draft, Observed, Plan, is_finished, is_recorded
from m3_operator.mlflow_run import Run
from m3_operator.outcome import note_run, register
from m3_operator.pod_status import Diagnosis
from m3_operator.policies import backoff, deadline, ttl
from m3_operator.rayjob_status import Child, Failure, Stage
from m3_operator.resources import rayjob

REFUSED_AGAIN = 15.0
NAME_AGAIN = 2.0
"""Seconds until a RayJob that was refused, or whose name is taken by one that is going, is asked for again."""
PASSING = timedelta(seconds=5)
"""A stage that is over sooner is not worth a write of its own: a job that starts well is written down twice, not five times."""
UNANSWERED = timedelta(seconds=60)
"""After which a RayJob that nobody has taken up is worth a word: KubeRay needs half of it for a thousand at once."""


def reconcile(job: TrainingJob, observed: Observed, now: datetime) -> Plan:
    """What to do for `job` at `now`. Raises nothing for a job that the schema accepts."""
    if job.metadata.deletion_timestamp is not None:
        return Plan()  # its RayJobs go with it, by ownerReference
    draft = Draft(
        job.metadata, job.status or TrainingJobStatus(), observed, now, job.spec.registry.promotion is not None
    )
    if draft.is_finished:
        _finish(draft, job)
    elif draft.attempt_under_way is not None:
        _follow(draft, job)
    else:
        _begin(draft, job)
    if draft.is_finished:
        _expire(draft, job)
    return draft.plan()


def refuse(meta: ObjectMeta, status: TrainingJobStatus, faults: list[str], observed: Observed, now: datetime) -> Plan:
    """What to do with a job that the API server has accepted and the models do not."""
    draft = Draft(meta, status, observed, now)
    if draft.is_finished or meta.deletion_timestamp is not None:
        return Plan()
    failure = Failure(Reason.INVALID_SPEC, "; ".join(faults))
    if draft.attempt_under_way is not None:
        draft.delete_child()
        draft.end_attempt(failure)
    draft.fail(failure)
    return draft.plan()


def attempt_to_look_at(status: TrainingJobStatus | None) -> int:
    """Number of the attempt whose RayJob matters: the one under way, or the next; of a finished job, the last."""
    newest = status.attempts[-1] if status and status.attempts else None
    if newest is None:
        return 1
    ended = newest.completion_time is not None
    return newest.number + (ended and not is_finished(status.conditions if status else ()))


def wants_run(status: TrainingJobStatus | None, child: Child | None) -> bool:
    """Whether the MLflow run decides what comes next: at an attempt's end, and until all of its outcome is known."""
    if status is not None and is_finished(status.conditions):
        return is_true(status.conditions, ConditionType.COMPLETE) and not status.settled
    if child is None:
        return is_recorded(status)
    return child.stage.is_final or _head_was_replaced(_newest(status), child)


def wants_pods(status: TrainingJobStatus | None, child: Child | None) -> bool:
    """Whether an attempt has ended in a way that only its pods may explain."""
    if not is_recorded(status) or child is None:
        return False
    return (child.stage is Stage.FAILED and not child.is_explained) or _head_was_replaced(_newest(status), child)


def wants_nothing(meta: ObjectMeta, status: TrainingJobStatus | None, child: Child | None) -> bool:
    """Whether what the watches and the resync tell is all that a decision needs."""
    is_ours = child is None or child.owner_uid == meta.uid
    is_there = child is not None or not is_recorded(status)
    return is_ours and is_there and not wants_run(status, child) and not wants_pods(status, child)


def _newest(status: TrainingJobStatus | None) -> Attempt | None:
    return status.attempts[-1] if status and is_recorded(status) else None


# --- no attempt under way ---------------------------------------------------------------------------------------------
def _begin(draft: Draft, job: TrainingJob) -> None:
    if job.spec.suspend:
        draft.suspend()
        return
    draft.resume()
    if deadline.is_over(draft.status.start_time, job.spec.active_deadline_seconds, draft.now):
        draft.fail(_deadline_exceeded(job))
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


def _back_off(draft: Draft, job: TrainingJob, start: datetime) -> None:
    newest = draft.status.attempts[-1]
    retry = f"attempt {newest.number + 1} of {job.spec.backoff_limit + 1} starts at {start:%H:%M:%S} UTC"
    message = f"attempt {newest.number} failed, {newest.reason}: {newest.message}; {retry}"
    draft.condition(ConditionType.RUNNING, "False", Reason.BACKING_OFF, message)
    draft.wake_at(start)
    draft.wake_at(deadline.due(draft.status.start_time, job.spec.active_deadline_seconds))


def _make_rayjob(draft: Draft, job: TrainingJob) -> None:
    child, refusal = draft.observed.child, draft.observed.refusal
    number = attempt_to_look_at(draft.status)
    if child is not None:
        _take_over(draft, job, child, number)
    elif refusal is None:
        draft.apply.append(rayjob.build(job, number, draft.observed.settings))
        draft.new_attempt(number, draft.now, (job.metadata.labels or {}).get(QUEUE))
        _wake_in_time(draft, job)
        draft.wake_at(draft.now + UNANSWERED)
    elif refusal.retriable:
        draft.condition(ConditionType.RUNNING, "False", refusal.reason, refusal.message)
        draft.wake_in(REFUSED_AGAIN)
    else:
        draft.fail(refusal)


def _take_over(draft: Draft, job: TrainingJob, child: Child, number: int) -> None:
    """The name of the next attempt's RayJob is taken: by us, before we could note it down, or by somebody else."""
    if draft.own_child is not None and not child.is_deleting:
        draft.new_attempt(number, child.created_at or draft.now, child.queue)
        _follow(draft, job)
    elif child.is_deleting or not draft.observed.owner_is_alive:
        message = f"RayJob {child.name} of a deleted TrainingJob is on its way out"
        draft.condition(ConditionType.RUNNING, "False", Reason.WAITING_FOR_NAME, message)
        draft.wake_in(NAME_AGAIN)
    else:
        cure = "delete it, then make this TrainingJob again"
        draft.fail(Failure(Reason.NAME_CONFLICT, f"RayJob {child.name} belongs to somebody else: {cure}"))


# --- an attempt under way ---------------------------------------------------------------------------------------------
def _follow(draft: Draft, job: TrainingJob) -> None:
    child = draft.own_child
    if child is not None and child.stage is Stage.SUCCEEDED:
        _complete(draft, job, "has succeeded")
    elif child is not None and child.stage is Stage.FAILED:
        _lose(draft, job, child.failure or Failure(Reason.JOB_CRASHED, "", retriable=True))
    elif stop := _reason_to_stop(draft, job, child):
        draft.delete_child()
        _end(draft, job, stop)
    elif child is None:
        _lose(draft, job, Failure(Reason.RAY_JOB_DELETED, "the attempt's RayJob was deleted", retriable=True))
    elif _head_was_replaced(draft.attempt_under_way, child):
        _lose(
            draft,
            job,
            Failure(Reason.HEAD_RESTARTED, f"Ray's head was replaced by pod {child.head_pod}", retriable=True),
        )
    else:
        _watch(draft, job, child)


def _head_was_replaced(attempt: Attempt | None, child: Child) -> bool:
    known = attempt.head_pod_name if attempt else None
    return known is not None and child.head_pod is not None and known != child.head_pod


def _reason_to_stop(draft: Draft, job: TrainingJob, child: Child | None) -> Failure | None:
    attempt = draft.status.attempts[-1]
    if job.spec.suspend:
        return Failure(Reason.SUSPENDED, "stopped by `spec.suspend`", retriable=True)
    if deadline.is_over(draft.status.start_time, job.spec.active_deadline_seconds, draft.now):
        return _deadline_exceeded(job)
    waiting = child is not None and child.stage is not Stage.RUNNING and attempt.running_time is None
    if waiting and deadline.is_over(_waiting_since(draft), job.spec.pre_running_deadline_seconds, draft.now):
        return _not_running(draft, job)
    return None


def _waiting_since(draft: Draft) -> datetime | None:
    """When the attempt could have started: with a queue, not before Kueue let it."""
    quota = draft.find(ConditionType.QUOTA_RESERVED)
    if quota is None:
        return draft.status.attempts[-1].start_time
    return quota.last_transition_time if quota.status == "True" else None


def _deadline_exceeded(job: TrainingJob) -> Failure:
    message = f"not complete {job.spec.active_deadline_seconds} s after the first attempt (`activeDeadlineSeconds`)"
    return Failure(Reason.DEADLINE_EXCEEDED, message)


def _not_running(draft: Draft, job: TrainingJob) -> Failure:
    message = f"not running {job.spec.pre_running_deadline_seconds} s after its start (`preRunningDeadlineSeconds`)"
    running = draft.find(ConditionType.RUNNING)
    told = f"; {running.reason}: {running.message}" if running else ""
    return Failure(Reason.PRE_RUNNING_DEADLINE_EXCEEDED, message + told, retriable=True)


def _complete(draft: Draft, job: TrainingJob, how: str) -> None:
    draft.complete(f"attempt {draft.status.attempts[-1].number} {how}")
    register(draft, job)


def _lose(draft: Draft, job: TrainingJob, failure: Failure) -> None:
    """The attempt has ended badly, unless its work was done by then."""
    run = draft.observed.run
    if failure.reason == Reason.HEAD_RESTARTED:
        # KubeRay submits the job to the new head again, under the same id: a second try of an attempt that is over
        draft.delete_child()
    if isinstance(run, Run) and run.has_model:
        _complete(draft, job, f"had registered its model when it ended ({failure.reason})")
        return
    if isinstance(run, Run):
        note_run(draft, job, run)
    if death := draft.observed.death:
        failure = Failure(death.reason, death.message)
    _end(draft, job, failure)


def _end(draft: Draft, job: TrainingJob, failure: Failure) -> None:
    draft.end_attempt(failure)
    if failure.reason == Reason.SUSPENDED or backoff.may_retry(
        draft.status.failed_attempts, job.spec.backoff_limit, failure.retriable
    ):
        draft.observed = Observed(draft.observed.settings)  # what was observed was the attempt that is over
        _begin(draft, job)
    else:
        draft.fail(failure)


def _watch(draft: Draft, job: TrainingJob, child: Child) -> None:
    if child.queue is not None and child.stage is not Stage.SUSPENDED:
        draft.condition(
            ConditionType.QUOTA_RESERVED, "True", Reason.ADMITTED, f"Kueue's queue {child.queue} has let it in"
        )
    if child.stage is Stage.SUSPENDED:
        _wait_for_admission(draft, child)
    elif child.stage is Stage.RUNNING:
        _run(draft, job, child)
    else:
        _start(draft, child)
    _wake_in_time(draft, job)


def _wake_in_time(draft: Draft, job: TrainingJob) -> None:
    draft.wake_at(deadline.due(draft.status.start_time, job.spec.active_deadline_seconds))
    if draft.status.attempts[-1].running_time is None:
        draft.wake_at(deadline.due(_waiting_since(draft), job.spec.pre_running_deadline_seconds))


def _wait_for_admission(draft: Draft, child: Child) -> None:
    if child.queue is not None:
        draft.waits_for_quota(child.queue)
    else:
        message = f"somebody has suspended RayJob {child.name}: resume it, or use `spec.suspend` of the TrainingJob"
        draft.waits(Reason.RAY_JOB_SUSPENDED, message)


def _start(draft: Draft, child: Child) -> None:
    draft.started(draft.now)
    starting = draft.find(ConditionType.CLUSTER_READY)
    if trouble := _trouble(draft, child):
        draft.note_child(child)
        draft.is_stuck(trouble.reason, trouble.message)
    elif child.stage is Stage.JOB_STARTING:
        _start_job(draft, child)
    elif starting is None or starting.reason != Reason.CLUSTER_STARTING:
        draft.waits(Reason.CLUSTER_STARTING, f"the Ray cluster of RayJob {child.name} starts")
    if child.stage is Stage.CREATED and child.created_at is not None and draft.now < child.created_at + UNANSWERED:
        draft.wake_at(child.created_at + UNANSWERED)


def _trouble(draft: Draft, child: Child) -> Failure | Diagnosis | None:
    if child.stage is Stage.JOB_STARTING:
        return None  # the cluster was there, so whatever was seen before is over
    if child.stage is Stage.CREATED and child.created_at is not None and draft.now >= child.created_at + UNANSWERED:
        message = (
            f"nobody has taken up RayJob {child.name}: is KubeRay's operator running, and does it watch this namespace?"
        )
        return Diagnosis(Reason.KUBE_RAY_NOT_RESPONDING, message)
    return child.trouble or draft.observed.diagnosis


def _start_job(draft: Draft, child: Child) -> None:
    ready = child.cluster_ready_at
    if ready is not None and draft.now < ready + PASSING:
        draft.wake_at(ready + PASSING)
        return
    draft.note_child(child)
    draft.has_cluster(f"RayCluster {child.cluster_name} is ready")
    message = f"the Ray cluster is ready, RayJob {child.name} starts the job"
    draft.condition(ConditionType.RUNNING, "False", Reason.JOB_STARTING, message)


def _run(draft: Draft, job: TrainingJob, child: Child) -> None:
    draft.started(draft.now)
    draft.note_child(child)
    draft.has_cluster(f"RayCluster {child.cluster_name} is ready")
    draft.condition(ConditionType.RUNNING, "True", Reason.JOB_RUNNING, f"RayJob {child.name} runs")
    if isinstance(run := draft.observed.run, Run):
        note_run(draft, job, run)
        draft.progress(percentage=run.percentage, estimated_remaining_seconds=run.remaining_seconds)


# --- finished ---------------------------------------------------------------------------------------------------------
def _finish(draft: Draft, job: TrainingJob) -> None:
    if wants_run(draft.status, None):
        register(draft, job)
    draft.settle_child()
    draft.settle_if_done()


def _expire(draft: Draft, job: TrainingJob) -> None:
    over = ttl.delete_at(draft.status.completion_time, job.spec.ttl_seconds_after_finished)
    # not in the pass that ends it: whoever watches sees the end first
    was_finished = is_finished(draft.before.conditions)
    draft.delete_job = was_finished and over is not None and draft.now >= over
    draft.wake_at(over)
