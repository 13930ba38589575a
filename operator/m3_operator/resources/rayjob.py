"""The RayJob of one attempt."""

from __future__ import annotations

import json
import math
from typing import Any

from m3_operator.api.schema import amount
from m3_operator.api.v1alpha1 import (
    TAKEN_PATHS,
    HeadGroup,
    PodOptions,
    TrainingJob,
    TrainingJobSpec,
    Volume,
    WorkerGroup,
)
from m3_operator.resources import names
from m3_operator.settings import RAY_VERSION, Settings

API_VERSION = "ray.io/v1"
ENTRYPOINT = "python -m m3_trainer job"
"""A constant: no text of the user's reaches a shell."""

STORAGE_PATH = "/storage"
SCRATCH_PATH, MEMORY_PATH = TAKEN_PATHS
USER = 1000
"""The image's numeric user; `runAsNonRoot` cannot judge a name."""

AGENT_PORT = 52365
READINESS = {
    "httpGet": {"path": "/api/local_raylet_healthz", "port": AGENT_PORT},
    "initialDelaySeconds": 1,
    "periodSeconds": 1,
    "timeoutSeconds": 5,
    "failureThreshold": 120,
}
"""KubeRay's own probe waits 10 s and then asks every 5 s: with this one a job runs after 12 s instead of 25 s. The many
failures allowed are for a training that takes every CPU: a head that is not ready loses its Service's address."""

Object = dict[str, Any]


def build(job: TrainingJob, attempt: int, settings: Settings) -> Object:
    """The RayJob of attempt number `attempt`, as it is POSTed."""
    meta = job.metadata
    labels = names.labels(meta, attempt)
    return {
        "apiVersion": API_VERSION,
        "kind": "RayJob",
        "metadata": {
            "name": names.rayjob(meta, attempt),
            "namespace": meta.namespace,
            "labels": labels | names.queue(meta),
            "ownerReferences": [_owner(job)],
        },
        "spec": {
            "entrypoint": ENTRYPOINT,
            # HTTPMode: KubeRay submits by itself. Its default starts a pod of the full image for that, without the
            # security context that a restricted namespace asks for.
            "submissionMode": "HTTPMode",
            "runtimeEnvYAML": json.dumps({"env_vars": environment(job, attempt, settings)}),
            # Attempts are ours: KubeRay wipes what it knows of an attempt when it makes the next.
            "backoffLimit": 0,
            **_cluster(job.spec, labels, settings),
            **_suspension(job),
        },
    }


def environment(job: TrainingJob, attempt: int, settings: Settings) -> dict[str, str]:
    """What the job's process finds in its environment."""
    variables = {
        "M3_WORKLOAD": job.spec.workload.to_json(),
        "M3_JOB_NAME": job.metadata.name,
        "M3_JOB_NAMESPACE": job.metadata.namespace,
        "M3_JOB_UID": job.metadata.uid,
        "M3_ATTEMPT": str(attempt),
        "M3_RAY_JOB": names.rayjob(job.metadata, attempt),
        "M3_OPERATOR_ID": settings.operator_id,
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "PYTHONUNBUFFERED": "1",
    }
    if job.spec.ray.cluster_selector is None:  # the image of a cluster that is there is not ours to know
        variables["M3_IMAGE"] = job.spec.image or settings.trainer_image
    if storage := job.spec.storage:
        variables["M3_STORAGE"] = storage.uri or STORAGE_PATH
    return variables | _workers_told(job.spec)


def _workers_told(spec: TrainingJobSpec) -> dict[str, str]:
    """How many worker nodes the job may wait for. Told of none, it does not even ask Ray, which would take seconds."""
    if spec.ray.cluster_selector is not None:
        return {"M3_WORKERS": "any"}
    group = spec.ray.workers
    return {"M3_WORKERS": str(group.replicas)} if group and group.replicas else {}


def _suspension(job: TrainingJob) -> Object:
    """Kueue lets a RayJob in by writing `suspend: false`; nobody here writes that field after the POST.

    Kueue itself does not queue a RayJob on a cluster that is there, and KubeRay refuses to suspend one.
    """
    queued = names.queue(job.metadata) and job.spec.ray.cluster_selector is None
    return {"suspend": True} if queued else {}


def _owner(job: TrainingJob) -> Object:
    return {
        "apiVersion": job.api_version,
        "kind": job.kind,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        # true would need the right to update trainingjobs/finalizers where OwnerReferencesPermissionEnforcement is on
        "blockOwnerDeletion": False,
    }


