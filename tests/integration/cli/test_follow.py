"""m3 status, wait, cancel, resume: what becomes of a job, seen from outside."""

import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

NOW = "2026-01-01T00:00:00Z"


def condition(kind: str, status: str, reason: str, message: str = "") -> dict:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def write_status(namespace, name: str, **status) -> None:
    """As the operator writes it, without the operator."""
    namespace.objects.patch_namespaced_custom_object_status(
        "m3.dev", "v1alpha1", namespace.name, "trainingjobs", name, {"status": status}
    )


STUCK = condition(
    "Running", "False", "ImagePullBackOff", "image registry.invalid/none:1 cannot be pulled: set spec.image"
)
ATTEMPT = {"number": 1, "rayJobName": "job-1a2b-1", "startTime": NOW}
DONE = {
    "conditions": [
        condition("Complete", "True", "Succeeded", "attempt 2 has succeeded"),
        condition("Registered", "True", "ModelRegistered", "models:/fraud_detector/3"),
        condition("Running", "False", "Finished", "the job has finished"),
    ],
    "attempts": [
        ATTEMPT
        | {"completionTime": "2026-01-01T00:01:00Z", "reason": "HeadRestarted", "message": "the head went away"},
        ATTEMPT
        | {"number": 2, "rayJobName": "job-1a2b-2", "completionTime": "2026-01-01T00:02:30Z", "reason": "Succeeded"},
    ],
    "progress": {"percentage": 100, "metrics": [{"name": "average_precision", "value": 0.6123}]},
    "mlflow": {
        "experimentId": "1",
        "runId": "r1",
        "url": "http://mlflow.m3-system.svc.cluster.local:5000/#/experiments/1",
    },
    "model": {"name": "fraud_detector", "version": "3", "uri": "models:/fraud_detector/3"},
    "startTime": NOW,
    "completionTime": "2026-01-01T00:02:30Z",
    "settled": True,
}


# --- status -----------------------------------------------------------------------------------------------------------
def test_a_table_of_jobs(m3, namespace):
    for name in ("done", "stuck", "fresh"):
        namespace.create(name)
    write_status(namespace, "done", **DONE)
    write_status(namespace, "stuck", conditions=[STUCK], attempts=[ATTEMPT])
    lines = {line.split()[0]: line for line in m3("status").out.splitlines()}
    assert lines["NAME"].split() == ["NAME", "STATUS", "PROGRESS", "METRIC", "MODEL", "ATTEMPT", "AGE"]
    assert lines["done"].split()[1:7] == ["Complete", "100", "%", "average_precision=0.6123", "fraud_detector/3", "2"]
    assert lines["stuck"].split()[1:4] == ["Pending", "(ImagePullBackOff)", "1"]
    assert lines["fresh"].split()[1] == "Pending"
    everywhere = m3("status", "-A").out.splitlines()
    assert everywhere[0].split()[0] == "NAMESPACE"
    assert sum(line.startswith(namespace.name) for line in everywhere) == 3
    jobs = m3.json("status")["jobs"]
    assert {job["name"]: job["state"] for job in jobs} == {"done": "Complete", "stuck": "Pending", "fresh": "Pending"}


def test_no_job_is_said_to_be_none(m3, namespace):
    assert m3("status").out == f"no TrainingJob in namespace {namespace.name}; m3 status -A looks everywhere\n"
    assert m3.json("status") == {"jobs": []}


def test_one_job_with_everything_that_is_known(m3, namespace):
    namespace.create("job")
    write_status(namespace, "job", **DONE)
    told = m3("status", "job").out
    for part in (
        f"TrainingJob {namespace.name}/job: Complete",
        "Registered   True     ModelRegistered",
        "1         job-1a2b-1   1m      HeadRestarted: the head went away",
        "2         job-1a2b-2   2m30s   Succeeded",
        "average_precision            0.6123",
        "model   fraud_detector version 3 (models:/fraud_detector/3)",
        "kubectl port-forward -n m3-system service/mlflow 5050:5000 &",
        "open http://localhost:5050/#/experiments/1",
        "m3 predict models:/fraud_detector/3 --tracking-uri http://localhost:5050",
    ):
        assert part in told, told
    job = m3.json("status", "job")
    assert [each["reason"] for each in job["attempts"]] == ["HeadRestarted", "Succeeded"]
    assert (job["model"]["version"], job["finished"]) == ("3", "2026-01-01T00:02:30Z")


