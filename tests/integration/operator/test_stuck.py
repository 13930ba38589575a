"""A job that does not start says why, within two looks around. The kubelet's part is played by writing the pods' status;
tests/e2e has the real one.
"""

import pytest
from kubernetes import client

NOT_FOUND = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/1 nodes: 1 Insufficient cpu",
}


@pytest.fixture
def at_work(make_operator, mlflow):
    return make_operator(M3_MLFLOW_TRACKING_URI=mlflow.uri).start()


def waiting(reason, message=""):
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def killed(state="state"):
    return {state: {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}


@pytest.fixture
def make_pod(namespace):
    """A pod of the attempt, whose kubelet or scheduler has said this."""
    # there is no controller that would make it, and no pod without it
    namespace.core.create_namespaced_service_account(namespace.name, {"metadata": {"name": "default"}})

    def make(rayjob, *containers, conditions=(), phase="Pending"):
        labels = rayjob["metadata"]["labels"] | {"ray.io/node-type": "head"}
        name = f"{rayjob['metadata']['name']}-head"
        container = {"name": "ray-head", "image": "m3:none", "resources": {"limits": {"memory": "200Mi"}}}
        pod = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
        made = namespace.core.create_namespaced_pod(namespace.name, pod)
        known = {"name": "ray-head", "image": "m3:none", "imageID": "", "ready": False, "restartCount": 1}
        status = {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": [known | each for each in containers],
        }
        namespace.core.patch_namespaced_pod_status(name, namespace.name, {"status": status})
        return made

    return make


CASES = {
    "the scheduler's words": ("Unschedulable", "1 Insufficient cpu", (), [NOT_FOUND]),
    "an image that cannot be had": (
        "ImagePullBackOff", "image m3:none of fraud-rf", [waiting("ErrImagePull", "not found")], [],
    ),
    "a Secret that is not there": (
        "CreateContainerConfigError", 'secret "nope" not found',
        [waiting("CreateContainerConfigError", 'secret "nope" not found')], [],
    ),
    "too little memory": (
        "OOMKilled", "its memory limit of 200Mi: raise `spec.ray.head.resources.limits.memory`",
        [waiting("CrashLoopBackOff") | killed("lastState")], [],
    ),
}  # fmt: skip


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize(("reason", "words", "containers", "conditions"), CASES.values(), ids=CASES.keys())
def test_a_pod_that_does_not_start(namespace, kuberay, make_pod, wait_for, reason, words, containers, conditions):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    make_pod(rayjob, *containers, conditions=conditions)
    kuberay.initializing(rayjob)
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == reason, 30)
    assert words in namespace.condition("fraud-rf", "Running")["message"]
    assert namespace.condition("fraud-rf", "ClusterReady")["reason"] == reason
    assert namespace.status("fraud-rf")["display"]["status"] == reason
    assert [event.type for event in wait_for(lambda: namespace.events(reason), 5)] == ["Warning"]
    # and when it goes on after all, that is forgotten
    kuberay.start(rayjob)
    namespace.wait_for_condition("fraud-rf", "Running")


@pytest.mark.usefixtures("at_work")
def test_a_volume_that_cannot_be_mounted(namespace, kuberay, make_pod, wait_for):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    pod = make_pod(rayjob, waiting("ContainerCreating"))
    reference = client.V1ObjectReference(
        kind="Pod", name=pod.metadata.name, namespace=namespace.name, uid=pod.metadata.uid
    )
    event = client.CoreV1Event(
        metadata=client.V1ObjectMeta(name="mount"), involved_object=reference, reason="FailedMount", type="Warning",
        message='MountVolume.SetUp failed for volume "v" : secret "nope" not found',
    )  # fmt: skip
    namespace.core.create_namespaced_event(namespace.name, event)
    kuberay.initializing(rayjob)
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "VolumeNotMounted", 30)
    assert 'secret "nope" not found' in namespace.condition("fraud-rf", "Running")["message"]


@pytest.mark.usefixtures("at_work")
def test_a_quota_that_leaves_no_pods(namespace, kuberay, wait_for):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    kuberay.initializing(rayjob)
    kuberay.over_quota(rayjob)
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "QuotaExceeded", 5)
    assert "exceeded quota: small" in namespace.condition("fraud-rf", "Running")["message"]


@pytest.mark.usefixtures("at_work")
def test_a_rayjob_that_nobody_takes_up(namespace, wait_for):
    namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "KubeRayNotResponding", 80)
    assert "is KubeRay's operator running" in namespace.condition("fraud-rf", "Running")["message"]


@pytest.mark.usefixtures("at_work")
def test_a_crash_that_was_a_kill_for_memory_says_so_and_is_not_tried_again(namespace, kuberay, make_pod):
    rayjob = namespace.wait_for_rayjob(namespace.create("fraud-rf"))
    make_pod(rayjob, {"state": {"running": {}}} | killed("lastState"), phase="Running")
    kuberay.start(rayjob)
    kuberay.failed(rayjob, "Killed")
    failed = namespace.wait_for_condition("fraud-rf", "Failed")
    assert (failed["reason"], len(namespace.status("fraud-rf")["attempts"])) == ("OOMKilled", 1)
    assert "200Mi" in failed["message"]
