"""From what is wished and observed to what is done: one sentence per case."""

import pytest

from m3_operator.api.meta import ObjectMeta
from m3_operator.api.v1alpha1 import TrainingJobStatus
from m3_operator.draft import AliasMove, Observed, Verdict, merge_patch
from m3_operator.mlflow_run import NoRun, RegisteredModel
from m3_operator.pod_status import Diagnosis
from m3_operator.rayjob_status import Failure
from m3_operator.reconcile import attempt_to_look_at, reconcile, refuse, wants_nothing, wants_pods, wants_run
from m3_trainer.promotion import Evidence

USER_ERROR = 'M3_ERROR {"reason": "InvalidData", "type": "DataError", "message": "must have rows", "retriable": false}'
OUTAGE = 'M3_ERROR {"reason": "TrackingUnavailable", "message": "MLflow is down", "retriable": true}'


def attempt(number=1, **more):
    known = {"number": number, "rayJobName": f"fraud-rf-58dc-{number}", "startTime": "2026-11-24T12:00:00Z"}
    return known | more


def condition(kind, status="True", reason="Reason", at="2026-11-24T12:00:00Z"):
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": at, "observedGeneration": 1}


RUNNING = {
    "observedGeneration": 1,
    "startTime": "2026-11-24T12:00:00Z",
    "attempts": [attempt()],
    "conditions": [
        condition("ClusterReady", "False", "ClusterStarting"),
        condition("Running", "False", "ClusterStarting"),
    ],
}
QUEUED = {"observedGeneration": 1, "attempts": [attempt()], "conditions": [
    condition("QuotaReserved", "False", "WaitingForQuota"), condition("ClusterReady", "False", "WaitingForQuota"),
    condition("Running", "False", "WaitingForQuota"),
]}  # fmt: skip
ON_HEAD_A = RUNNING | {
    "attempts": [attempt(headPodName="head-a", runningTime="2026-11-24T12:00:10Z")],
    "conditions": [condition("ClusterReady"), condition("Running", reason="JobRunning")],
}
FAILED_ONCE = RUNNING | {
    "failedAttempts": 1,
    "attempts": [attempt(completionTime="2026-11-24T12:01:00Z", reason="JobCrashed", message="killed")],
}
COMPLETE = RUNNING | {
    "attempts": [attempt(completionTime="2026-11-24T12:01:00Z", reason="Succeeded")],
    "completionTime": "2026-11-24T12:01:00Z",
    "conditions": [condition("Complete"), condition("Running", "False", "Finished")],
}
UNREGISTERED = COMPLETE | {
    "conditions": [*COMPLETE["conditions"], condition("Registered", "Unknown", "TrackingUnavailable")]
}

OVER_QUOTA = {"conditions": [{
    "type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod",
    "message": "FailedCreateHeadPod\npods is forbidden: exceeded quota: stuck, requested: pods=1",
}]}  # fmt: skip
WISH = {"registry": {"promotion": {"alias": "champion", "metric": "average_precision"}}}
DONE = {
    "Complete": ("True", "Succeeded"), "Registered": ("True", "ModelRegistered"), "Running": ("False", "Finished"),
}  # fmt: skip


def ready_at(time):
    since = f"2026-11-24T{time}Z"
    return {"conditions": [{"type": "RayClusterProvisioned", "status": "True", "lastTransitionTime": since}]}


