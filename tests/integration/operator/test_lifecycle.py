"""A TrainingJob's life, from `kubectl apply` to its registered model."""

import threading
import time
from datetime import UTC, datetime

import pytest

at_work = pytest.mark.usefixtures("operator")


@at_work
def test_a_job_becomes_a_rayjob_within_a_second(namespace):
    # the first one also waits for the operator's start
    namespace.wait_for_rayjob(namespace.create("warm-up"))
    start = time.monotonic()
    job = namespace.create("fraud-rf")
    rayjob = namespace.wait_for_rayjob(job, timeout=5)
    took = time.monotonic() - start
    assert rayjob["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert took <= 1.0


@at_work
def test_the_rayjob_is_what_kuberay_and_the_job_need(namespace):
    job = namespace.create("fraud-rf", ray={"workers": {"replicas": 2}})
    spec = namespace.wait_for_rayjob(job)["spec"]
    assert spec["entrypoint"] == "python -m m3_trainer job"
    assert spec["submissionMode"] == "HTTPMode"
    assert spec["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert job["metadata"]["uid"] in spec["runtimeEnvYAML"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["workerGroupSpecs"][0]["replicas"] == 2
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert head["automountServiceAccountToken"] is False
    assert head["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


@at_work
def test_conditions_follow_the_rayjob_to_a_registered_model(namespace, kuberay, mlflow, wait_for):
    job = namespace.create("fraud-rf")
    rayjob = namespace.wait_for_rayjob(job)
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "ClusterStarting", 5)
    kuberay.initializing(rayjob)
    kuberay.cluster_ready(rayjob)
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "JobStarting", 5)
    kuberay.running(rayjob)
    assert namespace.wait_for_condition("fraud-rf", "Running")["reason"] == "JobRunning"

    run = mlflow.train(job, average_precision=0.6581, roc_auc=0.871)
    mlflow.finish(run)
    kuberay.succeeded(rayjob)
    namespace.wait_for_condition("fraud-rf", "Registered")

    status = namespace.status("fraud-rf")
    assert {condition["type"]: condition["status"] for condition in status["conditions"]} == {
        "ClusterReady": "False", "Complete": "True", "Registered": "True", "Running": "False",
    }  # fmt: skip
    assert status["model"] == {
        "name": "fraud_detector", "version": "3", "uri": "models:/fraud_detector/3", "aliases": [],
    }  # fmt: skip
    assert status["mlflow"]["runId"] == run
    assert status["mlflow"]["url"].startswith("https://mlflow.example/#/experiments/")
    assert status["progress"]["percentage"] == 100
    assert {metric["name"]: metric["value"] for metric in status["progress"]["metrics"]} == {
        "average_precision": 0.6581, "roc_auc": 0.871,
    }  # fmt: skip
    assert status["lineage"]["rows"] == 1000
    attempt = status["attempts"][0]
    assert (attempt["reason"], attempt["rayClusterName"]) == ("Succeeded", f"{rayjob['metadata']['name']}-8wq4z")
    assert status["settled"] is True
    assert namespace.rayjob(rayjob["metadata"]["name"])["metadata"]["labels"]["m3.dev/settled"] == "true"


@at_work
def test_complete_within_three_seconds_of_the_rayjobs_end(namespace, kuberay):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    kuberay.start(rayjob)
    namespace.wait_for_condition("fraud-rf", "Running")
    start = time.monotonic()
    kuberay.succeeded(rayjob)
    namespace.wait_for_condition("fraud-rf", "Complete")
    assert time.monotonic() - start <= 3.0


@at_work
def test_kubectl_waits_for_complete_and_shows_the_result(namespace, kuberay, mlflow, api_server):
    job = namespace.create("fraud-rf")
    rayjob = namespace.wait_for_rayjob(job)
    waiting = threading.Thread(
        target=api_server.kubectl,
        args=("-n", namespace.name, "wait", "--for=condition=Complete", "trainingjob/fraud-rf", "--timeout=30s"),
    )
    waiting.start()
    mlflow.finish(mlflow.train(job, average_precision=0.65812))
    kuberay.start(rayjob)
    kuberay.succeeded(rayjob)
    waiting.join(30)
    assert not waiting.is_alive()
    namespace.wait_for_condition("fraud-rf", "Registered")
    table = api_server.kubectl("-n", namespace.name, "get", "tj").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATUS", "PROGRESS", "METRIC", "MODEL", "ATTEMPT", "AGE"]
    assert table[1].split()[:6] == [
        "fraud-rf", "Complete", "100", "average_precision=0.6581", "fraud_detector/3", "1",
    ]  # fmt: skip
    assert "fraud-rf" in api_server.kubectl("-n", namespace.name, "get", "ml").stdout


def test_metrics_and_progress_show_while_the_job_runs(make_operator, namespace, kuberay, mlflow, wait_for):
    make_operator(M3_MLFLOW_TRACKING_URI=mlflow.uri, M3_RESYNC_SECONDS="0.5").start()
    job = namespace.create("fraud-rf")
    kuberay.start(namespace.wait_for_rayjob(job))
    mlflow.train(job, version=None, percentage=60, average_precision=0.5)
    wait_for(lambda: namespace.status("fraud-rf").get("display", {}).get("metric") == "average_precision=0.5000", 10)
    assert namespace.status("fraud-rf")["progress"]["percentage"] == 60
    assert namespace.condition("fraud-rf", "Running")["status"] == "True"


@at_work
def test_conditions_carry_the_generation_they_were_made_from(namespace, kuberay, wait_for):
    job = namespace.create("fraud-rf")
    assert job["metadata"]["generation"] == 1
    rayjob = namespace.wait_for_rayjob(job)
    wait_for(lambda: namespace.status("fraud-rf").get("observedGeneration") == 1, 5)
    namespace.patch("fraud-rf", activeDeadlineSeconds=3600)
    wait_for(lambda: namespace.status("fraud-rf").get("observedGeneration") == 2, 5)
    kuberay.start(rayjob)
    assert namespace.wait_for_condition("fraud-rf", "Running")["observedGeneration"] == 2


@at_work
def test_a_transition_time_moves_only_with_the_status(namespace, kuberay, wait_for):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    wait_for(lambda: namespace.condition("fraud-rf", "Running"), 5)
    first = namespace.condition("fraud-rf", "Running")["lastTransitionTime"]
    wait_for(lambda: datetime.now(UTC) > datetime.fromisoformat(first).replace(second=0, microsecond=0), 5)
    tick = time.monotonic() + 1.1
    wait_for(lambda: time.monotonic() > tick, 5)
    kuberay.initializing(rayjob)
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "ClusterStarting", 5)
    assert namespace.condition("fraud-rf", "Running")["lastTransitionTime"] == first


