"""What a user can get wrong, and what can go wrong around a job: one message that says what must be true, and no model."""

from collections.abc import Iterator

import pytest
import yaml
from e2e.kube import JOBS, SYSTEM

# A file that the door refuses: how it differs from a good one, and what kubectl must say.
REFUSED = {
    "a typo in a field's name": (
        {"data": {"uri": "s3://b/x.csv", "tarqet": "y", "target": "y"}},
        'unknown field "spec.data.tarqet"',
    ),
    "a missing field": ({"data": {"uri": "s3://b/x.csv"}}, "spec.data.target: Required value"),
    "a wrong type": (
        {"training": {"testSize": "much"}},
        'spec.training.testSize in body must be of type number: "string"',
    ),
    "an unknown model type": ({"model": {"type": "random_florest"}}, "`type` must be one of random_forest"),
    "a share above one": ({"training": {"testSize": 20}}, "spec.training.testSize"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_the_api_server_refuses(cluster, small_job, sentence):
    spec, message = REFUSED[sentence]
    document = yaml.safe_dump(small_job("refused", **spec))
    done = cluster.kubectl("apply", f"--namespace={JOBS}", "--filename=-", text=document, check=False)
    assert done.returncode != 0
    assert message in done.stderr


def failed(job) -> tuple[str, str]:
    assert not job.has("Complete")
    assert not job.has("Registered")
    return job.condition("Failed")["reason"], job.condition("Failed")["message"]


def assert_no_model(client, job) -> None:
    model = job.object["spec"]["registry"]["modelName"]
    assert client.search_model_versions(f"name = '{model}'") == []


def test_an_unknown_hyperparameter_is_refused_before_anything_is_made(cluster, small_job, run_job):
    job = run_job(small_job("unknown-hyperparameter", model={"hyperparameters": {"n_estimator": 10}}), timeout=30)
    reason, message = failed(job)
    assert reason == "InvalidSpec"
    assert "n_estimator" in message
    assert cluster.get("rayjobs", f"--namespace={JOBS}", f"--selector=m3.dev/job={job.name}")["items"] == []


def data(**changes: object) -> dict[str, object]:
    return {"uri": "sample://transactions?rows=5000&seed=1", "target": "TX_FRAUD", **changes}


INVALID_DATA = {
    "a file that is not there": (
        {"data": data(uri="/data/transactions.csv")},
        "data.uri: the file /data/transactions.csv must exist where the job runs",
    ),
    "a column that is not there": (
        {"data": data(target="TX_FRAUDS")},
        "data.target: column `TX_FRAUDS` must be in the data; did you mean `TX_FRAUD`?",
    ),
}


@pytest.mark.parametrize("sentence", INVALID_DATA)
def test_the_condition_says_what_is_wrong_with(sentence, small_job, run_job, mlflow_client):
    spec, message = INVALID_DATA[sentence]
    job = run_job(small_job(sentence.replace(" ", "-"), **spec, backoffLimit=2))
    reason, said = failed(job)
    assert reason == "InvalidData"
    assert message in said
    assert "Traceback" not in said
    assert len(job.status["attempts"]) == 1, "a user's mistake is not tried again"
    assert_no_model(mlflow_client, job)


@pytest.fixture
def one_class(cluster) -> Iterator[str]:
    """A ConfigMap with a CSV file that holds no fraud."""
    rows = "\n".join(f"{n},{n % 7},0" for n in range(200))
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "one-class"},
            "data": {"transactions.csv": f"TX_AMOUNT,TX_HOUR,TX_FRAUD\n{rows}\n"},
        }
    )
    yield "one-class"
    cluster.kubectl("delete", "configmap", "one-class", f"--namespace={JOBS}")


def test_the_condition_says_that_a_target_has_one_class(small_job, run_job, mlflow_client, one_class):
    volume = {"name": "data", "mountPath": "/data", "configMap": {"name": one_class}}
    job = run_job(small_job("one-class", data=data(uri="/data/transactions.csv"), ray={"head": {"volumes": [volume]}}))
    assert failed(job) == ("InvalidData", "data.target: `TX_FRAUD` must have both classes, 0 and 1; every row has 0")
    assert_no_model(mlflow_client, job)


def test_the_condition_says_that_a_disk_is_full(small_job, run_job, mlflow_client):
    """A disk of 64 KiB as the place for temporary files: the model does not fit."""
    scratch = {"name": "scratch", "mountPath": "/scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "64Ki"}}
    env = [{"name": "TMPDIR", "value": "/scratch"}, {"name": "RAY_TMPDIR", "value": "/tmp"}]
    job = run_job(small_job("full-disk", ray={"head": {"volumes": [scratch], "env": env}}))
    reason, message = failed(job)
    assert reason == "StorageFull"
    assert "/scratch must have free space" in message
    assert_no_model(mlflow_client, job)
    runs = mlflow_client.search_runs(
        [mlflow_client.get_experiment_by_name("e2e").experiment_id], f"tags.`m3.job.uid` = '{job.uid}'"
    )
    assert [each.info.status for each in runs] == ["FAILED"]


@pytest.fixture
def mlflow_down(cluster) -> Iterator[None]:
    def scale(replicas: int) -> None:
        cluster.kubectl("scale", "deployment/mlflow", f"--namespace={SYSTEM}", f"--replicas={replicas}")

    scale(0)
    pods = ("pods", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/instance=mlflow")
    try:
        cluster.kubectl("wait", "--for=delete", *pods, "--timeout=60s")
        yield
    finally:
        scale(1)
        cluster.kubectl("rollout", "status", "deployment/mlflow", f"--namespace={SYSTEM}", "--timeout=120s")


@pytest.mark.usefixtures("mlflow_down")
def test_a_users_mistake_reaches_the_condition_with_mlflow_down(small_job, run_job):
    job = run_job(small_job("mistake-mlflow-down", data=data(target="TX_FRAUDS")))
    reason, message = failed(job)
    assert reason == "InvalidData"
    assert "column `TX_FRAUDS` must be in the data" in message


@pytest.mark.usefixtures("mlflow_down")
def test_that_mlflow_is_down_reaches_the_condition(small_job, run_job):
    job = run_job(small_job("mlflow-down"))
    reason, message = failed(job)
    assert reason == "TrackingUnavailable"
    assert "MLflow at http://mlflow.m3-system.svc.cluster.local:5000 must answer" in message
