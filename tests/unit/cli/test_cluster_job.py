"""What a TrainingJob's status means to whoever waits for it, and the words for it."""

from datetime import UTC, datetime, timedelta

import pytest

from m3_trainer.cli.cluster_job import UNSEEN_SECONDS, Job, document, judge, next_steps
from m3_trainer.cli.show_cluster import change, duration, status_word, table

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(age: float = 60, attempts: list | None = None, settled: bool = False, **conditions: str) -> Job:
    """A job with conditions given as `Running="False ImagePullBackOff"`."""
    pairs = [(kind, *told.split()) for kind, told in conditions.items()]
    made = [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": "why",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, status, reason in pairs
    ]
    created = (NOW - timedelta(seconds=age)).isoformat()
    meta = {"name": "job", "namespace": "default", "uid": "u", "creationTimestamp": created}
    return Job({"metadata": meta, "status": {"conditions": made, "attempts": attempts or [], "settled": settled}}, NOW)


HAS_RUN = [{"number": 1, "rayJobName": "job-1", "runningTime": "2026-01-01T00:00:00Z"}]
COMPLETE = {"Complete": "True Succeeded", "Running": "False Finished"}
FAILED = {"Failed": "True InvalidData", "Running": "False Finished"}


@pytest.mark.parametrize(
    ("seen", "wanted", "reached", "impossible"),
    [
        (job(), "Complete", False, False),
        (job(**COMPLETE), "Complete", True, False),
        (job(**FAILED), "Complete", False, True),
        (job(**FAILED), "Failed", True, False),
        (job(**COMPLETE), "Failed", False, True),
        (job(Running="True JobRunning"), "Running", True, False),
        (job(attempts=HAS_RUN, **COMPLETE), "Running", True, False),
        (job(**FAILED), "Running", False, True),
        (job(**COMPLETE), "Registered", False, False),
        (job(settled=True, **COMPLETE), "Registered", False, True),
        (job(Registered="Unknown TrackingUnavailable", **COMPLETE), "Registered", False, False),
        (job(Registered="True ModelRegistered", **COMPLETE), "Promoted", False, False),
        (job(**FAILED), "Registered", False, True),
    ],
)
def test_what_is_waited_for_is_reached_or_out_of_reach_or_neither(seen, wanted, reached, impossible):
    verdict = judge(seen, wanted)
    assert (verdict.reached, verdict.impossible) == (reached, impossible)


@pytest.mark.parametrize(
    ("seen", "state", "word"),
    [
        (job(age=1), "Pending", "Pending"),
        (job(age=UNSEEN_SECONDS + 1), "Pending", "Pending (not seen by the operator)"),
        (job(Running="False ClusterStarting"), "Starting", "Starting"),
        (job(Running="False Unschedulable"), "Pending", "Pending (Unschedulable)"),
        (job(Running="False BackingOff"), "Retrying", "Retrying (BackingOff)"),
        (job(Running="True JobRunning"), "Running", "Running"),
        (job(Suspended="True JobSuspended", Running="False JobSuspended"), "Suspended", "Suspended"),
        (job(**COMPLETE), "Complete", "Complete"),
        (job(**FAILED), "Failed", "Failed (InvalidData)"),
    ],
)
def test_the_state_is_one_word_and_says_why_where_somebody_is_needed(seen, state, word):
    assert (seen.state, status_word(seen)) == (state, word)


@pytest.mark.parametrize(
    ("seen", "commands"),
    [
        (job(age=UNSEEN_SECONDS + 1), ["m3 doctor"]),
        (job(Running="False ClusterStarting"), ["m3 logs -f job"]),
        (job(Running="False KubeRayNotResponding"), ["m3 doctor"]),
        (job(Running="False BackingOff", attempts=HAS_RUN), ["m3 logs job --attempt 1"]),
        (job(Suspended="True JobSuspended"), ["m3 resume job"]),
        (job(attempts=HAS_RUN, **FAILED), ["m3 logs job", "m3 submit --replace -f FILE"]),
        (job(Failed="True InvalidSpec"), ["m3 submit --replace -f FILE"]),
    ],
)
def test_there_is_always_a_next_step(seen, commands):
    assert list(next_steps(seen).values()) == commands


def test_an_address_of_the_world_needs_no_port_forward():
    seen = job(**COMPLETE)
    seen.object["status"]["mlflow"] = {"runId": "r", "url": "https://mlflow.example/#/experiments/1/runs/r"}
    assert next_steps(seen) == {"look at it in MLflow": "open https://mlflow.example/#/experiments/1/runs/r"}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (192, "3m12s"), (7500, "2h5m"), (356_400, "4d3h"), (-3, "0s")],
)
def test_durations_have_two_units_at_most(seconds, told):
    assert duration(seconds) == told


def test_a_line_about_progress():
    seen = job(Running="True JobRunning")
    seen.object["status"]["progress"] = {
        "percentage": 40, "estimatedRemainingSeconds": 95, "metrics": [{"name": "average_precision", "value": 0.61}],
    }  # fmt: skip
    assert change(seen) == "job: Running, 40 % done, about 1m35s left, average_precision=0.6100"
    assert "40 %" in table([seen], with_namespace=False)


def test_a_job_that_nobody_has_looked_at_is_a_document_too():
    seen = document(Job({"metadata": job().object["metadata"]}, NOW))
    assert (seen["state"], seen["conditions"], seen["attempts"], seen["model"]) == ("Pending", [], [], None)