# sentence: (status, spec, observed, seconds after noon, conditions afterwards)
CASES = {
    "a new job gets a RayJob": (None, {}, {}, 0, {"Running": ("False", "ClusterStarting")}),
    "a suspended new job gets none": (
        None, {"suspend": True}, {}, 0,
        {"Suspended": ("True", "JobSuspended"), "Running": ("False", "JobSuspended")},
    ),
    "a RayJob that is there is taken over": (
        None, {}, {"child": ("Running", "RUNNING")}, 0, {"Running": ("True", "JobRunning")},
    ),
    "somebody else's RayJob ends the job": (
        None, {}, {"child": ("", "", {"uid": "other"})}, 0,
        {"Failed": ("True", "NameConflict"), "Running": ("False", "Finished")},
    ),
    "the RayJob of a deleted job is waited for": (
        None, {}, {"child": ("", "", {"uid": "other"}), "owner_is_alive": False}, 0,
        {"Running": ("False", "WaitingForName")},
    ),
    "a refused RayJob is asked for again": (
        None, {}, {"refusal": Failure("RequestRefused", "exceeded quota", retriable=True)}, 0,
        {"Running": ("False", "RequestRefused")},
    ),
    "a RayJob that the schema refuses ends the job": (
        None, {}, {"refusal": Failure("InvalidRayJob", "spec.x: Invalid")}, 0,
        {"Failed": ("True", "InvalidRayJob"), "Running": ("False", "Finished")},
    ),
    "a cluster that starts is told": (
        RUNNING, {}, {"child": ("Initializing", "")}, 5,
        {"Running": ("False", "ClusterStarting"), "ClusterReady": ("False", "ClusterStarting")},
    ),
    "a job that starts is told": (
        RUNNING, {}, {"child": ("Running", "PENDING")}, 5,
        {"Running": ("False", "JobStarting"), "ClusterReady": ("True", "ClusterProvisioned")},
    ),
    "not where it is about to run": (
        RUNNING, {}, {"child": ("Running", "PENDING", {"rayClusterStatus": ready_at("12:00:02")})}, 6,
        {"Running": ("False", "ClusterStarting"), "ClusterReady": ("False", "ClusterStarting")},
    ),
    "but where it takes its time": (
        RUNNING, {}, {"child": ("Running", "PENDING", {"rayClusterStatus": ready_at("12:00:02")})}, 7,
        {"Running": ("False", "JobStarting"), "ClusterReady": ("True", "ClusterProvisioned")},
    ),
    "a running job runs": (
        RUNNING, {}, {"child": ("Running", "RUNNING")}, 5,
        {"Running": ("True", "JobRunning"), "ClusterReady": ("True", "ClusterProvisioned")},
    ),
    "a cluster that cannot start says why": (
        RUNNING, {}, {"child": ("Initializing", ""), "diagnosis": Diagnosis("Unschedulable", "0/1 nodes")}, 5,
        {"Running": ("False", "Unschedulable"), "ClusterReady": ("False", "Unschedulable")},
    ),
    "a quota, too": (
        RUNNING, {}, {"child": ("Initializing", "", {"rayClusterStatus": OVER_QUOTA})}, 5,
        {"Running": ("False", "QuotaExceeded"), "ClusterReady": ("False", "QuotaExceeded")},
    ),
    "a RayJob that nobody takes up": (RUNNING, {}, {"child": ("", "")}, 60, {"Running": ("False", "KubeRayNotResponding")}),
    "but not too soon": (RUNNING, {}, {"child": ("", "")}, 59, {"Running": ("False", "ClusterStarting")}),
    "a cluster that starts after all says so": (
        RUNNING | {"conditions": [condition("ClusterReady", "False", "Unschedulable")]}, {},
        {"child": ("Initializing", "")}, 5, {"Running": ("False", "ClusterStarting")},
    ),
    "a queued job waits for quota": (
        QUEUED, {}, {"child": ("Suspended", "", {"queue": "ml"})}, 5,
        {"Running": ("False", "WaitingForQuota"), "QuotaReserved": ("False", "WaitingForQuota")},
    ),
    "and is let in": (
        QUEUED, {}, {"child": ("Initializing", "", {"queue": "ml"})}, 5,
        {"Running": ("False", "ClusterStarting"), "QuotaReserved": ("True", "Admitted")},
    ),
    "and loses its quota again": (
        ON_HEAD_A | {"conditions": [*ON_HEAD_A["conditions"], condition("QuotaReserved", reason="Admitted")]}, {},
        {"child": ("Suspending", "RUNNING", {"queue": "ml"})}, 5,
        {
            "Running": ("False", "WaitingForQuota"), "QuotaReserved": ("False", "WaitingForQuota"),
            "ClusterReady": ("False", "WaitingForQuota"),
        },
    ),
    "waiting for quota is no waiting to run": (
        QUEUED, {"preRunningDeadlineSeconds": 30}, {"child": ("Suspended", "", {"queue": "ml"})}, 3600,
        {"Running": ("False", "WaitingForQuota"), "QuotaReserved": ("False", "WaitingForQuota")},
    ),
    "a RayJob that somebody has suspended": (
        RUNNING, {}, {"child": ("Suspended", "")}, 5, {"Running": ("False", "RayJobSuspended")},
    ),
    "a head that was replaced ends the attempt": (
        ON_HEAD_A, {}, {"child": ("Running", "RUNNING", {"rayClusterStatus": {"head": {"podName": "head-b"}}})}, 60,
        {"Running": ("False", "BackingOff"), "ClusterReady": ("False", "AttemptEnded")},
    ),
    "unless the job had done its work": (
        ON_HEAD_A, {},
        {"child": ("Running", "RUNNING", {"rayClusterStatus": {"head": {"podName": "head-b"}}}), "run": "found"}, 60,
        {
            "Complete": ("True", "Succeeded"), "Registered": ("True", "ModelRegistered"), "Running": ("False", "Finished"),
            "ClusterReady": ("False", "AttemptEnded"),
        },
    ),
    "the same head is no other": (
        ON_HEAD_A, {}, {"child": ("Running", "RUNNING", {"rayClusterStatus": {"head": {"podName": "head-a"}}})}, 60,
        {"Running": ("True", "JobRunning"), "ClusterReady": ("True", "ClusterProvisioned")},
    ),
    "what was killed for its memory is not tried again": (
        RUNNING, {},
        {"child": ("Failed", "FAILED", {"reason": "AppFailed"}), "death": Diagnosis("OOMKilled", "at its limit")}, 60,
        {"Failed": ("True", "OOMKilled"), "Running": ("False", "Finished")},
    ),
    "a job that has succeeded is complete, and its model known": (
        RUNNING, {}, {"child": ("Complete", "SUCCEEDED"), "run": "found"}, 60,
        {
            "Complete": ("True", "Succeeded"), "Registered": ("True", "ModelRegistered"), "Running": ("False", "Finished"),
        },
    ),
    "a job is complete while MLflow is down": (
        RUNNING, {}, {"child": ("Complete", "SUCCEEDED"), "run": NoRun.UNAVAILABLE}, 60,
        {
            "Complete": ("True", "Succeeded"), "Registered": ("Unknown", "TrackingUnavailable"),
            "Running": ("False", "Finished"),
        },
    ),
    "a job without a run is complete and not registered": (
        RUNNING, {}, {"child": ("Complete", "SUCCEEDED"), "run": NoRun.NOT_FOUND}, 60,
        {"Complete": ("True", "Succeeded"), "Registered": ("False", "RunNotFound"), "Running": ("False", "Finished")},
    ),
    "a run without a version is not registered": (
        RUNNING, {}, {"child": ("Complete", "SUCCEEDED"), "run": "bare"}, 60,
        {
            "Complete": ("True", "Succeeded"), "Registered": ("False", "NoModelVersion"), "Running": ("False", "Finished"),
        },
    ),
    "the model is found when MLflow is back": (
        UNREGISTERED, {}, {"run": "found"}, 90,
        {"Complete": ("True", "Reason"), "Registered": ("True", "ModelRegistered"), "Running": ("False", "Finished")},
    ),
    "success counts even where suspend came too late": (
        RUNNING, {"suspend": True}, {"child": ("Complete", "SUCCEEDED"), "run": NoRun.NOT_FOUND}, 60,
        {"Complete": ("True", "Succeeded"), "Registered": ("False", "RunNotFound"), "Running": ("False", "Finished")},
    ),
    "a stopped Ray job has failed": (
        RUNNING, {}, {"child": ("Complete", "STOPPED")}, 60,
        {"Failed": ("True", "Stopped"), "Running": ("False", "Finished")},
    ),
    "a user's error is not tried again": (
        RUNNING, {}, {"child": ("Failed", "FAILED", {"reason": "AppFailed", "message": USER_ERROR})}, 60,
        {"Failed": ("True", "InvalidData"), "Running": ("False", "Finished")},
    ),
    "an outage is tried again": (
        RUNNING, {}, {"child": ("Failed", "FAILED", {"reason": "AppFailed", "message": OUTAGE})}, 60,
        {"Running": ("False", "BackingOff")},
    ),
    "a crash is tried again": (
        RUNNING, {}, {"child": ("Failed", "FAILED", {"reason": "AppFailed", "message": "Killed"})}, 60,
        {"Running": ("False", "BackingOff")},
    ),
    "not without backoffLimit": (
        RUNNING, {"backoffLimit": 0}, {"child": ("Failed", "FAILED", {"reason": "AppFailed"})}, 60,
        {"Failed": ("True", "JobCrashed"), "Running": ("False", "Finished")},
    ),
    "a RayJob that went with its work done is complete": (
        RUNNING, {}, {"run": "found"}, 60,
        {
            "Complete": ("True", "Succeeded"), "Registered": ("True", "ModelRegistered"), "Running": ("False", "Finished"),
        },
    ),
    "a RayJob that we deleted before we could say so was suspended": (
        RUNNING, {"suspend": True}, {}, 60,
        {"Suspended": ("True", "JobSuspended"), "Running": ("False", "JobSuspended")},
    ),
    "a version takes over an alias that nothing had": (
        RUNNING, WISH, {"child": ("Complete", "SUCCEEDED"), "run": "scored", "model": RegisteredModel(None, {})}, 60,
        DONE | {"Promoted": ("True", "FirstVersion")},
    ),
    "and not one that was moved meanwhile": (
        RUNNING, WISH,
        {"child": ("Complete", "SUCCEEDED"), "run": "scored", "model": RegisteredModel(None, {"champion": "2"})}, 60,
        DONE | {"Promoted": ("False", "HolderChanged")},
    ),
    "nor one of another namespace": (
        RUNNING, WISH, {"child": ("Complete", "SUCCEEDED"), "run": "scored", "model": RegisteredModel("other", {})}, 60,
        DONE | {"Promoted": ("False", "ModelOwnedByOtherNamespace")},
    ),
    "nor without a score": (
        RUNNING, WISH, {"child": ("Complete", "SUCCEEDED"), "run": "found", "model": RegisteredModel(None, {})}, 60,
        DONE | {"Promoted": ("False", "NotComparable")},
    ),
    "nor without a version": (
        RUNNING, WISH, {"child": ("Complete", "SUCCEEDED"), "run": "bare", "model": RegisteredModel(None, {})}, 60,
        DONE | {"Registered": ("False", "NoModelVersion"), "Promoted": ("False", "NotRegistered")},
    ),
    "a promotion waits for MLflow": (
        RUNNING, WISH, {"child": ("Complete", "SUCCEEDED"), "run": "scored", "model": NoRun.UNAVAILABLE}, 60,
        DONE | {"Promoted": ("Unknown", "TrackingUnavailable")},
    ),
    "a RayJob that is gone ends the attempt": (RUNNING, {}, {}, 60, {"Running": ("False", "BackingOff")}),
    "backing off takes its time": (FAILED_ONCE, {}, {}, 69, {"Running": ("False", "BackingOff")}),
    "and then the next attempt starts": (FAILED_ONCE, {}, {}, 70, {"Running": ("False", "ClusterStarting")}),
    "an attempt that does not run in time is over": (
        RUNNING, {"preRunningDeadlineSeconds": 30}, {"child": ("Initializing", "")}, 30,
        {"Running": ("False", "BackingOff")},
    ),
    "one that runs has its time": (
        RUNNING, {"preRunningDeadlineSeconds": 30}, {"child": ("Running", "RUNNING")}, 30,
        {"Running": ("True", "JobRunning")},
    ),
    "a job that takes too long has failed": (
        RUNNING, {"activeDeadlineSeconds": 60}, {"child": ("Running", "RUNNING")}, 60,
        {"Failed": ("True", "DeadlineExceeded"), "Running": ("False", "Finished")},
    ),
    "also between two attempts": (
        FAILED_ONCE, {"activeDeadlineSeconds": 65}, {}, 65,
        {"Failed": ("True", "DeadlineExceeded"), "Running": ("False", "Finished")},
    ),
    "a running job is suspended": (
        RUNNING, {"suspend": True}, {"child": ("Running", "RUNNING")}, 60,
        {"Suspended": ("True", "JobSuspended"), "Running": ("False", "JobSuspended")},
    ),
}  # fmt: skip


