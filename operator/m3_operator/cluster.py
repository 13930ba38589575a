"""The only module that talks to Kubernetes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from m3_operator.api import labels
from m3_operator.api.v1alpha1 import API_VERSION, GROUP, VERSION
from m3_operator.draft import Event
from m3_operator.errors import ClusterError, ClusterUnavailable, Conflict, Refused
from m3_operator.metrics import Metrics
from m3_operator.pod_status import MOUNT_EVENT
from m3_operator.settings import Settings
from m3_operator.store import number

RAY_GROUP, RAY_VERSION = "ray.io", "v1"
JOBS, RAYJOBS = "trainingjobs", "rayjobs"
TIMEOUT = 10.0
"""Seconds for one request. A line that was cut silently holds a worker, and the resync, no longer than that."""

CONTROLLER = "m3.dev/operator"
NOT_FOUND, CONFLICT = 404, 409

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    items: list[Object]
    resource_version: str


class Cluster:
    """The Kubernetes API as the operator uses it. Every method raises ClusterError, or a child of it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._instance = os.environ.get("HOSTNAME", "m3-operator")[:128]
        self._api_client: client.ApiClient | None = None

    async def open(self) -> None:
        configuration = client.Configuration()
        # else aiohttp looks for a proxy and for ~/.netrc at each request, in a thread
        configuration.client_session_kwargs = {"trust_env": False}
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            config.load_incluster_config(configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
        self._api_client = client.ApiClient(configuration)
        self._objects = client.CustomObjectsApi(self._api_client)

    async def close(self) -> None:
        if self._api_client is not None:
            await self._api_client.close()

    async def lacks(self) -> list[str]:
        """Names of the CustomResourceDefinitions that the operator cannot do without and that are not there."""
        wanted = ((GROUP, VERSION, JOBS), (RAY_GROUP, RAY_VERSION, RAYJOBS))
        return [
            f"{plural}.{group}/{version}" for group, version, plural in wanted if not await self._serves(group, version)
        ]

    async def _serves(self, group: str, version: str) -> bool:
        found = await self._ask(
            "get", "apis", self._objects.get_api_resources(group, version, _request_timeout=TIMEOUT)
        )
        return found is not None

    # reading
    async def unsettled_jobs(self) -> Listing:
        return await self._list(GROUP, VERSION, JOBS, field_selector="status.settled!=true")

    async def unsettled_rayjobs(self) -> Listing:
        return await self._list(RAY_GROUP, RAY_VERSION, RAYJOBS, label_selector=labels.UNSETTLED)

    async def job(self, namespace: str, name: str) -> Object | None:
        call = self._objects.get_namespaced_custom_object(
            GROUP, VERSION, namespace, JOBS, name, _request_timeout=TIMEOUT
        )
        return await self._ask("get", JOBS, call)

    async def rayjob(self, namespace: str, name: str) -> Object | None:
        call = self._objects.get_namespaced_custom_object(
            RAY_GROUP, RAY_VERSION, namespace, RAYJOBS, name, _request_timeout=TIMEOUT
        )
        return await self._ask("get", RAYJOBS, call)

    async def pods(self, namespace: str, selector: str) -> list[Object]:
        return await self._items(f"/api/v1/namespaces/{namespace}/pods", "pods", labelSelector=selector)

    async def mount_events(self, namespace: str) -> list[Object]:
        """What kubelets say of volumes that they cannot mount; Kubernetes forgets it after an hour."""
        path = f"/api/v1/namespaces/{namespace}/events"
        return await self._items(path, "events", fieldSelector=f"reason={MOUNT_EVENT}")

    async def _items(self, path: str, resource: str, **query: str) -> list[Object]:
        answer = await self._ask("list", resource, self._get(path, query))
        return answer.get("items", []) if answer else []

    async def _get(self, path: str, query: dict[str, str]) -> Object:
        """A plain GET: the client's own classes for pods cost 24 MB, and 1.7 s at their import."""
        assert self._api_client is not None
        request = await self._api_client.param_serialize(
            "GET", path, query_params=list(query.items()), auth_settings=["BearerToken"],
            header_params={"Accept": "application/json"},
        )  # fmt: skip
        answer = await self._api_client.call_api(*request, _request_timeout=TIMEOUT)
        body = (await answer.read() or b"").decode()
        if answer.status != 200:
            raise client.ApiException(status=answer.status, reason=answer.reason, body=body)
        return json.loads(body)

    async def _list(self, group: str, version: str, plural: str, **selectors: Any) -> Listing:
        if self._settings.clusterwide:
            call = self._objects.list_cluster_custom_object(
                group, version, plural, _request_timeout=TIMEOUT, **selectors
            )
            return _listing([await self._present("list", plural, call)])
        answers = [
            await self._present(
                "list",
                plural,
                self._objects.list_namespaced_custom_object(
                    group, version, namespace, plural, _request_timeout=TIMEOUT, **selectors
                ),
            )
            for namespace in self._settings.watch_namespaces
        ]
        return _listing(answers)

    # writing
    async def create_rayjob(self, body: Object) -> Object:
        """Raises Conflict where there is one of that name, Refused where a quota or the schema forbids it."""
        call = self._objects.create_namespaced_custom_object(
            RAY_GROUP, RAY_VERSION, body["metadata"]["namespace"], RAYJOBS, body, _request_timeout=TIMEOUT
        )
        return await self._present("create", RAYJOBS, call)

    async def settle_rayjob(self, namespace: str, name: str) -> None:
        """Label a RayJob whose attempt has ended; one that is gone is settled, too."""
        body = {"metadata": {"labels": {labels.SETTLED: "true"}}}
        call = self._objects.patch_namespaced_custom_object(
            RAY_GROUP, RAY_VERSION, namespace, RAYJOBS, name, body, _request_timeout=TIMEOUT
        )
        await self._ask("patch", RAYJOBS, call)

    async def delete_rayjob(self, namespace: str, name: str) -> None:
        call = self._objects.delete_namespaced_custom_object(
            RAY_GROUP, RAY_VERSION, namespace, RAYJOBS, name, propagation_policy="Background", _request_timeout=TIMEOUT
        )
        await self._ask("delete", RAYJOBS, call)

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        # a job that was made again under the same name meanwhile is another one, and stays
        body: Any = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        call = self._objects.delete_namespaced_custom_object(
            GROUP, VERSION, namespace, JOBS, name, body=body, _request_timeout=TIMEOUT
        )
        await self._ask("delete", JOBS, call)

    async def patch_status(self, job: Object, status: Object) -> Object | None:
        """The job with its new status; None where it is gone. Raises Conflict where it has changed since it was read."""
        meta = job["metadata"]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": status}
        call = self._objects.patch_namespaced_custom_object_status(
            GROUP, VERSION, meta["namespace"], JOBS, meta["name"], body, _request_timeout=TIMEOUT
        )
        return await self._ask("patch", f"{JOBS}/status", call)

    async def post_event(self, job: Object, event: Event) -> None:
        """An Event whose name says what it tells: the same one, sent again, is there already."""
        body = _event(job, event, self._instance, datetime.now(UTC))
        call = self._objects.create_namespaced_custom_object(
            "events.k8s.io", "v1", job["metadata"]["namespace"], "events", body, _request_timeout=TIMEOUT
        )
        try:
            await self._ask("create", "events", call)
        except Conflict:
            return

    # asking
    async def _present(self, verb: str, resource: str, call: Awaitable[Any]) -> Object:
        answer = await self._ask(verb, resource, call)
        if answer is None:
            raise Refused(f"{verb} {resource}: not found", NOT_FOUND)
        return answer

    async def _ask(self, verb: str, resource: str, call: Awaitable[Any]) -> Any:
        """The answer to `call`; None for 404."""
        code = "200"
        try:
            return await call
        except client.ApiException as error:
            code = str(error.status)
            if error.status == NOT_FOUND:
                return None
            raise _translated(error, f"{verb} {resource}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            code = "none"
            raise ClusterUnavailable(f"{verb} {resource}: no answer: {error or type(error).__name__}") from error
        finally:
            self._metrics.api_requests.labels(verb, resource, code).inc()


def _translated(error: client.ApiException, what: str) -> ClusterError:
    status = error.status or 0
    message = f"{what}: {_message(error)}"
    if status == CONFLICT:
        return Conflict(message, status)
    if status in (408, 429) or status >= 500 or status == 0:
        return ClusterUnavailable(message, status)
    return Refused(message, status)


def _message(error: client.ApiException) -> str:
    """The sentence in the API server's Status object, or what there is."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"


def _listing(answers: list[Object]) -> Listing:
    """One list of several namespaces'; made when the oldest of them was."""
    items = [item for answer in answers for item in answer.get("items", ())]
    versions = [answer.get("metadata", {}).get("resourceVersion", "0") for answer in answers]
    return Listing(items, min(versions, key=number, default="0"))


def _event(job: Object, event: Event, instance: str, now: datetime) -> Object:
    meta = job["metadata"]
    digest = hashlib.sha256(f"{meta['uid']} {event.reason} {event.message}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta["namespace"]},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": event.type,
        "reason": event.reason,
        "note": event.message,
        "action": "Reconcile",
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": "TrainingJob",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
    }