def test_a_stuck_job_says_why_and_what_to_do(m3, namespace):
    namespace.create("job")
    write_status(namespace, "job", conditions=[STUCK], attempts=[ATTEMPT])
    told = m3("status", "job").out
    assert "job: Pending (ImagePullBackOff)" in told
    assert "image registry.invalid/none:1 cannot be pulled: set spec.image" in told
    assert f"kubectl describe pods -l m3.dev/job=job -n {namespace.name}" in told
    assert f"m3 cancel job -n {namespace.name}" in told


def test_watch_prints_again_at_a_change_where_there_is_no_terminal(m3, namespace):
    namespace.create("job")
    write_status(namespace, "job", conditions=[STUCK])
    process = m3.start("status", "job", "--watch")
    try:
        assert process.stdout is not None
        assert "ImagePullBackOff" in process.stdout.readline()
        write_status(namespace, "job", conditions=[condition("Running", "True", "JobRunning")])
        assert any("job: Running" in line for line in iter(process.stdout.readline, ""))
    finally:
        process.terminate()
        process.communicate(timeout=10)
    refused = m3("status", "--watch", "-o", "json")
    assert (refused.code, refused.err) == (
        2,
        "error: --watch: must be left out with --output json; m3 wait waits for scripts\n",
    )


# --- wait -------------------------------------------------------------------------------------------------------------
def test_wait_sees_the_moment_that_a_job_completes(m3, namespace):
    namespace.create("job")
    process = m3.start("wait", "job", "--timeout", "30s")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("job: Pending")
    write_status(namespace, "job", **DONE)
    before = datetime.now(UTC)
    assert process.communicate(timeout=20)[0] == "trainingjob.m3.dev/job Complete\n"
    assert process.returncode == 0
    assert (datetime.now(UTC) - before).total_seconds() < 5, "a watch, not a poll"


def test_wait_ends_at_once_when_the_job_fails(m3, namespace):
    namespace.create("job")
    process = m3.start("wait", "job", "--timeout", "60s")
    assert process.stderr is not None
    process.stderr.readline()
    failed = condition("Failed", "True", "InvalidData", "no column TX_FRAUD")
    write_status(namespace, "job", conditions=[failed])
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 13
    assert (
        err.splitlines()[-1] == "error: `job` is Failed and will not become Complete (InvalidData): no column TX_FRAUD"
    )
    assert m3("wait", "job", "--for", "Failed").code == 0


def test_wait_gives_up_when_the_time_is_over(m3, namespace):
    namespace.create("job")
    write_status(namespace, "job", conditions=[STUCK])
    ended = m3("wait", "job", "--timeout", "1s")
    assert ended.code == 14
    assert ended.err.splitlines()[-1] == (
        "error: `job` is not Complete after 1s; it is Pending (ImagePullBackOff): "
        "image registry.invalid/none:1 cannot be pulled: set spec.image"
    )
    waited = m3("wait", "job", "--timeout", "1s", "-o", "json")
    assert waited.code == 14
    told = json.loads(waited.out)
    assert (told["for"], told["result"], told["state"]) == ("Complete", "timeout", "Pending")


def test_wait_for_what_a_complete_job_will_not_become(m3, namespace):
    namespace.create("job")
    write_status(namespace, "job", **DONE)
    for wanted in ("Registered", "condition=registered", "Complete"):
        assert m3("wait", "job", "--for", wanted).code == 0
    assert m3("wait", "job", "--for", "Promoted").code == 13
    unknown = m3("wait", "job", "--for", "Done")
    assert (unknown.code, unknown.err.split(",")[0]) == (2, "error: --for: must be one of Suspended")
    assert (
        m3("wait", "job", "--timeout", "soon").err == "error: --timeout: must be a time as 90s, 10m or 1h30m, is soon\n"
    )