def observed_of(make, child=None, run=NoRun.NOT_ASKED, **more):
    scored = make.run(evidence=Evidence(0.7))
    runs = {"found": make.run(), "bare": make.run(model_version=None), "scored": scored}
    if child is not None:
        deployment, job, *rest = child
        more["child"] = make.child(deployment, job, **(rest[0] if rest else {}))
    return more | {"run": runs.get(run, run)}


@pytest.mark.parametrize(("status", "spec", "observed", "seconds", "expected"), CASES.values(), ids=CASES.keys())
def test_conditions(make, conditions_of, status, spec, observed, seconds, expected):
    body = make.body(status, **spec)
    plan = make.plan(make.job(status, **spec), seconds, **observed_of(make, **observed))
    found = conditions_of(make.apply(body, plan)["status"])
    # goes with Running in most of them; the sentences that are about it name it
    assert {kind: told for kind, told in found.items() if kind in expected or kind != "ClusterReady"} == expected


@pytest.mark.parametrize(("status", "spec", "observed", "seconds", "expected"), CASES.values(), ids=CASES.keys())
def test_what_is_written_is_what_the_models_read(make, status, spec, observed, seconds, expected):  # noqa: ARG001
    body = make.body(status, **spec)
    plan = make.plan(make.job(status, **spec), seconds, **observed_of(make, **observed))
    TrainingJobStatus.parse(make.apply(body, plan)["status"])