@at_work
def test_events_tell_what_happened_once(namespace, kuberay, wait_for):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    kuberay.start(rayjob)
    kuberay.succeeded(rayjob)
    namespace.wait_for_condition("fraud-rf", "Complete")
    wait_for(lambda: namespace.events("JobComplete"), 5)
    assert len(namespace.events("RayJobCreated")) == 1
    assert namespace.events("RayJobCreated")[0].involved_object.name == "fraud-rf"


@at_work
def test_a_job_on_a_running_cluster_makes_none(namespace):
    job = namespace.create("fraud-rf", ray={"clusterSelector": {"ray.io/cluster": "warm"}})
    spec = namespace.wait_for_rayjob(job)["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "warm"}
    assert "rayClusterSpec" not in spec


def test_deletion_needs_no_operator(operator, namespace, wait_for):
    job = namespace.create("fraud-rf")
    rayjob = namespace.wait_for_rayjob(job)
    wait_for(lambda: namespace.status("fraud-rf").get("attempts"), 5)
    operator.kill()
    assert "finalizers" not in namespace.job("fraud-rf")["metadata"]
    namespace.server.kubectl("-n", namespace.name, "delete", "tj", "fraud-rf", "--timeout=5s")
    assert namespace.job("fraud-rf") is None
    # the garbage collector takes the RayJob for this
    assert rayjob["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "name": "fraud-rf", "uid": job["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": False,
        }
    ]  # fmt: skip


@at_work
def test_suspend_deletes_the_rayjob_and_resume_makes_the_next_attempt(namespace, kuberay, wait_for):
    job = namespace.create("fraud-rf")
    first = namespace.wait_for_rayjob(job)
    kuberay.start(first)
    namespace.wait_for_condition("fraud-rf", "Running")
    namespace.patch("fraud-rf", suspend=True)
    namespace.wait_for_condition("fraud-rf", "Suspended")
    wait_for(lambda: namespace.rayjob(first["metadata"]["name"]) is None, 5)
    assert namespace.status("fraud-rf")["attempts"][0]["reason"] == "Suspended"
    namespace.patch("fraud-rf", suspend=False)
    namespace.wait_for_rayjob(job, attempt=2)
    namespace.wait_for_condition("fraud-rf", "Suspended", status="False")
    assert namespace.status("fraud-rf").get("failedAttempts", 0) == 0


@at_work
def test_a_job_made_suspended_may_still_be_changed(namespace, api_server):
    job = namespace.create("fraud-rf", suspend=True)
    namespace.wait_for_condition("fraud-rf", "Suspended")
    assert namespace.rayjobs() == []
    namespace.patch("fraud-rf", model={"hyperparameters": {"n_estimators": 7}})
    namespace.patch("fraud-rf", suspend=False)
    assert '\\"n_estimators\\":7' in namespace.wait_for_rayjob(job)["spec"]["runtimeEnvYAML"]
    change = '{"spec":{"model":{"hyperparameters":{"n_estimators":8}}}}'
    refused = api_server.kubectl(
        "-n", namespace.name, "patch", "tj", "fraud-rf", "--type=merge", "-p", change, check=False
    )
    assert "`spec.model` must stay as it was created" in refused.stderr


@pytest.mark.parametrize("field", ["activeDeadlineSeconds", "preRunningDeadlineSeconds"])
@at_work
def test_a_deadline_ends_the_job(namespace, wait_for, field):
    job = namespace.create("fraud-rf", backoffLimit=0, **{field: 1})
    rayjob = namespace.wait_for_rayjob(job)
    reason = namespace.wait_for_condition("fraud-rf", "Failed", timeout=8)["reason"]
    assert reason == {"activeDeadlineSeconds": "DeadlineExceeded"}.get(field, "PreRunningDeadlineExceeded")
    wait_for(lambda: namespace.rayjob(rayjob["metadata"]["name"]) is None, 5)


@at_work
def test_a_finished_job_is_deleted_when_its_time_to_live_is_over(namespace, kuberay, wait_for):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf", ttlSecondsAfterFinished=1))
    kuberay.start(rayjob)
    kuberay.failed(rayjob, 'M3_ERROR {"reason": "InvalidData", "message": "the file must have rows"}')
    wait_for(lambda: namespace.job("fraud-rf") is None, 10)
