"""What goes wrong in a job, or in its file, and how the user hears of it."""

import json
import time

import pytest

at_work = pytest.mark.usefixtures("operator")


DATA_ERROR = {
    "reason": "InvalidData",
    "type": "DataError",
    "message": "column `TX_FRAUD` must have both classes, has only 0",
    "retriable": False,
}


@at_work
def test_the_jobs_own_words_reach_the_condition(namespace, kuberay):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    kuberay.start(rayjob)
    kuberay.failed(rayjob, f"reading\nM3_ERROR {json.dumps(DATA_ERROR)}\n")
    failed = namespace.wait_for_condition("fraud-rf", "Failed")
    assert (failed["reason"], failed["message"]) == ("InvalidData", DATA_ERROR["message"])
    status = namespace.status("fraud-rf")
    assert status["attempts"][0]["reason"] == "InvalidData"
    assert status["display"]["status"] == "Failed"
    assert len(namespace.rayjobs()) == 1, "a user's error must not be tried again"


def test_the_reason_is_known_with_mlflow_down(make_operator, namespace, kuberay):
    make_operator().start()
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    kuberay.failed(rayjob, f"M3_ERROR {json.dumps(DATA_ERROR)}")
    assert namespace.wait_for_condition("fraud-rf", "Failed")["reason"] == "InvalidData"


@pytest.mark.parametrize(
    ("spec", "message"),
    {
        "a misspelt hyperparameter": (
            {"model": {"hyperparameters": {"n_estimator": 5}}},
            "did you mean `n_estimators`?",
        ),
        "a hyperparameter of the wrong type": (
            {"model": {"hyperparameters": {"n_estimators": "many"}}},
            "`n_estimators` must be",
        ),
    }.values(),
    ids=["misspelt", "wrong type"],
)
@at_work
def test_what_only_python_can_know_fails_before_anything_is_made(namespace, spec, message):
    namespace.create("fraud-rf", **spec)
    failed = namespace.wait_for_condition("fraud-rf", "Failed")
    assert failed["reason"] == "InvalidSpec"
    assert message in failed["message"]
    assert namespace.rayjobs() == []
    assert namespace.status("fraud-rf")["settled"] is True


@at_work
def test_a_crash_is_tried_again_after_a_pause(namespace, kuberay, wait_for):
    job = namespace.create("fraud-rf", backoffLimit=1)
    first = namespace.wait_for_rayjob(job)
    kuberay.start(first)
    kuberay.failed(first, "Killed")
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "BackingOff", 5)
    assert namespace.status("fraud-rf")["display"]["status"] == "Retrying"
    second = namespace.wait_for_rayjob(job, attempt=2, timeout=20)
    kuberay.start(second)
    kuberay.failed(second, "Killed")
    failed = namespace.wait_for_condition("fraud-rf", "Failed")
    assert failed["reason"] == "JobCrashed"
    assert "Killed" in failed["message"]
    status = namespace.status("fraud-rf")
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 2]
    assert status["failedAttempts"] == 2


@at_work
def test_a_rayjob_that_somebody_deletes_ends_the_attempt(namespace, kuberay):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf", backoffLimit=0))
    kuberay.start(rayjob)
    namespace.wait_for_condition("fraud-rf", "Running")
    namespace.server.kubectl("-n", namespace.name, "delete", "rayjob", rayjob["metadata"]["name"])
    assert namespace.wait_for_condition("fraud-rf", "Failed")["reason"] == "RayJobDeleted"


@at_work
def test_a_quota_is_told_and_the_rayjob_made_when_it_is_lifted(namespace, wait_for):
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"count/rayjobs.ray.io": "0"}},
    }
    namespace.core.create_namespaced_resource_quota(namespace.name, quota)
    namespace.core.patch_namespaced_resource_quota_status(
        "none",
        namespace.name,
        {"status": {"hard": {"count/rayjobs.ray.io": "0"}, "used": {"count/rayjobs.ray.io": "0"}}},
    )
    job = namespace.create("fraud-rf")
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "QuotaExceeded", 5)
    assert "exceeded quota: none" in namespace.condition("fraud-rf", "Running")["message"]
    namespace.core.delete_namespaced_resource_quota("none", namespace.name)
    namespace.wait_for_rayjob(job, timeout=25)


class TestMlflowDown:
    def test_complete_does_not_wait_and_the_model_is_found_later(self, make_operator, namespace, kuberay, mlflow):
        make_operator(M3_MLFLOW_TRACKING_URI=mlflow.uri, M3_RESYNC_SECONDS="1").start()
        job = namespace.create("fraud-rf")
        rayjob = namespace.wait_for_rayjob(job)
        kuberay.start(rayjob)
        mlflow.finish(mlflow.train(job, average_precision=0.61))
        namespace.wait_for_condition("fraud-rf", "Running")
        mlflow.freeze()
        try:
            start = time.monotonic()
            kuberay.succeeded(rayjob)
            namespace.wait_for_condition("fraud-rf", "Complete")
            assert time.monotonic() - start <= 3.0
            registered = namespace.wait_for_condition("fraud-rf", "Registered", status="Unknown")
            assert registered["reason"] == "TrackingUnavailable"
            assert not namespace.status("fraud-rf").get("settled")
        finally:
            mlflow.thaw()
        namespace.wait_for_condition("fraud-rf", "Registered", timeout=20)
        assert namespace.status("fraud-rf")["settled"] is True

    def test_a_refused_connection_is_no_hindrance(self, make_operator, namespace, kuberay):
        make_operator().start()
        rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
        kuberay.start(rayjob)
        kuberay.succeeded(rayjob)
        namespace.wait_for_condition("fraud-rf", "Complete")
        assert namespace.condition("fraud-rf", "Registered")["status"] == "Unknown"


@at_work
def test_a_run_without_a_model_is_not_registered(namespace, kuberay, mlflow):
    job = namespace.create("fraud-rf")
    rayjob = namespace.wait_for_rayjob(job)
    mlflow.finish(mlflow.train(job, version=None, average_precision=0.61))
    kuberay.succeeded(rayjob)
    registered = namespace.wait_for_condition("fraud-rf", "Registered", status="False")
    assert registered["reason"] == "NoModelVersion"


@at_work
def test_a_job_without_a_run_is_not_registered(namespace, kuberay):
    kuberay.succeeded(
        namespace.wait_for_rayjob(namespace.create("fraud-rf", tracking={"experimentName": "nobody_has_it"}))
    )
    assert namespace.wait_for_condition("fraud-rf", "Registered", status="False")["reason"] == "RunNotFound"