class TestActions:
    def test_one_rayjob_is_made_for_a_new_job(self, make):
        plan = make.plan(make.job())
        assert [rayjob["metadata"]["name"] for rayjob in plan.apply] == ["fraud-rf-58dc-1"]
        assert [event.reason for event in plan.events] == ["RayJobCreated"]

    def test_nothing_is_made_for_one_that_is_taken_over(self, make):
        assert make.plan(make.job(), child=make.child("Initializing")).apply == ()

    def test_a_job_that_is_being_deleted_is_left_alone(self, make):
        body = make.body()
        body["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
        plan = reconcile(type(make.job()).parse(body), Observed(make.settings), make.noon)
        assert (plan.apply, plan.status, plan.delete) == ((), None, ())

    def test_the_rayjob_of_an_attempt_that_ended_is_settled(self, make):
        plan = make.plan(make.job(RUNNING), 60, child=make.child("Complete", "SUCCEEDED"))
        assert plan.settle == ("fraud-rf-58dc-1",)

    def test_and_again_where_that_was_lost(self, make):
        plan = make.plan(make.job(COMPLETE), 60, child=make.child("Complete", "SUCCEEDED"), run=make.run())
        assert plan.settle == ("fraud-rf-58dc-1",)

    def test_a_suspended_job_deletes_its_rayjob(self, make):
        plan = make.plan(make.job(RUNNING, suspend=True), 60, child=make.child("Running", "RUNNING"))
        assert (plan.delete, plan.settle) == (("fraud-rf-58dc-1",), ())

    def test_suspending_is_no_failure(self, make):
        job = make.job(RUNNING, suspend=True)
        plan = make.plan(job, 60, child=make.child("Running", "RUNNING"))
        status = make.apply(make.body(RUNNING), plan)["status"]
        assert status.get("failedAttempts", 0) == 0
        assert status["attempts"][0]["reason"] == "Suspended"

    def test_a_restarted_head_takes_its_rayjob_with_it(self, make):
        told = 'M3_ERROR {"reason": "HeadRestarted", "message": "ran before", "retriable": true}'
        ended = make.child("Failed", "FAILED", reason="AppFailed", message=told)
        replaced = make.child("Running", "RUNNING", rayClusterStatus={"head": {"podName": "head-b"}})
        for child in (ended, replaced):
            plan = make.plan(make.job(ON_HEAD_A), 60, child=child)
            assert (plan.delete, plan.settle) == (("fraud-rf-58dc-1",), ())
            assert plan.status["attempts"][0]["reason"] == "HeadRestarted"

    def test_resuming_starts_at_once_with_the_next_number(self, make, conditions_of):
        ended = attempt(completionTime="2026-11-24T12:01:00Z", reason="Suspended")
        status = RUNNING | {"attempts": [ended], "conditions": [condition("Suspended", "True", "JobSuspended")]}
        plan = make.plan(make.job(status), 61)
        assert plan.apply[0]["metadata"]["name"] == "fraud-rf-58dc-2"
        after = make.apply(make.body(status), plan)["status"]
        assert conditions_of(after)["Suspended"] == ("False", "JobResumed")

    def test_the_newest_ten_attempts_are_kept(self, make):
        ended = [attempt(n, completionTime="2026-11-24T12:01:00Z", reason="JobCrashed") for n in range(1, 11)]
        status = RUNNING | {"attempts": ended, "failedAttempts": 10}
        plan = make.plan(make.job(status, backoffLimit=50), 3600)
        assert [item["number"] for item in plan.status["attempts"]] == list(range(2, 12))

    def test_a_job_whose_time_to_live_is_over_is_deleted(self, make):
        settled = COMPLETE | {"conditions": [*COMPLETE["conditions"], condition("Registered")], "settled": True}
        job = make.job(settled, ttlSecondsAfterFinished=60)
        assert make.plan(job, 119).delete_job is False
        assert make.plan(job, 119).requeue_after == 2.0
        assert make.plan(job, 120).delete_job is True

    def test_a_queued_job_starts_its_clock_when_it_is_let_in(self, make):
        body = make.body()
        body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "ml"}
        job = type(make.job()).parse(body)
        plan = reconcile(job, Observed(make.settings), make.noon)
        assert (plan.apply[0]["spec"]["suspend"], plan.status.get("startTime")) == (True, None)
        plan = make.plan(make.job(QUEUED), 30, child=make.child("Initializing", queue="ml"))
        assert plan.status["startTime"] == "2026-11-24T12:00:30Z"

    def test_an_alias_is_moved_once_and_the_verdict_written_down(self, make):
        observed = {"child": make.child("Complete", "SUCCEEDED"), "run": make.run(evidence=Evidence(0.7))}
        plan = make.plan(make.job(RUNNING, **WISH), 60, model=RegisteredModel("shop", {}), **observed)
        assert plan.verdict == Verdict(
            "fraud_detector", "3", "Promoted", "FirstVersion", AliasMove("fraud_detector", "champion", "3", None)
        )
        assert (plan.status["model"]["aliases"], plan.status["promotion"]["decision"]) == (["champion"], "Promoted")
        again = make.plan(make.job(RUNNING, **WISH), 60, model=RegisteredModel("shop", {"champion": "3"}), **observed)
        assert again.verdict.move is None
        assert again.status["promotion"] == plan.status["promotion"]

    def test_a_complete_job_that_waits_for_its_promotion_is_not_settled(self, make):
        observed = {"child": make.child("Complete", "SUCCEEDED"), "run": make.run(evidence=Evidence(0.7))}
        assert (
            make.plan(make.job(RUNNING, **WISH), 60, model=NoRun.UNAVAILABLE, **observed).status.get("settled") is None
        )
        assert (
            make.plan(make.job(RUNNING, **WISH), 60, model=RegisteredModel(None, {}), **observed).status["settled"]
            is True
        )

    def test_what_keeps_a_job_waiting_is_told_once(self, make):
        first = Diagnosis("ImagePullBackOff", "dial tcp 10.0.0.1:33056")
        plan = make.plan(make.job(RUNNING), 5, child=make.child("Initializing"), diagnosis=first)
        assert [(event.type, event.reason) for event in plan.events] == [("Warning", "ImagePullBackOff")]
        assert plan.status["display"]["status"] == "ImagePullBackOff"
        job = type(make.job()).parse(make.apply(make.body(RUNNING), plan))
        second = Diagnosis("ImagePullBackOff", "dial tcp 10.0.0.1:40112")
        again = make.plan(job, 15, child=make.child("Initializing"), diagnosis=second)
        assert (again.status, again.events) == (None, ())

    def test_time_wakes_what_waits_for_it(self, make):
        job = make.job(RUNNING, activeDeadlineSeconds=100, preRunningDeadlineSeconds=50)
        assert make.plan(job, 10, child=make.child("Initializing")).requeue_after == 41.0
        assert make.plan(job, 10, child=make.child("Running", "RUNNING")).requeue_after == 91.0


