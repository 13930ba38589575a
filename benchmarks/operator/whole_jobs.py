"""Whole jobs on the kind cluster: with KubeRay, pods and MLflow. Everything that is made here is deleted again."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import contestants
from figures import paired

from m3_operator.api.v1alpha1 import TrainingJob
from m3_operator.resources import rayjob
from m3_operator.settings import Settings

JOBS, PLAIN = "default", "m3-bench-plain"
"""Namespace that the operator watches; and one without Pod Security, which KubeRay's default submitter would not pass."""
NOTHING, FOLDER = "m3-bench-nothing", "/bench"
NO_OP = 'print("nothing to do")\n'
TIMEOUT = "300s"
WARM = "m3-bench-warm"
"""The RayCluster, and what its jobs write into MLflow."""

Object = dict[str, Any]


def kubectl(*arguments: str, document: Object | None = None) -> str:
    text = json.dumps(document) if document else None
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}(a cluster with M3 in it: make cluster-up)")
    return done.stdout


def apply(document: Object, namespace: str) -> None:
    kubectl("apply", f"--namespace={namespace}", "--filename=-", document=document)


def get(kind: str, name: str, namespace: str) -> Object:
    return json.loads(kubectl("get", kind, name, f"--namespace={namespace}", "--output=json"))


def wait(what: str, condition: str, namespace: str) -> None:
    kubectl("wait", what, f"--for={condition}", f"--namespace={namespace}", f"--timeout={TIMEOUT}")


def seconds_to(document: Object, namespace: str, done: str) -> float:
    """From `kubectl apply` until `kubectl wait` comes back."""
    name = f"{document['kind'].lower()}/{document['metadata']['name']}"
    start = time.perf_counter()
    apply(document, namespace)
    wait(name, done, namespace)
    return round(time.perf_counter() - start, 3)


def delete(kind: str, name: str, namespace: str) -> None:
    """With its pods gone: they hold the CPUs that the next one asks for."""
    kubectl(
        "delete",
        kind,
        name,
        f"--namespace={namespace}",
        "--ignore-not-found",
        "--cascade=foreground",
        f"--timeout={TIMEOUT}",
    )


# --- a job that does nothing, ours and plain --------------------------------------------------------------------------
def apply_to_complete(rounds: int) -> Object:
    """Pairs, each in the other order than the one before, after one of ours that is not counted."""
    with _nothing_to_do():
        plain = _plain_rayjob()
        pairs = [_pair(turn, plain) for turn in range(rounds)]
    return paired(pairs, "m3_seconds", "rayjob_seconds") | {"pairs": pairs, "how": HOW_COMPLETE}


HOW_COMPLETE = (
    "Both: the same image, head and one worker with the same resources, environment and token authentication, the "
    "entrypoint `python -m m3_trainer job`, which finds an m3_trainer.py of one line (a ConfigMap on PYTHONPATH). Timed from "
    "`kubectl apply` to the return of `kubectl wait`: condition Complete of the TrainingJob, jobDeploymentStatus Complete of "
    "the RayJob. The RayJob is the one that our operator makes, without what it adds for speed: KubeRay's own probes, its "
    "default submission (K8sJobMode, a pod that runs `ray job submit`), and without a runtimeEnv. Ours has more to do: it "
    "asks MLflow for the run."
)


@contextlib.contextmanager
def _nothing_to_do() -> Iterator[None]:
    kubectl("create", "namespace", PLAIN)
    try:
        for namespace in (JOBS, PLAIN):
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NOTHING}}
            apply(document | {"data": {"m3_trainer.py": NO_OP}}, namespace)
        yield
    finally:
        kubectl("delete", "configmap", NOTHING, f"--namespace={JOBS}", "--ignore-not-found")
        kubectl("delete", "namespace", PLAIN, "--ignore-not-found")


def _trivial(name: str) -> Object:
    head = {
        "env": [{"name": "PYTHONPATH", "value": FOLDER}],
        "volumes": [{"name": "nothing", "configMap": {"name": NOTHING}, "mountPath": FOLDER, "readOnly": True}],
    }
    return contestants.training_job(name, ray={"head": head, "workers": {"replicas": 1}}, backoffLimit=0)


def _plain_rayjob() -> Object:
    """A plain RayJob for the same work, made from the child of a TrainingJob that has run."""
    name = "m3-bench-first"
    seconds_to(_trivial(name), JOBS, "condition=Complete")
    attempt = get("trainingjob", name, JOBS)["status"]["attempts"][0]
    child = get("rayjob", attempt["rayJobName"], JOBS)
    delete("trainingjob", name, JOBS)
    return plain(child)


def plain(child: Object) -> Object:
    """`child` with KubeRay's defaults where our operator has its own."""
    cluster = copy.deepcopy(child["spec"]["rayClusterSpec"])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        group["template"]["metadata"] = {}
        for container in group["template"]["spec"]["containers"]:
            container.pop("readinessProbe")
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "m3-bench-plain"},
        "spec": {
            "entrypoint": child["spec"]["entrypoint"],
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": cluster,
        },
    }


