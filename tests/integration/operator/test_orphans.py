"""Runs whose process is gone, heads that were replaced, aliases: what the operator tells MLflow, and believes of it."""

import pytest

PROMOTION = {"alias": "champion", "metric": "average_precision"}


@pytest.fixture
def quick(make_operator, mlflow):
    """An operator that looks around each second."""
    return make_operator(M3_MLFLOW_TRACKING_URI=mlflow.uri, M3_RESYNC_SECONDS="1")


class TestRunsWithoutAProcess:
    def test_the_run_of_a_deleted_job_is_killed(self, namespace, kuberay, mlflow, wait_for, quick):
        quick.start()
        job = namespace.create("fraud-rf")
        kuberay.start(namespace.wait_for_rayjob(job))
        run = mlflow.train(job, version=None, percentage=10)
        wait_for(lambda: namespace.status("fraud-rf").get("mlflow"), 10)
        namespace.delete("fraud-rf")
        wait_for(lambda: mlflow.run_status(run) == "KILLED", 10)

    def test_also_where_it_was_deleted_while_nobody_looked(self, namespace, kuberay, mlflow, wait_for, quick):
        job = namespace.create("fraud-rf", tracking={"experimentName": f"alone-{namespace.name}"})
        run = mlflow.train(job, version=None)
        namespace.delete("fraud-rf")
        quick.start()
        wait_for(lambda: mlflow.run_status(run) == "KILLED", 30)
        assert kuberay.namespace.rayjobs() == []

    def test_the_run_of_a_crash_has_failed_and_that_of_a_suspended_job_is_killed(
        self, namespace, kuberay, mlflow, wait_for, quick
    ):
        quick.start()
        job = namespace.create("fraud-rf", backoffLimit=0)
        rayjob = namespace.wait_for_rayjob(job)
        kuberay.start(rayjob)
        crashed = mlflow.train(job, version=None)
        kuberay.failed(rayjob, "Killed")
        wait_for(lambda: mlflow.run_status(crashed) == "FAILED", 10)

        job = namespace.create("fraud-rf-2")
        kuberay.start(namespace.wait_for_rayjob(job))
        namespace.wait_for_condition("fraud-rf-2", "Running")
        stopped = mlflow.train(job, version=None)
        namespace.patch("fraud-rf-2", suspend=True)
        wait_for(lambda: mlflow.run_status(stopped) == "KILLED", 10)

    def test_a_run_that_goes_on_is_left_alone(self, namespace, kuberay, mlflow, wait_for, quick):
        quick.start()
        job = namespace.create("fraud-rf")
        kuberay.start(namespace.wait_for_rayjob(job))
        run = mlflow.train(job, version=None, percentage=10)
        seen = quick.metric("m3_kubernetes_requests_total")
        wait_for(lambda: quick.metric("m3_kubernetes_requests_total") >= seen + 8, 20)  # four looks around
        assert mlflow.run_status(run) == "RUNNING"


class TestHeads:
    def run_on_two_heads(self, namespace, kuberay, job):
        rayjob = namespace.wait_for_rayjob(job)
        kuberay.head_is(rayjob, "head-a")
        kuberay.start(rayjob)
        namespace.wait_for_condition(job["metadata"]["name"], "Running")
        return rayjob

    def test_a_replaced_head_ends_the_attempt_and_deletes_its_rayjob(self, namespace, kuberay, wait_for, operator):  # noqa: ARG002
        rayjob = self.run_on_two_heads(namespace, kuberay, namespace.create("fraud-rf"))
        assert namespace.status("fraud-rf")["attempts"][0]["headPodName"] == "head-a"
        kuberay.head_is(rayjob, "head-b")
        wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "BackingOff", 10)
        (attempt,) = namespace.status("fraud-rf")["attempts"]
        assert (attempt["reason"], attempt["message"]) == ("HeadRestarted", "Ray's head was replaced by pod head-b")
        wait_for(lambda: namespace.rayjob(rayjob["metadata"]["name"]) is None, 5)

    def test_a_job_that_had_registered_its_model_by_then_is_complete(self, namespace, kuberay, mlflow, wait_for, quick):
        quick.start()
        job = namespace.create("fraud-rf")
        rayjob = self.run_on_two_heads(namespace, kuberay, job)
        run = mlflow.train(job, version="7")  # killed before it could end the run
        kuberay.head_is(rayjob, "head-b")
        complete = namespace.wait_for_condition("fraud-rf", "Complete")
        assert complete["message"] == "attempt 1 had registered its model when it ended (HeadRestarted)"
        assert namespace.status("fraud-rf")["model"]["version"] == "7"
        wait_for(lambda: namespace.rayjob(rayjob["metadata"]["name"]) is None, 5)
        wait_for(lambda: mlflow.run_status(run) == "FINISHED", 10)