class TestStatus:
    def test_nothing_is_written_twice(self, make):
        for observed in ({}, {"child": make.child("Running", "RUNNING"), "run": make.run(metrics={"roc_auc": 0.8})}):
            body = make.body(RUNNING)
            first = reconcile(make.job(RUNNING), Observed(make.settings, **observed), make.after(5))
            after = make.apply(body, first)
            second = reconcile(type(make.job()).parse(after), Observed(make.settings, **observed), make.after(6))
            assert (second.status, second.apply, second.events) == (None, (), ())

    def test_the_transition_time_stays_where_the_status_does(self, make):
        stuck = make.plan(
            make.job(RUNNING), 30, child=make.child("Initializing"), diagnosis=Diagnosis("Unschedulable", "")
        )
        runs = make.plan(make.job(RUNNING), 30, child=make.child("Running", "RUNNING"))
        for plan, time in ((stuck, "2026-11-24T12:00:00Z"), (runs, "2026-11-24T12:00:30Z")):
            assert {item["lastTransitionTime"] for item in plan.status["conditions"]} == {time}

    def test_the_most_important_metric_is_first_and_shown(self, make):
        run = make.run(metrics={"a_metric": 1.0, "average_precision": 0.61234, "roc_auc": 0.8})
        plan = make.plan(make.job(RUNNING), 60, child=make.child("Complete", "SUCCEEDED"), run=run)
        names = [metric["name"] for metric in plan.status["progress"]["metrics"]]
        assert names == ["average_precision", "roc_auc", "a_metric"]
        assert plan.status["display"] == {
            "status": "Complete", "metric": "average_precision=0.6123", "model": "fraud_detector/3",
        }  # fmt: skip

    def test_progress_is_the_runs_while_it_runs_and_whole_at_the_end(self, make):
        run = make.run(percentage=60, remaining_seconds=30)
        body = make.apply(
            make.body(RUNNING), make.plan(make.job(RUNNING), 5, child=make.child("Running", "RUNNING"), run=run)
        )
        assert body["status"]["progress"] == {
            "percentage": 60, "estimatedRemainingSeconds": 30, "metrics": [], "lastUpdatedTime": "2026-11-24T12:00:05Z",
        }  # fmt: skip
        job = type(make.job()).parse(body)
        body = make.apply(body, make.plan(job, 60, child=make.child("Complete", "SUCCEEDED"), run=run))
        assert body["status"]["progress"]["percentage"] == 100
        assert "estimatedRemainingSeconds" not in body["status"]["progress"]

    def test_the_run_is_linked(self, make):
        run = make.run(rows=5, image_digest="d")
        plan = make.plan(make.job(RUNNING), 60, child=make.child("Complete", "SUCCEEDED"), run=run)
        assert plan.status["mlflow"]["url"] == "https://mlflow.example/#/experiments/1/runs/r1"
        assert plan.status["lineage"] == {"rows": 5, "imageDigest": "d"}

    def test_an_attempt_keeps_what_kuberay_forgets(self, make):
        child = make.child("Failed", "FAILED", reason="AppFailed", message=USER_ERROR, rayClusterName="c", jobId="j")
        plan = make.plan(make.job(RUNNING), 60, child=child)
        kept = plan.status["attempts"][0]
        assert (kept["rayClusterName"], kept["jobId"], kept["reason"], kept["message"]) == (
            "c", "j", "InvalidData", "must have rows",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("settled", "run"), [(True, "found"), (True, NoRun.NOT_FOUND), (False, NoRun.UNAVAILABLE)], ids=str
    )
    def test_a_complete_job_is_settled_once_its_model_is_known(self, make, settled, run):
        observed = observed_of(make, child=("Complete", "SUCCEEDED"), run=run)
        plan = make.plan(make.job(RUNNING), 60, **observed)
        assert plan.status.get("settled", False) is settled

    def test_a_long_message_is_cut(self, make):
        child = make.child("Failed", "FAILED", reason="SubmissionFailed", message="x" * 30_000)
        plan = make.plan(make.job(RUNNING, backoffLimit=0), 60, child=child)
        assert len(plan.status["attempts"][0]["message"]) == 4096

    def test_what_is_gone_is_taken_out(self, make):
        status = FAILED_ONCE | {"mlflow": {"experimentId": "1", "runId": "r1"}}
        plan = make.plan(make.job(status), 70)
        assert plan.status["mlflow"] is None