def _cluster(spec: TrainingJobSpec, labels: dict[str, str], settings: Settings) -> Object:
    if spec.ray.cluster_selector is not None:
        return {"clusterSelector": dict(spec.ray.cluster_selector)}
    cluster: Object = {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {},
            "template": _pod(spec, spec.ray.head or HeadGroup(), "ray-head", labels, settings),
        },
    }
    if spec.ray.workers is not None and spec.ray.workers.replicas > 0:
        cluster["workerGroupSpecs"] = [_workers(spec, spec.ray.workers, labels, settings)]
    # shutdownAfterJobFinishes rather than deletionRules: those have no rule for a job that somebody has stopped.
    # Either way the RayJob stays, with its status.
    return {"shutdownAfterJobFinishes": True, "rayClusterSpec": cluster}


def _workers(spec: TrainingJobSpec, group: WorkerGroup, labels: dict[str, str], settings: Settings) -> Object:
    return {
        "groupName": "workers",
        "replicas": group.replicas,
        "minReplicas": group.replicas,
        "maxReplicas": group.replicas,
        "rayStartParams": {},
        "template": _pod(spec, group, "ray-worker", labels, settings),
    }


def _pod(spec: TrainingJobSpec, options: PodOptions, name: str, labels: dict[str, str], settings: Settings) -> Object:
    volumes, mounts = _volumes(spec, options)
    pod: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, options, name, mounts, settings)],
        "volumes": volumes,
        "imagePullSecrets": [secret.dump() for secret in spec.image_pull_secrets],
        "serviceAccountName": spec.service_account_name,
        "nodeSelector": options.node_selector and dict(options.node_selector),
        "tolerations": [toleration.dump() for toleration in options.tolerations],
    }
    return {
        "metadata": {"labels": labels},
        "spec": {key: value for key, value in pod.items() if value not in (None, [])},
    }


def _container(
    spec: TrainingJobSpec, options: PodOptions, name: str, mounts: list[Object], settings: Settings
) -> Object:
    container = {
        "name": name,
        "image": spec.image or settings.trainer_image,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": options.resources.dump(),
        "env": _env(options),
        "volumeMounts": mounts,
        "readinessProbe": READINESS,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if spec.data.secret_ref:
        container["envFrom"] = [{"secretRef": {"name": spec.data.secret_ref.name}}]
    return container


def _env(options: PodOptions) -> list[Object]:
    # the root file system is read-only: everything that writes below its home writes into the pod's /tmp
    ours = {"HOME": SCRATCH_PATH, "RAY_USAGE_STATS_ENABLED": "0"} | _threads(options)
    theirs = [variable.dump() for variable in options.env]
    taken = {variable["name"] for variable in theirs}
    return [{"name": name, "value": value} for name, value in ours.items() if name not in taken] + theirs


def _threads(options: PodOptions) -> Object:
    """As many threads as CPUs are asked for, where no limit says how many there are: that one a process finds in its cgroup,
    and without it takes all CPUs of the node for its own."""
    requests, limits = options.resources.requests or {}, options.resources.limits or {}
    if "cpu" not in requests or "cpu" in limits:
        return {}
    return {"M3_THREADS": str(math.ceil(amount(requests["cpu"])))}


def _volumes(spec: TrainingJobSpec, options: PodOptions) -> tuple[list[Object], list[Object]]:
    volumes: list[Object] = [
        {"name": "m3-tmp", "emptyDir": {}},
        {"name": "m3-shm", "emptyDir": {"medium": "Memory"}},
    ]
    mounts: list[Object] = [
        {"name": "m3-tmp", "mountPath": SCRATCH_PATH},
        {"name": "m3-shm", "mountPath": MEMORY_PATH},
    ]
    if spec.storage and spec.storage.persistent_volume_claim:
        claim = {"claimName": spec.storage.persistent_volume_claim}
        volumes.append({"name": "m3-storage", "persistentVolumeClaim": claim})
        mounts.append({"name": "m3-storage", "mountPath": STORAGE_PATH})
    for volume in options.volumes:
        volumes.append(_source(volume))
        mounts.append(_mount(volume))
    return volumes, mounts


def _source(volume: Volume) -> Object:
    fields = ("name", "persistent_volume_claim", "empty_dir", "config_map", "secret")
    return volume.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(fields))


def _mount(volume: Volume) -> Object:
    fields = ("name", "mount_path", "sub_path", "read_only")
    return volume.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(fields))
