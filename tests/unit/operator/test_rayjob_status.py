"""KubeRay's words in ours."""

import pytest

from m3_operator.rayjob_status import Failure, Stage, observe, stated_failure

STAGES = {
    "made, not yet taken up": ("", "", Stage.CREATED),
    "pods start": ("Initializing", "", Stage.CLUSTER_STARTING),
    "it waits for a job id": ("Waiting", "", Stage.CLUSTER_STARTING),
    "KubeRay makes the cluster anew": ("Retrying", "", Stage.CLUSTER_STARTING),
    "Kueue holds it": ("Suspended", "", Stage.SUSPENDED),
    "Kueue takes its quota back": ("Suspending", "RUNNING", Stage.SUSPENDED),
    "a word that a later KubeRay has": ("Thinking", "", Stage.CLUSTER_STARTING),
    "submitted, no status yet": ("Running", "", Stage.JOB_STARTING),
    "submitted, pending": ("Running", "PENDING", Stage.JOB_STARTING),
    "it runs": ("Running", "RUNNING", Stage.RUNNING),
    "Ray says succeeded, KubeRay not yet": ("Running", "SUCCEEDED", Stage.RUNNING),
    "success": ("Complete", "SUCCEEDED", Stage.SUCCEEDED),
    "complete is not success": ("Complete", "STOPPED", Stage.FAILED),
    "complete and failed": ("Complete", "FAILED", Stage.FAILED),
    "failed": ("Failed", "FAILED", Stage.FAILED),
    "failed with a stale job status": ("Failed", "RUNNING", Stage.FAILED),
    "refused by KubeRay": ("ValidationFailed", "", Stage.FAILED),
}


@pytest.mark.parametrize(("deployment", "job", "stage"), STAGES.values(), ids=STAGES.keys())
def test_stage(make, deployment, job, stage):
    assert make.child(deployment, job).stage is stage


def test_final_stages():
    assert [stage for stage in Stage if stage.is_final] == [Stage.SUCCEEDED, Stage.FAILED]


# as Ray 2.60 says it
LOW_ON_MEMORY = (
    "Unexpected error occurred: 1 worker(s) were killed due to the node running low on memory. Memory on the node "
    "(IP: 10.244.0.34, ID: 7f8b) was 0.87GB used / 0.88GB limit (0.988772)\n"
    "OOM kill reason: Memory usage 917147648B exceeded threshold of 896532480B"
)

FAILURES = {
    "the job's own words win": (
        (
            "Failed",
            "FAILED",
            {"reason": "AppFailed", "message": 'logs\nM3_ERROR {"reason": "InvalidData", "message": "no"}'},
        ),
        Failure("InvalidData", "no"),
    ),
    "also where a deadline struck": (
        ("Failed", "FAILED", {"reason": "X", "message": 'M3_ERROR {"reason": "StorageFull", "message": "full"}'}),
        Failure("StorageFull", "full"),
    ),
    "KubeRay refuses": (
        ("ValidationFailed", "", {"reason": "ValidationFailed", "message": "name too long"}),
        Failure("InvalidRayJob", "KubeRay refuses the RayJob: name too long"),
    ),
    "stopped": (
        ("Complete", "STOPPED", {}),
        Failure("Stopped", "the Ray job was stopped from outside; make a new TrainingJob to run it again"),
    ),
    "a crash shows its last output": (
        ("Failed", "FAILED", {"reason": "AppFailed", "message": "Killed\n"}),
        Failure(
            "JobCrashed",
            "the job's process ended without saying why (killed, or out of memory); last output: Killed",
            retriable=True,
        ),
    ),
    "a crash without output": (
        ("Failed", "FAILED", {}),
        Failure("JobCrashed", "the job's process ended without saying why (killed, or out of memory)", retriable=True),
    ),
    "what Ray stops for its memory": (
        ("Failed", "FAILED", {"reason": "AppFailed", "message": LOW_ON_MEMORY}),
        Failure(
            "OOMKilled",
            "Ray has stopped the job at 0.87GB of its memory limit of 0.88GB: raise "
            "`spec.ray.head.resources.limits.memory`, or train on fewer rows with `data.sampleSize`",
        ),
    ),
    "KubeRay's own reasons are kept": (
        ("Failed", "", {"reason": "JobStatusCheckTimeoutExceeded", "message": "no answer for 300 s"}),
        Failure("JobStatusCheckTimeoutExceeded", "no answer for 300 s", retriable=True),
    ),
    "even without a message": (
        ("Failed", "", {"reason": "SubmissionFailed"}),
        Failure("SubmissionFailed", "KubeRay gives no message", retriable=True),
    ),
}


@pytest.mark.parametrize(("said", "failure"), FAILURES.values(), ids=FAILURES.keys())
def test_failure(make, said, failure):
    deployment, job, more = said
    assert make.child(deployment, job, **more).failure == failure


STATED = {
    "the last line counts": (
        'M3_ERROR {"reason": "A", "message": "1"}\nM3_ERROR {"reason": "B", "message": "2"}',
        Failure("B", "2"),
    ),
    "an outage may be tried again": (
        'M3_ERROR {"reason": "A", "message": "1", "retriable": true}',
        Failure("A", "1", True),
    ),
    "only true is true": ('M3_ERROR {"reason": "A", "message": "1", "retriable": "yes"}', Failure("A", "1")),
    "a stranger's class is told": (
        'M3_ERROR {"reason": "UserCodeFailed", "type": "KeyError", "message": "\'x\'"}',
        Failure("UserCodeFailed", "KeyError: 'x'"),
    ),
    "half a line says nothing": ('M3_ERROR {"reason": "A", "mess', None),
    "nor does a list": ("M3_ERROR [1]", None),
    "nor a reason that no condition may have": ('M3_ERROR {"reason": "no good"}', None),
    "nor a line that only mentions it": ('see M3_ERROR {"reason": "A"}', None),
    "nor nothing": ("", None),
}


@pytest.mark.parametrize(("message", "failure"), STATED.values(), ids=STATED.keys())
def test_stated_failure(message, failure):
    assert stated_failure(message) == failure


def test_what_is_kept_of_a_rayjob(make):
    rayjob = make.rayjob(
        "Running", "RUNNING", jobId="j", rayClusterName="c", rayJobInfo={"startTime": "2026-11-24T12:00:09Z"}
    )
    rayjob["metadata"]["labels"]["m3.dev/settled"] = "true"
    rayjob["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:10Z"
    child = observe(rayjob)
    assert (child.owner_uid, child.owner_kind, child.job) == (make.uid, "TrainingJob", "fraud-rf")
    assert (child.job_id, child.cluster_name) == ("j", "c")
    assert child.running_since == make.after(9)
    assert (child.is_settled, child.is_deleting) == (True, True)


def test_a_bare_rayjob_is_read():
    child = observe({"metadata": {"name": "a", "namespace": "b"}})
    assert (child.stage, child.owner_uid, child.job) == (Stage.CREATED, "", "")