class TestRefusing:
    def refuse(self, make, status, **observed):
        meta = ObjectMeta(name="fraud-rf", namespace="shop", uid=make.uid)
        return refuse(
            meta,
            TrainingJobStatus.parse(status),
            ["spec.model: must be", "b"],
            Observed(make.settings, **observed),
            make.noon,
        )

    def test_every_fault_is_told_and_nothing_made(self, make, conditions_of):
        plan = self.refuse(make, {})
        assert plan.apply == ()
        assert conditions_of(plan.status)["Failed"] == ("True", "InvalidSpec")
        failed = next(item for item in plan.status["conditions"] if item["type"] == "Failed")
        assert failed["message"] == "spec.model: must be; b"
        assert plan.status["settled"] is True

    def test_what_runs_already_is_stopped(self, make):
        plan = self.refuse(make, RUNNING, child=make.child("Running", "RUNNING"))
        assert plan.delete == ("fraud-rf-58dc-1",)
        assert plan.status["attempts"][0]["reason"] == "InvalidSpec"

    def test_a_finished_job_stays_as_it_is(self, make):
        assert self.refuse(make, COMPLETE).status is None


class TestWhatToLookAt:
    @pytest.mark.parametrize(
        ("status", "number"),
        {
            "nothing yet": ({}, 1),
            "the attempt under way": (RUNNING, 1),
            "the one after a failed one": (FAILED_ONCE, 2),
            "the last of a finished job": (COMPLETE, 1),
        }.values(),
        ids=["new", "running", "failed", "finished"],
    )
    def test_attempt(self, status, number):
        assert attempt_to_look_at(TrainingJobStatus.parse(status)) == number

    @pytest.mark.parametrize(
        ("status", "child", "wanted"),
        [
            (RUNNING, ("Running", "RUNNING"), False),
            (RUNNING, ("Complete", "SUCCEEDED"), True),
            (RUNNING, ("Failed", "FAILED"), True),
            (RUNNING, None, True),
            ({}, None, False),
            (COMPLETE, ("Complete", "SUCCEEDED"), True),
            (UNREGISTERED, None, True),
            (COMPLETE | {"settled": True}, None, False),
            (COMPLETE | {"conditions": [condition("Failed")]}, ("Complete", "SUCCEEDED"), False),
        ],
    )
    def test_run(self, make, status, child, wanted):
        found = make.child(*child) if child else None
        assert wants_run(TrainingJobStatus.parse(status), found) is wanted

    @pytest.mark.parametrize(
        ("child", "wanted"),
        [
            (("Running", "RUNNING", {}), False),
            (("Failed", "FAILED", {"reason": "AppFailed", "message": "Killed"}), True),
            (("Failed", "FAILED", {"reason": "AppFailed", "message": USER_ERROR}), False),
            (("ValidationFailed", "", {"message": "bad"}), False),
            (("Running", "RUNNING", {"rayClusterStatus": {"head": {"podName": "head-b"}}}), True),
        ],
        ids=["runs", "crashed", "said why", "invalid", "other head"],
    )
    def test_pods(self, make, child, wanted):
        deployment, job, more = child
        assert wants_pods(TrainingJobStatus.parse(ON_HEAD_A), make.child(deployment, job, **more)) is wanted

    @pytest.mark.parametrize(
        ("status", "child", "nothing"),
        [
            ({}, None, True),
            (RUNNING, ("Running", "RUNNING", {}), True),
            (RUNNING, ("Complete", "SUCCEEDED", {}), False),
            (RUNNING, None, False),
            (ON_HEAD_A, ("Failed", "FAILED", {"reason": "AppFailed", "message": "Killed"}), False),
        ],
        ids=["new", "runs", "has ended", "lost", "crashed"],
    )
    def test_nothing_beyond_what_the_watches_tell(self, make, status, child, nothing):
        found = make.child(child[0], child[1], **child[2]) if child else None
        meta = ObjectMeta(uid=found.owner_uid if found else "")
        assert wants_nothing(meta, TrainingJobStatus.parse(status), found) is nothing

    def test_a_rayjob_of_somebody_else_is_always_looked_at(self, make):
        child = make.child("Running", "RUNNING")
        assert not wants_nothing(ObjectMeta(uid="another"), TrainingJobStatus.parse({}), child)


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    {
        "the same needs nothing": ({"a": {"b": [1]}}, {"a": {"b": [1]}}, {}),
        "what is new is added": ({}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        "what is gone becomes null": ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        "inside, too": ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": None, "c": 3}}),
        "lists are written whole": ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        "a value may become an object": ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
    }.values(),
)
def test_merge_patch(old, new, patch):
    assert merge_patch(old, new) == patch
