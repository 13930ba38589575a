"""`kubectl wait` on every condition, and what each of them carries."""

import subprocess
from pathlib import Path

import pytest

from m3_operator.api.reasons import ConditionType

README = (Path(__file__).parents[3] / "operator" / "README.md").read_text()
PROMOTION = {"promotion": {"alias": "champion"}}
QUEUE = {"kueue.x-k8s.io/queue-name": "ml"}


class Story:
    """One job, brought by its user, KubeRay and MLflow to where a condition is true."""

    def __init__(self, namespace, kuberay, mlflow):
        self.namespace, self.kuberay, self.mlflow = namespace, kuberay, mlflow

    def create(self, labels=None, **spec):
        body = self.namespace.training_job("fraud-rf", **spec)
        body["metadata"]["labels"] = labels or {}
        place = ("m3.dev", "v1alpha1", self.namespace.name, "trainingjobs")
        return self.namespace.objects.create_namespaced_custom_object(*place, body)

    def start(self, job):
        rayjob = self.namespace.wait_for_rayjob(job)
        self.kuberay.start(rayjob)
        return rayjob

    def suspended(self):
        self.create(suspend=True)

    def running(self):
        self.start(self.create())

    def failed(self):
        rayjob = self.start(self.create())
        self.kuberay.failed(rayjob, 'M3_ERROR {"reason": "InvalidData", "message": "m", "retriable": false}')

    def in_quota(self):
        job = self.create(labels=QUEUE)
        rayjob = self.namespace.wait_for_rayjob(job)
        place = ("ray.io", "v1", self.namespace.name, "rayjobs", rayjob["metadata"]["name"])
        self.namespace.objects.patch_namespaced_custom_object(*place, {"spec": {"suspend": False}})
        self.kuberay.start(rayjob)

    def promoted(self):
        model = f"model-{self.namespace.name}"
        job = self.create(registry=PROMOTION | {"modelName": model})
        rayjob = self.start(job)
        version = self.mlflow.new_version(model, namespace=self.namespace.name)
        score = {"m3.promotion.score": "0.7"}
        self.mlflow.finish(self.mlflow.train(job, version=version, more_tags=score, average_precision=0.7))
        self.kuberay.succeeded(rayjob)


STORIES = {
    ConditionType.SUSPENDED: Story.suspended,
    ConditionType.QUOTA_RESERVED: Story.in_quota,
    ConditionType.CLUSTER_READY: Story.running,
    ConditionType.RUNNING: Story.running,
    ConditionType.FAILED: Story.failed,
    ConditionType.COMPLETE: Story.promoted,
    ConditionType.REGISTERED: Story.promoted,
    ConditionType.PROMOTED: Story.promoted,
}


@pytest.mark.parametrize("kind", list(ConditionType))
def test_kubectl_waits_for_every_condition(api_server, namespace, kuberay, mlflow, operator, kind):  # noqa: ARG001
    STORIES[kind](Story(namespace, kuberay, mlflow))
    waited: subprocess.CompletedProcess[str] = api_server.kubectl(
        *("-n", namespace.name, "wait", f"--for=condition={kind}", "trainingjob/fraud-rf", "--timeout=30s"), check=False
    )
    assert waited.stdout == "trainingjob.m3.dev/fraud-rf condition met\n", waited.stderr
    conditions = namespace.status("fraud-rf")["conditions"]
    assert len({condition["type"] for condition in conditions}) == len(conditions)
    for condition in conditions:
        assert condition["observedGeneration"] == 1
        assert f"`{condition['reason']}`" in README
        assert condition["message"]
        assert condition["lastTransitionTime"].endswith("Z")
