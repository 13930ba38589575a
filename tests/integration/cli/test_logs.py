"""m3 logs where there is no kubelet: what MLflow has kept, and why there is no log. tests/e2e has the pods."""

import pytest

NOW = "2026-01-01T00:00:00Z"


@pytest.fixture
def write_status(namespace):
    """The status of a job, as the operator writes it."""

    def write(name: str, **status) -> None:
        namespace.objects.patch_namespaced_custom_object_status(
            "m3.dev", "v1alpha1", namespace.name, "trainingjobs", name, {"status": status}
        )

    return write


def running(status: str, reason: str, message: str) -> dict:
    told = {"type": "Running", "status": status, "reason": reason, "message": message}
    return told | {"lastTransitionTime": NOW}


def attempt(number: int, **ended) -> dict:
    return {"number": number, "rayJobName": f"job-1a2b-{number}", "startTime": NOW} | ended


@pytest.fixture
def trained(namespace, mlflow, keep_log, write_status):
    """A job whose second attempt has succeeded, with the output of both in MLflow."""
    job = namespace.create("job")
    runs = {number: mlflow.train(job, attempt=number) for number in (1, 2)}
    keep_log(mlflow.uri, runs[1], "reading\nthe head goes away\n")
    keep_log(mlflow.uri, runs[2], "reading\ntraining\ndone\n")
    write_status(
        "job",
        conditions=[running("False", "Finished", "")],
        attempts=[attempt(1, completionTime=NOW, reason="HeadRestarted"), attempt(2, completionTime=NOW)],
        mlflow={"experimentId": mlflow._experiment("fraud_detection"), "runId": runs[2]},
    )
    return job


@pytest.mark.usefixtures("trained")
def test_the_output_of_a_finished_job_is_in_mlflow(m3, mlflow):
    at = ("--tracking-uri", mlflow.uri)
    assert m3("logs", "job", *at).out == "reading\ntraining\ndone\n"
    assert m3("logs", "job", *at, "--tail", "1").out == "done\n"
    assert m3("logs", "job", *at, "--attempt", "1").out == "reading\nthe head goes away\n"
    assert m3("logs", "job", MLFLOW_TRACKING_URI=mlflow.uri).out == "reading\ntraining\ndone\n"
    told = m3.json("logs", "job", *at)
    assert told.pop("namespace").startswith("test-")
    assert told == {"job": "job", "attempt": 2, "source": "mlflow", "lines": ["reading", "training", "done"]}
    unknown = m3("logs", "job", *at, "--attempt", "7")
    assert (unknown.code, unknown.err) == (2, "error: --attempt: must be one of 1, 2, is 7\n")


def test_the_run_is_found_where_the_operator_could_not_see_mlflow(m3, namespace, mlflow, keep_log, write_status):
    job = namespace.create("job")
    keep_log(mlflow.uri, mlflow.train(job), "training\n")
    write_status("job", attempts=[attempt(1, completionTime=NOW)])
    assert m3("logs", "job", "--tracking-uri", mlflow.uri).out == "training\n"


def test_follow_of_a_job_that_is_over_shows_it_and_ends(m3, namespace, mlflow, keep_log, write_status):
    job = namespace.create("job")
    keep_log(mlflow.uri, mlflow.train(job), "training\n")
    complete = running("True", "Succeeded", "") | {"type": "Complete"}
    write_status("job", conditions=[complete], attempts=[attempt(1, completionTime=NOW)])
    assert m3("logs", "-f", "job", "--tracking-uri", mlflow.uri).out == "training\n"


def test_a_job_that_has_not_begun_says_why(m3, namespace, write_status):
    namespace.create("job")
    ended = m3("logs", "job")
    assert (ended.code, ended.err) == (12, "error: `job` has no log yet: it has only just been made (Pending)\n")
    stuck = running("False", "Unschedulable", "no node has 64 CPUs: lower the requests")
    write_status("job", conditions=[stuck], attempts=[attempt(1)])
    ended = m3("logs", "job")
    assert (ended.code, ended.err) == (
        12,
        "error: `job` has no log yet: no node has 64 CPUs: lower the requests (Unschedulable)\n",
    )
    failed = running("True", "InvalidSpec", "`n_estimators` must be positive") | {"type": "Failed"}
    namespace.create("refused")
    write_status("refused", conditions=[failed])
    assert m3("logs", "refused").err == (
        "error: `refused` has no log yet: it failed before it ran (InvalidSpec): `n_estimators` must be positive\n"
    )


def test_an_attempt_that_left_nothing_says_how_it_ended(m3, namespace, mlflow, write_status):
    job = namespace.create("job")
    run = mlflow.train(job)
    write_status(
        "job",
        attempts=[attempt(1, completionTime=NOW, reason="OOMKilled", message="the limit is 1Gi: raise it")],
        mlflow={"experimentId": mlflow._experiment("fraud_detection"), "runId": run},
    )
    ended = m3("logs", "job", "--tracking-uri", mlflow.uri)
    assert (ended.code, ended.err) == (
        12,
        f"error: attempt 1 of `job` has left no log: its run {run} in MLflow at {mlflow.uri} has no logs/driver.log. "
        "It ended as OOMKilled: the limit is 1Gi: raise it\n",
    )


@pytest.mark.usefixtures("trained")
def test_an_mlflow_that_does_not_answer_is_named_with_the_way_to_it(m3):
    there = m3("logs", "job", "--tracking-uri", "http://127.0.0.1:9")
    assert (there.code, there.err.split(" answer: ")[0]) == (4, "error: MLflow at http://127.0.0.1:9 must")
    through = m3("logs", "job")
    assert (through.code, through.err) == (
        4,
        "error: MLflow in the cluster (service m3-system/mlflow) must be there: "
        "name it with --system-namespace and --mlflow-service, or --tracking-uri\n",
    )


def test_the_log_of_a_warm_clusters_head_is_asked_for_by_the_clusters_name(m3, namespace, write_status):
    """The pod is there and no kubelet is: the API server says that it cannot reach it, and not that there is no pod."""
    namespace.create("job", ray={"clusterSelector": {"ray.io/cluster": "warm"}})
    labels = {"ray.io/cluster": "warm", "ray.io/node-type": "head"}
    namespace.core.create_namespaced_service_account(namespace.name, {"metadata": {"name": "default"}})
    namespace.core.create_namespaced_pod(
        namespace.name,
        {
            "metadata": {"name": "warm-head", "labels": labels},
            "spec": {
                "containers": [{"name": "ray-head", "image": "none"}],
                "nodeName": "nowhere",
                "automountServiceAccountToken": False,
            },
        },
    )
    run = running("True", "JobRunning", "the job runs")
    write_status("job", conditions=[run], attempts=[attempt(1, rayClusterName="warm")])
    ended = m3("logs", "job")
    assert (ended.code, ended.err) == (12, 'error: `job` runs, and has no log yet: pods "nowhere" not found\n')


def test_json_and_follow_exclude_each_other(m3):
    ended = m3("logs", "-f", "job", "-o", "json")
    assert (ended.code, ended.err) == (
        2,
        "error: --follow: must be left out with --output json; wait first: m3 wait JOB\n",
    )
