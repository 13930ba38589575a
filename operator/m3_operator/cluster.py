"""The only module that talks to Kubernetes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

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
CRDS = {JOBS: f"{JOBS}.{GROUP}", RAYJOBS: f"{RAYJOBS}.{RAY_GROUP}"}
TIMEOUT = 10.0
"""Seconds for one request. A line that was cut silently holds a worker, and the resync, no longer than that."""
SHORT = 3.0
"""Seconds for a question whose answer nothing depends on."""
MERGE_PATCH = "application/merge-patch+json"
UNCHECKED = {"fieldValidation": "Ignore"}
"""No look for fields that the schema does not know: what we write is made from models, and the warnings would go nowhere."""
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""An answer without spec and status: the server need not encode what we have just sent."""

CONTROLLER = "m3.dev/operator"
NOT_FOUND, CONFLICT = 404, 409

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    items: list[Object]
    resource_version: str


class Cluster:
    """The Kubernetes API as the operator uses it. Every method raises ClusterError, or a child of it.

    The client's transport (addresses, certificates, tokens and their renewal) without its generated methods, which validate,
    copy and rebuild every body: a third of the time that a job cost the operator.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._instance = os.environ.get("HOSTNAME", "m3-operator")[:128]
        self._client: client.ApiClient | None = None

    async def open(self) -> None:
        configuration = client.Configuration()
        # else aiohttp looks for a proxy and for ~/.netrc at each request, in a thread
        configuration.client_session_kwargs = {"trust_env": False}
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            config.load_incluster_config(configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
        self._client = client.ApiClient(configuration)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    # reading
    async def unsettled_jobs(self) -> Listing:
        return await self._list(_jobs, JOBS, fieldSelector="status.settled!=true")

    async def unsettled_rayjobs(self) -> Listing:
        return await self._list(_rayjobs, RAYJOBS, labelSelector=labels.UNSETTLED)

    async def job(self, namespace: str, name: str) -> Object | None:
        return await self._ask("GET", f"{_jobs(namespace)}/{name}", ("get", JOBS))

    async def rayjob(self, namespace: str, name: str) -> Object | None:
        return await self._ask("GET", f"{_rayjobs(namespace)}/{name}", ("get", RAYJOBS))

    async def pods(self, namespace: str, selector: str) -> list[Object]:
        """Not by the client's own classes for pods: they cost 24 MB, and 1.7 s at their import."""
        query = {"labelSelector": selector}
        answer = await self._ask("GET", _core(namespace, "pods"), ("list", "pods"), query=query, timeout=SHORT)
        return (answer or {}).get("items", [])

    async def mount_events(self, namespace: str) -> list[Object]:
        """What kubelets say of volumes that they cannot mount; Kubernetes forgets it after an hour."""
        query = {"fieldSelector": f"reason={MOUNT_EVENT}"}
        answer = await self._ask("GET", _core(namespace, "events"), ("list", "events"), query=query, timeout=SHORT)
        return (answer or {}).get("items", [])

    async def _list(self, path: Callable[[str | None], str], plural: str, **selectors: str) -> Listing:
        places: tuple[str | None, ...] = (None,) if self._settings.clusterwide else self._settings.watch_namespaces
        answers = [await self._ask("GET", path(place), ("list", plural), query=selectors) for place in places]
        found = [answer for answer in answers if answer is not None]
        if len(found) < len(places):
            raise Refused(f"CustomResourceDefinition {CRDS[plural]} must be installed", NOT_FOUND)
        return _listing(found)

    # writing
    async def create_rayjob(self, body: Object) -> Object:
        """Its metadata: nobody has written a status yet. Raises Conflict where there is one of that name, Refused where a
        quota or the schema forbids it."""
        path = _rayjobs(body["metadata"]["namespace"])
        return await self._present("POST", path, ("create", RAYJOBS), body, accept=METADATA, query=UNCHECKED)

    async def settle_rayjob(self, namespace: str, name: str) -> None:
        """Label a RayJob whose attempt has ended; one that is gone is settled, too."""
        body = {"metadata": {"labels": {labels.SETTLED: "true"}}}
        await self._ask("PATCH", f"{_rayjobs(namespace)}/{name}", ("patch", RAYJOBS), body, accept=METADATA)

    async def delete_rayjob(self, namespace: str, name: str) -> None:
        body = {"propagationPolicy": "Background"}
        await self._ask("DELETE", f"{_rayjobs(namespace)}/{name}", ("delete", RAYJOBS), body)

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        # a job that was made again under the same name meanwhile is another one, and stays
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._ask("DELETE", f"{_jobs(namespace)}/{name}", ("delete", JOBS), body)

    async def patch_status(self, job: Object, status: Object) -> Object | None:
        """The job with its new status; None where it is gone. Raises Conflict where it has changed since it was read."""
        meta = job["metadata"]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": status}
        path = f"{_jobs(meta['namespace'])}/{meta['name']}/status"
        return await self._ask("PATCH", path, ("patch", f"{JOBS}/status"), body, query=UNCHECKED)

    async def post_event(self, job: Object, event: Event) -> None:
        """An Event whose name says what it tells: the same one, sent again, is there already."""
        body = _event(job, event, self._instance, datetime.now(UTC))
        path = f"/apis/events.k8s.io/v1/namespaces/{job['metadata']['namespace']}/events"
        try:
            await self._ask("POST", path, ("create", "events"), body, accept=METADATA)
        except Conflict:
            return

    # asking
    async def _present(self, method: str, path: str, what: tuple[str, str], *content: Any, **options: Any) -> Object:
        answer = await self._ask(method, path, what, *content, **options)
        if answer is None:
            raise Refused(f"{' '.join(what)}: not found", NOT_FOUND)
        return answer

    async def _ask(
        self,
        method: str,
        path: str,
        what: tuple[str, str],
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = "application/json",
        timeout: float = TIMEOUT,
    ) -> Object | None:
        """The answer; None for 404. `what` names verb and resource, in messages and in the metrics."""
        code = "none"
        try:
            answer = await self._request(method, path, body, query or {}, accept, timeout)
            text = await answer.read() or b""
            code = str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnavailable(f"{' '.join(what)}: no answer: {error or type(error).__name__}") from error
        finally:
            self._metrics.api_requests.labels(*what, code).inc()
        if answer.status == NOT_FOUND:
            return None
        if answer.status >= 400:
            raise _translated(answer.status, text, " ".join(what))
        return _parsed(text, " ".join(what))

    async def _request(
        self, method: str, path: str, body: Object | None, query: Mapping[str, str], accept: str, timeout: float
    ) -> Any:
        assert self._client is not None
        headers = {"Accept": accept, "Content-Type": MERGE_PATCH if method == "PATCH" else "application/json"}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._client.configuration.host}{path}{'?' if query else ''}{urlencode(query)}"
        return await self._client.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)


def _jobs(namespace: str | None) -> str:
    return _path(GROUP, VERSION, namespace, JOBS)


def _rayjobs(namespace: str | None) -> str:
    return _path(RAY_GROUP, RAY_VERSION, namespace, RAYJOBS)


def _path(group: str, version: str, namespace: str | None, plural: str) -> str:
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{group}/{version}{place}/{plural}"


def _core(namespace: str, plural: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{plural}"


def _parsed(text: bytes, what: str) -> Object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ClusterUnavailable(f"{what}: an answer that is not JSON: {error}") from error


def _translated(status: int, text: bytes, what: str) -> ClusterError:
    message = f"{what}: {_message(status, text)}"
    if status == CONFLICT:
        return Conflict(message, status)
    if status in (408, 410, 429) or status >= 500:
        return ClusterUnavailable(message, status)
    return Refused(message, status)


def _message(status: int, text: bytes) -> str:
    """The sentence in the API server's Status object, or what there is."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{status} {text[:200].decode(errors='replace')}"


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