class TestPromotion:
    def finish(self, namespace, kuberay, mlflow, model, name="fraud-rf", score=0.7, **seen):
        job = namespace.create(name, registry={"modelName": model, "promotion": PROMOTION})
        rayjob = namespace.wait_for_rayjob(job)
        kuberay.start(rayjob)
        version = mlflow.new_version(model, namespace=namespace.name)
        tags = {"m3.promotion.score": str(score)} | {
            f"m3.promotion.{key.replace('_', '.')}": v for key, v in seen.items()
        }
        mlflow.finish(mlflow.train(job, version=version, more_tags=tags, average_precision=score))
        kuberay.succeeded(rayjob)
        return version

    @pytest.fixture
    def model(self, namespace):
        return f"model-{namespace.name}"

    def test_the_first_version_gets_the_alias(self, namespace, kuberay, mlflow, operator, model):  # noqa: ARG002
        version = self.finish(namespace, kuberay, mlflow, model)
        promoted = namespace.wait_for_condition("fraud-rf", "Promoted")
        assert promoted["reason"] == "FirstVersion"
        assert mlflow.aliases(model) == {"champion": version}
        status = namespace.status("fraud-rf")
        assert (status["model"]["aliases"], status["promotion"]["decision"], status["settled"]) == (
            ["champion"], "Promoted", True,
        )  # fmt: skip
        tags = mlflow.version_tags(model, version)
        assert (tags["m3.promotion.decision"], tags["m3.promotion.reason"]) == ("Promoted", "FirstVersion")

    def test_a_worse_one_does_not(self, namespace, kuberay, mlflow, operator, model):  # noqa: ARG002
        first = self.finish(namespace, kuberay, mlflow, model)
        namespace.wait_for_condition("fraud-rf", "Promoted")
        seen = {"holder_version": first, "holder_score": "0.7"}
        version = self.finish(namespace, kuberay, mlflow, model, "worse", 0.69, **seen)
        refused = namespace.wait_for_condition("worse", "Promoted", "False")
        assert refused["reason"] == "NotImproved"
        assert "average_precision is 0.6900, version 1 has 0.7000 on the same rows" in refused["message"]
        assert mlflow.aliases(model) == {"champion": first}
        assert mlflow.version_tags(model, version)["m3.promotion.reason"] == "NotImproved"

    def test_of_two_that_finish_together_one_wins(self, namespace, kuberay, mlflow, operator, model, wait_for):  # noqa: ARG002
        names = ("one", "two")
        for name in names:
            self.finish(namespace, kuberay, mlflow, model, name)
        told = [wait_for(lambda name=name: namespace.condition(name, "Promoted"), 15)["reason"] for name in names]
        assert sorted(told) == ["FirstVersion", "HolderChanged"]
        winner = namespace.status(names[told.index("FirstVersion")])["model"]["version"]
        assert mlflow.aliases(model) == {"champion": winner}

    def test_a_model_of_another_namespace_keeps_its_alias(self, namespace, kuberay, mlflow, operator, model):  # noqa: ARG002
        mlflow.set_alias(model, "champion", mlflow.new_version(model, namespace="somebody-else"))
        self.finish(namespace, kuberay, mlflow, model, holder_version="1", holder_score="0.1")
        refused = namespace.wait_for_condition("fraud-rf", "Promoted", "False")
        assert refused["reason"] == "ModelOwnedByOtherNamespace"
        assert mlflow.aliases(model) == {"champion": "1"}
