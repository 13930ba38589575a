"""Kueue's part is played here as its RayJob integration plays it: it alone writes `spec.suspend` of the RayJob."""

import pytest

QUEUE = "kueue.x-k8s.io/queue-name"


@pytest.fixture
def queued(namespace, operator):  # noqa: ARG001
    """A TrainingJob in a queue, and its RayJob, which waits."""
    body = namespace.training_job("fraud-rf", preRunningDeadlineSeconds=600)
    body["metadata"]["labels"] = {QUEUE: "ml"}
    job = namespace.objects.create_namespaced_custom_object("m3.dev", "v1alpha1", namespace.name, "trainingjobs", body)
    return job, namespace.wait_for_rayjob(job)


def write_suspend(namespace, rayjob, suspend):
    return namespace.objects.patch_namespaced_custom_object(
        "ray.io", "v1", namespace.name, "rayjobs", rayjob["metadata"]["name"], {"spec": {"suspend": suspend}}
    )


def test_the_rayjob_waits_in_the_queue(namespace, queued):
    _, rayjob = queued
    assert rayjob["metadata"]["labels"][QUEUE] == "ml"
    assert (rayjob["spec"]["suspend"], rayjob["spec"]["shutdownAfterJobFinishes"]) == (True, True)
    assert "deletionStrategy" not in rayjob["spec"]
    assert QUEUE not in rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    quota = namespace.wait_for_condition("fraud-rf", "QuotaReserved", "False")
    assert (quota["reason"], quota["message"]) == ("WaitingForQuota", "waits for quota in Kueue's queue ml")
    assert namespace.status("fraud-rf")["display"]["status"] == "Queued"
    assert "startTime" not in namespace.status("fraud-rf")


def test_what_kueue_writes_stays_and_is_told(namespace, queued, kuberay, mlflow):
    job, rayjob = queued
    kuberay.suspended(rayjob)
    admitted = write_suspend(namespace, rayjob, False)
    kuberay.start(rayjob)
    assert namespace.wait_for_condition("fraud-rf", "QuotaReserved")["reason"] == "Admitted"
    namespace.wait_for_condition("fraud-rf", "Running")
    assert "startTime" in namespace.status("fraud-rf")
    # the quota is taken back, and given again
    write_suspend(namespace, rayjob, True)
    kuberay.suspended(rayjob)
    namespace.wait_for_condition("fraud-rf", "QuotaReserved", "False")
    assert namespace.condition("fraud-rf", "Running")["reason"] == "WaitingForQuota"
    write_suspend(namespace, rayjob, False)
    kuberay.start(rayjob)
    namespace.wait_for_condition("fraud-rf", "Running")
    mlflow.finish(mlflow.train(job))
    kuberay.succeeded(rayjob)
    namespace.wait_for_condition("fraud-rf", "Complete")
    last = namespace.rayjob(rayjob["metadata"]["name"])
    assert last["spec"]["suspend"] is False
    assert last["metadata"]["uid"] == admitted["metadata"]["uid"]
    writers = {
        entry["manager"] for entry in last["metadata"]["managedFields"] if "f:suspend" in str(entry.get("fieldsV1"))
    }
    assert writers == {entry["manager"] for entry in admitted["metadata"]["managedFields"] if "f:suspend" in str(entry)}
    assert len(namespace.status("fraud-rf")["attempts"]) == 1


def test_suspending_a_queued_job_gives_its_place_back(namespace, queued, wait_for):
    _, rayjob = queued
    namespace.wait_for_condition("fraud-rf", "QuotaReserved", "False")
    namespace.patch("fraud-rf", suspend=True)
    namespace.wait_for_condition("fraud-rf", "Suspended")
    wait_for(lambda: namespace.rayjob(rayjob["metadata"]["name"]) is None, 5)
    # nothing has run: the workload may still be changed
    namespace.patch("fraud-rf", model={"hyperparameters": {"n_estimators": 7}})


def test_without_the_label_nothing_waits(namespace, operator, kuberay):  # noqa: ARG001
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    assert "suspend" not in rayjob["spec"]
    kuberay.start(rayjob)
    namespace.wait_for_condition("fraud-rf", "Running")
    assert namespace.condition("fraud-rf", "QuotaReserved") == {}
