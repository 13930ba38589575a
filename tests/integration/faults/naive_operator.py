"""The control: the operator that a tutorial would lead to. `kopf run naive_operator.py`

It is not made to fail: it creates what is asked for, mirrors what it is told of, and lets the framework retry. But its child's
name is random, and its status is only as good as the last event. What the plans make of that shows that the proxy bites.
"""

from __future__ import annotations

import kopf
from kubernetes import client, config

config.load_kube_config()
api = client.CustomObjectsApi()


@kopf.on.create("m3.dev", "v1alpha1", "trainingjobs")
def create(body, name, namespace, patch, **_):
    rayjob = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"generateName": f"{name}-", "labels": {"job": name}},
        "spec": {"entrypoint": "python -m m3_trainer job"},
    }
    kopf.append_owner_reference(rayjob, owner=body)
    api.create_namespaced_custom_object("ray.io", "v1", namespace, "rayjobs", rayjob)
    patch.status["display"] = {"status": "Starting"}


@kopf.on.event("ray.io", "v1", "rayjobs", labels={"job": kopf.PRESENT})
def mirror(body, namespace, labels, **_):
    told = body.get("status", {}).get("jobStatus")
    kind = {"RUNNING": "Running", "SUCCEEDED": "Complete"}.get(told)
    if kind:
        condition = {
            "type": kind, "status": "True", "reason": kind, "message": told,
            "lastTransitionTime": body["metadata"]["creationTimestamp"],
        }  # fmt: skip
        status = {"status": {"conditions": [condition], "display": {"status": kind}}}
        api.patch_namespaced_custom_object_status(
            "m3.dev", "v1alpha1", namespace, "trainingjobs", labels["job"], status
        )
