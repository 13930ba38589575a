"""The main job: the sample, applied as a user applies it, and everything that is promised of it."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.models
import pytest
import yaml
from e2e.kube import JOBS, SYSTEM, Job, Seen

SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "trainingjob.yaml"
README = SAMPLE.parents[2] / "README.md"
NAME = "fraud-rf"
TERMINAL = {"Complete", "Failed", "ValidationFailed"}


@dataclass(frozen=True)
class Trained:
    """The sample after its run, with what kubectl said and what was seen meanwhile."""

    applied: Any
    waited: Any
    job: Job
    jobs: list[Seen]
    rayjobs: list[Seen]
    pods: list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained(cluster) -> Iterator[Trained]:
    cluster.delete_job(NAME)
    with ExitStack() as stack:
        jobs = stack.enter_context(cluster.watch("trainingjobs", f"--field-selector=metadata.name={NAME}"))
        rayjobs = stack.enter_context(cluster.watch("rayjobs", f"--selector=m3.dev/job={NAME}"))
        pods = stack.enter_context(cluster.watch("pods", f"--selector=m3.dev/job={NAME}"))
        applied = cluster.kubectl("apply", "--filename", str(SAMPLE), f"--namespace={JOBS}")
        waited = cluster.kubectl(
            *("wait", "--for=condition=Complete", f"trainingjob/{NAME}", f"--namespace={JOBS}", "--timeout=300s")
        )
        jobs.first(lambda seen: Job(seen.object).has("Registered"), timeout=30)
        seen_pods = {each.object["metadata"]["name"]: each.object for each in pods.seen}
        yield Trained(applied, waited, cluster.job(NAME), jobs.seen, rayjobs.seen, list(seen_pods.values()))
    cluster.delete_job(NAME)


def first(events: list[Seen], predicate: Callable[[Seen], bool]) -> Seen:
    return next(each for each in events if predicate(each))


@pytest.fixture(scope="module")
def run(trained, mlflow_client):
    return mlflow_client.get_run(trained.job.status["mlflow"]["runId"])


@pytest.fixture(scope="module")
def local(m3, tmp_path_factory) -> dict[str, Any]:
    """The same file on this machine."""
    return m3("run", "-f", SAMPLE, "--home", tmp_path_factory.mktemp("home"))


def test_kubectl_says_what_it_did_and_nothing_else(trained):
    assert (trained.applied.stdout, trained.applied.stderr) == (f"trainingjob.m3.dev/{NAME} created\n", "")
    assert trained.waited.stdout == f"trainingjob.m3.dev/{NAME} condition met\n"


def test_the_rayjob_is_there_a_second_after_the_trainingjob(trained, record_property):
    applied, created = trained.jobs[0], trained.rayjobs[0]
    assert (applied.type, created.type) == ("ADDED", "ADDED")
    record_property("seconds", created.at - applied.at)
    assert created.at - applied.at <= 1.0


def test_complete_is_said_three_seconds_after_the_rayjob_finished(trained, record_property):
    ended = first(trained.rayjobs, lambda seen: seen.object.get("status", {}).get("jobDeploymentStatus") in TERMINAL)
    complete = first(trained.jobs, lambda seen: Job(seen.object).has("Complete"))
    record_property("seconds", complete.at - ended.at)
    assert complete.at - ended.at <= 3.0


def test_the_job_is_complete_and_registered(trained):
    job = trained.job
    assert {kind: job.condition(kind)["status"] for kind in ("Complete", "Registered", "Running")} == {
        "Complete": "True",
        "Registered": "True",
        "Running": "False",
    }
    assert not job.has("Failed")
    assert job.status["observedGeneration"] == job.object["metadata"]["generation"]
    (attempt,) = job.status["attempts"]
    assert attempt["rayJobName"] == trained.rayjobs[0].object["metadata"]["name"]
    assert attempt["completionTime"]


def test_kubectl_get_shows_status_metric_and_model(cluster, trained, run):
    table = cluster.kubectl("get", "tj", NAME, f"--namespace={JOBS}").stdout
    head, row = (re.split(r"\s{2,}", line.strip()) for line in table.splitlines())
    shown = dict(zip(head, row, strict=True))
    assert shown.keys() == {"NAME", "STATUS", "PROGRESS", "METRIC", "MODEL", "ATTEMPT", "AGE"}
    version = trained.job.status["model"]["version"]
    assert shown["STATUS"] == "Complete"
    assert shown["METRIC"] == f"average_precision={run.data.metrics['average_precision']:.4f}"
    assert shown["MODEL"] == f"fraud_detector/{version}"
    assert shown["ATTEMPT"] == "1"


def test_the_readmes_status_tells_what_is_known(cluster, trained):
    command = next(line for line in README.read_text().splitlines() if line.startswith(".venv/bin/m3 status"))
    typed = command.split("#")[0].split()
    done = subprocess.run(
        [Path(sys.executable).parent / "m3", *typed[1:], "--namespace", JOBS],
        env=cluster.environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert NAME in typed
    assert f"fraud_detector version {trained.job.status['model']['version']}" in done.stdout
    assert "Complete" in done.stdout


def test_describe_tells_the_story(cluster, trained):
    fields = f"involvedObject.kind=TrainingJob,involvedObject.uid={trained.job.uid}"
    events = cluster.get("events", f"--namespace={JOBS}", f"--field-selector={fields}")["items"]
    reasons = {each["reason"]: each["type"] for each in events}
    assert {"RayJobCreated": "Normal", "JobComplete": "Normal", "ModelRegistered": "Normal"}.items() <= reasons.items()
    assert "Warning" not in reasons.values()


def test_the_run_leads_back_to_the_job(trained, run):
    assert run.info.status == "FINISHED"
    expected = {
        "m3.job.uid": trained.job.uid,
        "m3.job.name": NAME,
        "m3.job.namespace": JOBS,
        "m3.job.attempt": "1",
        "m3.operator": "m3-system/m3",
        "m3.model.name": "fraud_detector",
        "m3.model.version": trained.job.status["model"]["version"],
    }
    assert expected.items() <= run.data.tags.items()


def test_the_job_has_one_run(trained, mlflow_client):
    experiment = trained.job.status["mlflow"]["experimentId"]
    runs = mlflow_client.search_runs([experiment], f"tags.`m3.job.uid` = '{trained.job.uid}'")
    assert [each.info.run_id for each in runs] == [trained.job.status["mlflow"]["runId"]]


def test_the_run_has_the_parameters_of_the_file_and_the_librarys_defaults(run):
    assert {"n_estimators": "100", "max_depth": "10", "random_state": "42", "model_type": "random_forest"}.items() <= (
        run.data.params.items()
    )
    assert run.data.params["min_samples_leaf"] == "1"


def test_the_run_has_the_metrics_that_the_file_asks_for(run):
    asked = yaml.safe_load(SAMPLE.read_text())["spec"]["evaluation"]["metrics"]
    assert {*asked, "train_rows", "train_positives", "test_rows", "test_positives"} <= run.data.metrics.keys()
    for name in asked:
        assert 0 < run.data.metrics[name] <= 1, name
    assert run.data.metrics["train_rows"] + run.data.metrics["test_rows"] == 200_000


def test_the_run_has_a_picture_of_the_features(run, mlflow_client, tmp_path):
    assert "feature_importance.png" in [each.path for each in mlflow_client.list_artifacts(run.info.run_id)]
    picture = mlflow_client.download_artifacts(run.info.run_id, "feature_importance.png", str(tmp_path))
    assert Path(picture).read_bytes().startswith(b"\x89PNG\r\n")


def test_the_run_says_which_data(run, trained, local):
    digest = run.data.tags["m3.data.digest"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    assert digest == local["lineage"]["dataDigest"] == trained.job.status["lineage"]["dataDigest"]
    (dataset,) = run.inputs.dataset_inputs
    assert digest.removeprefix("sha256:").startswith(dataset.dataset.digest)
    assert run.data.tags["m3.data.rows"] == "200000"


def test_the_registered_version_is_the_runs_model_with_its_signature(trained, run, mlflow_client, local):
    shown = trained.job.status["model"]
    version = mlflow_client.get_model_version("fraud_detector", shown["version"])
    assert (shown["name"], shown["uri"]) == ("fraud_detector", f"models:/fraud_detector/{shown['version']}")
    assert (version.run_id, version.status) == (run.info.run_id, "READY")
    mlflow.set_tracking_uri(mlflow_client.tracking_uri)
    signature = mlflow.models.get_model_info(shown["uri"]).signature
    assert signature is not None
    assert signature.inputs.input_names() == local["features"]
    assert signature.outputs is not None


def test_the_registered_version_scores_a_transaction(trained, mlflow_client, m3, local):
    row = "[" + ",".join("1" for _ in local["features"]) + "]"
    uri = trained.job.status["model"]["uri"]
    answer = m3("predict", uri, "--features", row, "--tracking-uri", mlflow_client.tracking_uri)
    (probability,) = answer["probabilities"]
    assert 0 <= probability <= 1


def test_the_same_file_gives_the_same_metrics_on_this_machine(run, local):
    assert local["metrics"] == {
        name: pytest.approx(run.data.metrics[name], abs=1e-9, rel=0) for name in local["metrics"]
    }
    assert local["rows"] == {name: int(run.data.metrics[name]) for name in local["rows"]}
    assert local["lineage"]["specHash"] == run.data.tags["m3.spec.hash"]


def test_head_and_worker_ran_without_any_right(trained):
    assert {each["metadata"]["labels"]["ray.io/node-type"] for each in trained.pods} == {"head", "worker"}
    for pod in trained.pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, container["name"]


@pytest.mark.parametrize("namespace", [JOBS, SYSTEM])
def test_the_namespace_enforces_restricted_pods(cluster, namespace):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "privileged"},
        "spec": {"containers": [{"name": "c", "image": "c", "securityContext": {"privileged": True}}]},
    }
    command = ("apply", "--dry-run=server", f"--namespace={namespace}", "--filename=-")
    refused = cluster.kubectl(*command, text=yaml.safe_dump(pod), check=False)
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr


@pytest.mark.usefixtures("trained")
def test_what_it_used_is_given_back(cluster):
    start = time.monotonic()
    for kind in ("rayclusters", "pods"):
        cluster.kubectl(
            *(
                "wait",
                "--for=delete",
                kind,
                f"--selector=m3.dev/job={NAME}",
                f"--namespace={JOBS}",
                "--timeout=60s",
            )
        )
    assert time.monotonic() - start < 60
    (rayjob,) = cluster.get("rayjobs", f"--namespace={JOBS}", f"--selector=m3.dev/job={NAME}")["items"]
    assert rayjob["status"]["jobStatus"] == "SUCCEEDED", "the RayJob stays, with its status"


def test_applying_it_again_runs_nothing_again(cluster, trained):
    again = cluster.kubectl("apply", "--filename", str(SAMPLE), f"--namespace={JOBS}")
    assert again.stdout == f"trainingjob.m3.dev/{NAME} unchanged\n"
    rayjobs = cluster.get("rayjobs", f"--namespace={JOBS}", f"--selector=m3.dev/job={NAME}")["items"]
    assert [each["metadata"]["name"] for each in rayjobs] == [trained.job.status["attempts"][0]["rayJobName"]]
