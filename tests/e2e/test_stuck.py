"""A job that does not start says why in its conditions within 30 seconds, with what to do about it."""

import time
from contextlib import ExitStack

import pytest
from e2e.kube import JOBS, Job

SMALL = {"requests": {"cpu": "20m", "memory": "100Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
DATA = {"uri": "sample://transactions?rows=5000&seed=1", "target": "TX_FRAUD"}
LIMIT = 30.0


def head(**options):
    return {"head": {"resources": SMALL} | options}


# What is wrong: the spec, the reason, and words of the message (of Kubernetes, then ours)
CASES = {
    "no-such-image": (
        {"image": "registry.invalid/none:1", "ray": head()}, "ImagePullBackOff",
        ("registry.invalid/none:1", "correct `spec.image`"),
    ),
    "too-many-cpus": (
        {"ray": head(resources={"requests": {"cpu": "64"}, "limits": {"cpu": "64"}})}, "Unschedulable",
        ("Insufficient cpu", "ask for less in `spec.ray`"),
    ),
    "no-such-secret": (
        {"data": DATA | {"secretRef": {"name": "nope"}}, "ray": head()}, "CreateContainerConfigError",
        ('secret "nope" not found', "make it, or correct its name"),
    ),
    "no-such-volume": (
        {"ray": head(volumes=[{"name": "v", "mountPath": "/v", "secret": {"secretName": "nope"}}])}, "VolumeNotMounted",
        ('secret "nope" not found', "make it, or correct its name"),
    ),
    "no-such-claim": (
        {"storage": {"persistentVolumeClaim": "nope"}, "ray": head()}, "Unschedulable",
        ('persistentvolumeclaim "nope" not found', "make the claim"),
    ),
    "little-memory": (
        {"ray": head(resources={"requests": {"cpu": "20m", "memory": "100Mi"}, "limits": {"cpu": "1", "memory": "100Mi"}})},
        "OOMKilled", ("memory limit of 100Mi", "raise `spec.ray.head.resources.limits.memory`"),
    ),
    "no-such-cluster": (
        {"ray": {"clusterSelector": {"ray.io/cluster": "nope"}}}, "RayClusterNotFound", ("RayCluster nope is not there",),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(cluster):
    """All at once; for each, the condition that first gives the reason, and after how many seconds."""

    def document(name, spec):
        common = {"data": DATA, "tracking": {"experimentName": "e2e"}, "backoffLimit": 0}
        return {
            "apiVersion": "m3.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": common | spec,
        }

    found = {}
    with ExitStack() as stack:
        jobs = stack.enter_context(cluster.watch("trainingjobs"))
        start = {}
        for name, (spec, _, _) in CASES.items():
            stack.callback(cluster.delete_job, name)
            start[name] = time.monotonic()
            cluster.apply(document(name, spec))
        for name, (_, reason, _) in CASES.items():

            def is_told(seen, name=name, reason=reason):
                job = Job(seen.object)
                return job.name == name and job.condition("Running")["reason"] == reason

            seen = jobs.first(is_told, timeout=60)
            found[name] = (Job(seen.object), seen.at - start[name])
        yield found


@pytest.mark.parametrize("name", CASES)
def test_the_condition_says_why(told, name):
    _, reason, words = CASES[name]
    job, seconds = told[name]
    running = job.condition("Running")
    assert (running["status"], job.condition("ClusterReady")["reason"]) == ("False", reason)
    for word in words:
        assert word in running["message"]
    assert seconds <= LIMIT


def test_a_quota_is_told(cluster, small_job):
    name = "over-quota"
    with ExitStack() as stack:
        jobs = stack.enter_context(cluster.watch("trainingjobs", f"--field-selector=metadata.name={name}"))
        stack.callback(cluster.delete_job, name)
        cluster.kubectl("create", "quota", "e2e", "--hard=pods=0", f"--namespace={JOBS}")
        stack.callback(cluster.kubectl, "delete", "quota", "e2e", f"--namespace={JOBS}", "--ignore-not-found")
        start = time.monotonic()
        cluster.apply(small_job(name))
        seen = jobs.first(lambda seen: Job(seen.object).condition("Running")["reason"] == "QuotaExceeded", timeout=60)
        assert seen.at - start <= LIMIT
        assert "exceeded quota: e2e" in Job(seen.object).condition("Running")["message"]
        # and when there is room, the job goes on by itself
        cluster.kubectl("delete", "quota", "e2e", f"--namespace={JOBS}")
        jobs.first(lambda seen: Job(seen.object).has("Complete"), timeout=120)


def test_a_training_that_needs_more_memory_than_it_has_says_so_and_is_not_tried_again(
    small_job, run_job, mlflow_client
):
    memory = {"requests": {"cpu": "500m", "memory": "900Mi"}, "limits": {"cpu": "2", "memory": "900Mi"}}
    document = small_job(
        "too-much-data",
        data={"uri": "sample://transactions?rows=8000000&seed=1", "target": "TX_FRAUD"},
        ray={"head": {"resources": memory}},
        backoffLimit=2,
    )
    job = run_job(document, timeout=240)
    failed = job.condition("Failed")
    assert failed["reason"] == "OOMKilled"
    assert "spec.ray.head.resources.limits.memory" in failed["message"]
    assert len(job.status["attempts"]) == 1
    runs = mlflow_client.search_runs(
        [mlflow_client.get_experiment_by_name("e2e").experiment_id], f"tags.`m3.job.uid` = '{job.uid}'"
    )
    assert {run.info.status for run in runs} <= {"FAILED"}