def _pair(turn: int, rayjob: Object) -> Object:
    def ours() -> float:
        name = f"m3-bench-{turn}"
        try:
            return seconds_to(_trivial(name), JOBS, "condition=Complete")
        finally:
            delete("trainingjob", name, JOBS)

    def theirs() -> float:
        try:
            seconds = seconds_to(rayjob, PLAIN, "jsonpath={.status.jobDeploymentStatus}=Complete")
            assert get("rayjob", "m3-bench-plain", PLAIN)["status"]["jobStatus"] == "SUCCEEDED"
            return seconds
        finally:
            delete("rayjob", "m3-bench-plain", PLAIN)

    return in_turn(turn, {"m3_seconds": ours, "rayjob_seconds": theirs})


def in_turn(turn: int, sides: dict[str, Callable[[], float]]) -> Object:
    order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
    return {side: sides[side]() for side in order}


# --- a job on a cluster that is warm ----------------------------------------------------------------------------------
def warm_cluster(rounds: int) -> Object:
    """Pairs, each in the other order than the one before, after one that is not counted."""
    operator = _operators_environment()
    uri = operator["M3_MLFLOW_TRACKING_URI"]
    with _warm(operator["M3_TRAINER_IMAGE"]) as head:
        try:
            pairs = [_warm_pair(turn, head, uri) for turn in range(-1, rounds)][1:]
        finally:
            kubectl(
                "exec", head, f"--namespace={JOBS}", "--", "env", f"MLFLOW_TRACKING_URI={uri}", "python", "-c", FORGET
            )
    return paired(pairs, "m3_seconds", "m3_run_seconds") | {"pairs": pairs, "how": HOW_WARM}


HOW_WARM = (
    "The sample's workload as a TrainingJob with `clusterSelector` on a warm RayCluster (the head alone, token "
    "authentication), from `kubectl apply` to condition Complete; against `kubectl exec` of `m3 run` with the same file in "
    "that head's container: the same image, CPU limit and MLflow server."
)
FORGET = f"""
import mlflow
client = mlflow.MlflowClient()
for model in client.search_registered_models(f"name = '{WARM}'"):
    client.delete_registered_model(model.name)
experiment = client.get_experiment_by_name('{WARM}')
if experiment:
    for run in client.search_runs([experiment.experiment_id]):
        client.delete_run(run.info.run_id)
"""


def _operators_environment() -> dict[str, str]:
    selector = ("deployments", "--namespace=m3-system", "--selector=app.kubernetes.io/name=m3", "--output=json")
    found = json.loads(kubectl("get", *selector))["items"]
    variables = found[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    return {variable["name"]: variable.get("value", "") for variable in variables}


@contextlib.contextmanager
def _warm(image: str) -> Iterator[str]:
    """Name of the head's pod of a RayCluster that is ready: the pods that a TrainingJob without workers would get."""
    job = TrainingJob.parse(_sample("m3-bench-cluster") | {"metadata": META})
    spec = rayjob.build(job, 1, Settings(trainer_image=image))["spec"]["rayClusterSpec"]
    spec["headGroupSpec"]["template"]["metadata"] = {}
    apply({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": WARM}, "spec": spec}, JOBS)
    try:
        wait(f"raycluster/{WARM}", "condition=HeadPodReady", JOBS)
        selector = f"--selector=ray.io/cluster={WARM},ray.io/node-type=head"
        yield kubectl("get", "pods", f"--namespace={JOBS}", selector, "--output=name").strip()
    finally:
        delete("raycluster", WARM, JOBS)


META = {"name": "m3-bench-cluster", "namespace": JOBS, "uid": "0" * 32, "resourceVersion": "1", "generation": 1}


def _sample(name: str, **ray: Any) -> Object:
    names = {"tracking": {"experimentName": WARM}, "registry": {"modelName": WARM}}
    return contestants.training_job(name, **names, ray=ray)


def _warm_pair(turn: int, head: str, uri: str) -> Object:
    name = f"{WARM}-{turn + 1}"

    def ours() -> float:
        document = _sample(name, clusterSelector={"ray.io/cluster": WARM})
        try:
            return seconds_to(document, JOBS, "condition=Complete")
        finally:
            delete("trainingjob", name, JOBS)

    def theirs() -> float:
        command = ["env", f"MLFLOW_TRACKING_URI={uri}", "m3", "-q", "run", "-f", "-", "-o", "json"]
        start = time.perf_counter()
        kubectl("exec", "--stdin", head, f"--namespace={JOBS}", "--", *command, document=_sample(name))
        return round(time.perf_counter() - start, 3)

    return in_turn(turn, {"m3_seconds": ours, "m3_run_seconds": theirs})
