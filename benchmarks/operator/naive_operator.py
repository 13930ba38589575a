"""A kopf operator as its tutorial writes one: a synchronous handler, the official client, a patch of the status.

Measured beside ours; not part of M3. It makes the same kind of child for the same objects, and does nothing after that.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import kopf
import kubernetes

IMAGE = "m3-trainer:dev"


@kopf.on.create("m3.dev", "v1alpha1", "trainingjobs")
def create(spec: Any, name: str, namespace: str, patch: Any, logger: Any, **_: Any) -> None:
    workload = {key: value for key, value in spec.items() if key in ("data", "model", "training", "evaluation")}
    container = {"name": "ray-head", "image": IMAGE, "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}
    rayjob = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": f"{name}-1"},
        "spec": {
            "entrypoint": "python -m m3_trainer job",
            "runtimeEnvYAML": json.dumps({"env_vars": {"M3_WORKLOAD": json.dumps(workload)}}),
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {
                "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}}
            },
        },
    }
    kopf.adopt(rayjob)
    kubernetes.client.CustomObjectsApi().create_namespaced_custom_object("ray.io", "v1", namespace, "rayjobs", rayjob)
    logger.info(f"RayJob {name}-1 created")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch.status["attempts"] = [{"number": 1, "rayJobName": f"{name}-1", "startTime": now}]


@kopf.on.event("ray.io", "v1", "rayjobs")
def changed(status: Any, name: str, logger: Any, **_: Any) -> None:
    logger.debug(f"RayJob {name} is {status.get('jobDeploymentStatus')}")