def test_wait_ends_when_the_job_is_deleted(m3, namespace):
    namespace.create("job")
    process = m3.start("wait", "job")
    assert process.stderr is not None
    process.stderr.readline()
    assert m3("cancel", "job", "--delete").out == "trainingjob.m3.dev/job deleted\n"
    err = process.communicate(timeout=20)[1]
    assert (process.returncode, err) == (12, "error: TrainingJob `job` was deleted\n")


def test_wait_outlives_a_line_that_is_cut(m3, namespace, line):
    namespace.create("job")
    process = m3.start("wait", "job")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("job: Pending")
    line.cut()
    assert process.stderr.readline() == "the API server does not answer; it is asked again for a minute\n"
    write_status(namespace, "job", **DONE)  # meanwhile: the event of it is lost
    line.mend()
    assert process.communicate(timeout=30)[0] == "trainingjob.m3.dev/job Complete\n"
    assert process.returncode == 0


def test_ctrl_c_ends_the_watching_and_not_the_job(m3, namespace):
    namespace.create("job")
    process = m3.start("wait", "job")
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(2)
    err = process.communicate(timeout=20)[1]
    assert (process.returncode, err) == (130, "stopped watching; nothing in the cluster was changed by that\n")
    assert namespace.job("job")["spec"]["suspend"] is False


def test_a_watch_begins_at_the_present(as_user, namespace, api_server, wait_for):
    """From the job's own version it would have expired as it begins, once that is old: a loop without a pause."""
    namespace.create("job")
    later = int(namespace.create("another")["metadata"]["resourceVersion"])
    process = as_user("reader").start("wait", "job")
    begun = wait_for(lambda: [each for each in api_server.requests_of("3") if is_watch_of(each, namespace.name)], 20)
    process.terminate()
    process.communicate(timeout=20)
    asked = parse_qs(urlsplit(begun[0]["requestURI"]).query)
    assert int(asked["resourceVersion"][0]) >= later


def is_watch_of(request: dict, namespace: str) -> bool:
    return request["verb"] == "watch" and request["objectRef"].get("namespace") == namespace


# --- cancel and resume ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("operator")
def test_cancel_stops_a_job_and_keeps_it_and_resume_goes_on(m3, namespace, kuberay, wait_for):
    job = namespace.create("job")
    rayjob = namespace.wait_for_rayjob(job)
    kuberay.start(rayjob)
    namespace.wait_for_condition("job", "Running")
    assert m3("cancel", "job").out == "trainingjob.m3.dev/job suspended\n"
    assert m3("wait", "job", "--for", "Suspended", "--timeout", "20s").code == 0
    wait_for(lambda: namespace.rayjob(rayjob["metadata"]["name"]) is None, 10)
    assert m3("cancel", "job").out == "trainingjob.m3.dev/job unchanged\n"
    assert f"m3 resume job -n {namespace.name}" in m3("status", "job").out
    assert m3("resume", "job").out == "trainingjob.m3.dev/job resumed\n"
    assert namespace.wait_for_rayjob(job, attempt=2)


def test_a_finished_job_is_neither_stopped_nor_gone_on_with(m3, namespace):
    namespace.create("job")
    write_status(namespace, "job", **DONE)
    cancelled = m3("cancel", "job")
    assert (cancelled.code, cancelled.out) == (0, "trainingjob.m3.dev/job unchanged\n")
    assert cancelled.err == "job has finished already (Complete): there is nothing to stop\n"
    resumed = m3("resume", "job")
    assert resumed.code == 2
    assert "is not run again: m3 submit --replace -f FILE" in resumed.err
    assert namespace.job("job")["spec"]["suspend"] is False
