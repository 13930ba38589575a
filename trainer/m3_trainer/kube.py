"""The cluster, as a user of it sees it. The only module of the trainer that imports `kubernetes`, and only when it connects.

    M3Error
    └── ClusterError             exit 1
        ├── ClusterUnavailable   exit 10   no kubeconfig, no client, or no answer
        ├── ClusterRefused       exit 11   the API server says no: rights, quota, conflict
        └── NotFound             exit 12   no such job, namespace or log; M3 is not installed

Objects are the API's JSON as it comes: what a newer operator writes must not break an older `m3`. Requests go through the
official client's connection (kubeconfig, tokens, exec plugins, proxies, TLS) by their paths: its typed calls have no way to
set the Host header, which the check of MLflow's host names needs, and read a log only as a whole.
"""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from m3_trainer.errors import InvalidSpec, M3Error

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

log = logging.getLogger(__name__)

Object = dict[str, Any]

GROUP, VERSION, PLURAL, KIND = "m3.dev", "v1alpha1", "trainingjobs", "TrainingJob"
API = f"/apis/{GROUP}/{VERSION}"
FIELD_MANAGER = "m3"
TIMEOUT_SECONDS = 10.0
WATCH_SECONDS = 30
PATIENCE_SECONDS = 60.0
"""How long whoever follows a job goes on without an answer of the API server: a control plane restarts in less."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
INSTALL = "helm install m3 charts/m3 --namespace m3-system --create-namespace (or: make cluster-up)"


class ClusterError(M3Error):
    """Something between `m3` and a finished job on a cluster."""

    reason = "ClusterError"


class ClusterUnavailable(ClusterError):
    """No kubeconfig, no client, or no answer."""

    exit_code = 10


class ClusterRefused(ClusterError):
    """The API server says no."""

    exit_code = 11


class NotFound(ClusterError):
    """No such job, namespace or log, or no M3 in the cluster."""

    exit_code = 12


# --- connecting -------------------------------------------------------------------------------------------------------
def connect(context: str | None = None, namespace: str | None = None, timeout: float = TIMEOUT_SECONDS) -> Kube:
    """As kubectl finds its cluster: KUBECONFIG, ~/.kube/config, else the service account of the pod that this runs in.

    Raises `ClusterUnavailable` without any of them, `InvalidSpec` for a context that the kubeconfig has not.
    """
    try:
        from kubernetes import client, config
        from urllib3 import Retry
    except ImportError as error:
        raise ClusterUnavailable(
            "the Python package `kubernetes` must be there for commands that talk to a cluster: pip install 'm3-ml[cluster]'"
        ) from error
    settings = type.__call__(client.Configuration)
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    try:
        if any(Path(path).is_file() for path in paths.split(os.pathsep)):
            chosen = _known_context(config.list_kube_config_contexts(paths), context)
            config.load_kube_config(paths, chosen["name"], settings)
            own = chosen["context"].get("namespace")
        else:
            own = _in_cluster(config, settings, paths)
    except (config.ConfigException, OSError, ValueError, TypeError, KeyError) as error:
        raise ClusterUnavailable(f"the kubeconfig {paths} must be readable: {error}") from error
    # Refused connections are told at once; only an overloaded API server, which names a time, is asked again.
    settings.retries = Retry(total=3, connect=0, read=0, redirect=0, other=0, status=3, raise_on_status=False)
    return Kube(client.ApiClient(settings), namespace or own or "default", timeout)


def _known_context(found: Any, wanted: str | None) -> Object:
    contexts, current = found
    if wanted is None:
        return current
    names = {context["name"]: context for context in contexts}
    if wanted not in names:
        raise InvalidSpec(f"--context: must be one of the kubeconfig's ({', '.join(sorted(names))}), is {wanted}")
    return names[wanted]


def _in_cluster(config: Any, settings: Any, paths: str) -> str | None:
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException as error:
        raise ClusterUnavailable(
            f"a kubeconfig must say which cluster: there is none at {paths}. Set KUBECONFIG, or bring a cluster up with "
            "`make cluster-up`; without a cluster, `m3 run -f FILE` trains on this machine"
        ) from error
    namespace = SERVICE_ACCOUNT / "namespace"
    return namespace.read_text().strip() if namespace.is_file() else None


class Kube:
    """One cluster, one namespace by default, and what `m3` asks of them."""

    def __init__(self, api: ApiClient, namespace: str, timeout: float = TIMEOUT_SECONDS):
        self._api, self.namespace, self._timeout = api, namespace, timeout

    @property
    def server(self) -> str:
        """Address of the API server."""
        return self._api.configuration.host

    # --- requests ---
    def get(self, path: str, **query: Any) -> Object:
        """The JSON at a path of the API. Raises a `ClusterError`."""
        return json.loads(self._send("GET", path, query).read())

    def post(self, path: str, body: Object) -> Object:
        return json.loads(self._send("POST", path, {}, body).read())

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Object | None = None,
        content_type: str = "application/json",
        host: str | None = None,
        timeout: float | tuple[float, float] | None = None,
    ) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json, */*"} | ({"Content-Type": content_type} if body is not None else {})
        headers |= {"Host": host} if host else {}
        pairs = [(name, _text(value)) for name, value in query.items() if value is not None]
        try:
            method, url, headers, data, _ = self._api.param_serialize(
                method, path, query_params=pairs, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer = self._api.call_api(method, url, headers, data, _request_timeout=timeout or self._timeout)
        except (HTTPError, ApiException, OSError) as error:
            raise self._unavailable(error) from error
        if not 200 <= answer.status <= 299:
            raise refusal(answer.status, (answer.read() or b"").decode(errors="replace"))
        return answer

    def _unavailable(self, error: Exception) -> ClusterUnavailable:
        cause = getattr(error, "reason", None) or error
        words = str(cause.__cause__ or cause) if isinstance(cause, BaseException) else str(cause)
        if isinstance(cause.__cause__ if isinstance(cause, BaseException) else None, ssl.SSLError) or "SSL" in words:
            words = f"{words.splitlines()[-1]} (does the kubeconfig belong to this cluster?)"
        return ClusterUnavailable(
            f"the API server at {self.server} must answer: {words}. Is the cluster running, and is it the right one "
            "(kubectl config current-context)?"
        )

    # --- jobs ---
    def _jobs(self, namespace: str | None) -> str:
        return f"{API}/namespaces/{_name(namespace)}/{PLURAL}" if namespace else f"{API}/{PLURAL}"

    def jobs(self, namespace: str | None) -> list[Object]:
        """The TrainingJobs of a namespace, of all where it is None, the newest first."""
        with self._explained(namespace):
            items = self.get(self._jobs(namespace))["items"]
            if namespace and not items and not self.has_namespace(namespace):  # the list of what is not there is empty
                raise NotFound(namespace)
        return sorted(items, key=lambda job: job["metadata"]["creationTimestamp"], reverse=True)

    def job(self, namespace: str, name: str) -> Object:
        with self._explained(namespace, name):
            return self.get(f"{self._jobs(namespace)}/{_name(name)}")

    def apply(self, namespace: str, document: Object, dry_run: bool = False) -> Object:
        """Server-side apply: the file's fields become the job's, whoever had set them; the server refuses unknown ones."""
        path = f"{self._jobs(namespace)}/{_name(document['metadata']['name'])}"
        query = {"fieldManager": FIELD_MANAGER, "force": True, "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry_run else {}
        with self._explained(namespace):
            answer = self._send("PATCH", path, query, document, "application/apply-patch+yaml")
        return json.loads(answer.read())

    def patch(self, namespace: str, name: str, spec: Object) -> Object:
        """Set some fields of a job's spec."""
        with self._explained(namespace, name):
            query = {"fieldManager": FIELD_MANAGER}
            path = f"{self._jobs(namespace)}/{_name(name)}"
            return json.loads(self._send("PATCH", path, query, {"spec": spec}, "application/merge-patch+json").read())

    def delete(self, namespace: str, name: str, uid: str) -> None:
        """Delete the job of this uid; one that was made meanwhile under the same name is not touched."""
        with self._explained(namespace, name):
            body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
            self._send("DELETE", f"{self._jobs(namespace)}/{_name(name)}", {}, body)

    def follow(self, namespace: str, name: str, timeout: float | None = None) -> Iterator[Object]:
        """The job as it is, and after each change; ends after `timeout` seconds. Raises `NotFound` when it is deleted.

        A line that is cut, or a watch that has expired, is taken up again from the job as it then is; a server that has never
        answered is not waited for.
        """
        end = None if timeout is None else time.monotonic() + timeout
        answered: float | None = None
        is_away = False
        while True:
            try:
                job, present = self._look(namespace, name)
                answered, is_away = time.monotonic(), False
                yield job
                yield from self._changes(namespace, name, present, end)
            except ClusterUnavailable:
                if answered is None or time.monotonic() - answered > PATIENCE_SECONDS:
                    raise
                if not is_away:
                    log.warning("the API server does not answer; it is asked again for a minute")
                is_away = True
                time.sleep(1)
            if end is not None and time.monotonic() >= end:
                return

    def _look(self, namespace: str, name: str) -> tuple[Object, str]:
        """The job, and the resource version of the present.

        Not the job's own version: a job that nothing has happened to for some minutes has one that the server has forgotten, and
        a watch from there has expired before it begins.
        """
        with self._explained(namespace, name):
            found = self.get(self._jobs(namespace), fieldSelector=f"metadata.name={_name(name)}")
        job = found["items"][0] if found["items"] else self.job(namespace, name)
        return job, found["metadata"]["resourceVersion"]

    def _changes(self, namespace: str, name: str, since: str, end: float | None) -> Iterator[Object]:
        seconds = WATCH_SECONDS if end is None else min(WATCH_SECONDS, max(0.0, end - time.monotonic()))
        if seconds <= 0:
            return
        query = {
            "watch": True,
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": since,
            "timeoutSeconds": max(1, round(seconds)),
        }
        # The server ends a watch in whole seconds; ours ends by the clock, so that a timeout of 0.5 s is one.
        with self._explained(namespace, name):
            answer = self._send("GET", self._jobs(namespace), query, timeout=(self._timeout, seconds))
        for line in _lines(answer):
            event = json.loads(line)
            if event["type"] == "ERROR":  # expired: the caller starts anew
                return
            if event["type"] == "DELETED":
                raise NotFound(f"TrainingJob `{name}` was deleted")
            yield event["object"]

    @contextmanager
    def _explained(self, namespace: str | None, name: str | None = None) -> Iterator[None]:
        """A 404 says which of three things is missing: M3, the namespace or the job."""
        try:
            yield
        except NotFound as error:
            if namespace and not self.has_namespace(namespace):
                raise NotFound(
                    f"namespace `{namespace}` must be there: kubectl create namespace {namespace}, or name another with -n"
                ) from error
            if name and not isinstance(error, NotInstalled):
                raise NotFound(
                    f"TrainingJob `{name}` must be in namespace `{namespace}`, and is not; m3 status -A shows what there is"
                ) from error
            raise

    def has_namespace(self, name: str) -> bool:
        """False only where it is known that there is none: not everybody may read namespaces."""
        try:
            self.get(f"/api/v1/namespaces/{_name(name)}")
        except NotFound:
            return False
        except ClusterRefused:
            return True
        return True

    def namespaces(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.get("/api/v1/namespaces")["items"]]

    # --- pods and services ---
    def pods(self, namespace: str, selector: str) -> list[Object]:
        return self.get(f"/api/v1/namespaces/{_name(namespace)}/pods", labelSelector=selector)["items"]

    def pod_log(self, namespace: str, pod: str, container: str, follow: bool = False) -> Iterator[tuple[str, str]]:
        """Time and text of each line of a container's log. Raises `NotFound` where there is none yet, or no pod any more.

        With `follow` it goes on until the container ends, and raises `ClusterUnavailable` where the line is cut.
        """
        path = f"/api/v1/namespaces/{_name(namespace)}/pods/{_name(pod)}/log"
        query = {"container": container, "timestamps": True, "follow": follow}
        try:
            answer = self._send("GET", path, query, timeout=(self._timeout, PATIENCE_SECONDS))
        except InvalidSpec as error:  # 400: the container waits to start
            raise NotFound(str(error)) from error
        for line in _lines(answer):
            moment, _, text = line.partition(" ")
            yield moment, text

    def through_service(
        self, namespace: str, service: str, path: str, query: Object, host: str, body: Object | None = None
    ) -> bytes:
        """An answer of a Service in the cluster, by the API server's proxy. `host` is the Host header that it sees.

        The right for it is `services/proxy`, with the verb `get`, or `create` where there is a body.
        """
        where = f"/api/v1/namespaces/{_name(namespace)}/services/{quote(service, safe=':')}/proxy{path}"
        return self._send("GET" if body is None else "POST", where, query, body, host=host).read()

    def may(self, verb: str, resource: str, namespace: str, group: str = "", subresource: str = "") -> bool:
        """Whether the current user has a right, as `kubectl auth can-i` asks."""
        wanted = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "namespace": namespace,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        return bool(self.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)["status"]["allowed"])


def _name(text: str | None) -> str:
    return quote(text or "", safe="")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(answer: Any) -> Iterator[str]:
    """Lines as they come. A silence longer than the read timeout ends them, as the end of the answer does."""
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    rest = b""
    try:
        for chunk in answer.response.stream(amt=None, decode_content=False):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
    except ReadTimeoutError:
        return
    except (HTTPError, OSError) as error:
        raise ClusterUnavailable(f"the connection to the API server was cut: {error}") from error
    finally:
        answer.response.close()
    if rest:
        yield rest.decode(errors="replace")


# --- what the API server's refusals mean ------------------------------------------------------------------------------
class NotInstalled(NotFound):
    """The cluster does not know our kind."""


FORBIDDEN = re.compile(
    r'User "(?P<user>.*?)" cannot (?P<verb>\S+) resource "(?P<resource>.*?)" in API group "(?P<group>.*?)"'
    r'(?: in the namespace "(?P<namespace>.*?)")?'
)
UNKNOWN = re.compile(r'unknown field "([^"]*)"|\.(spec\S*): field not declared in schema')
TYPED = re.compile(r"\.(spec\S*): expected (.+?), got (.+)")
BOUND = re.compile(r"^(?P<value>.*?): \S+ in body should (?P<must>.*)$", re.DOTALL)


def refusal(status: int, text: str) -> M3Error:
    """An answer of the API server that is not a success, as an error whose message says what must be true. Pure."""
    body = _status_of(text)
    message = body.get("message") or text.strip()[:500] or f"status {status}"
    explain: dict[int, Callable[[Object, str], M3Error]] = {
        400: _invalid, 401: _unauthorized, 403: _forbidden, 404: _not_found, 409: _conflict, 422: _invalid,
    }  # fmt: skip
    if status == 500 and "typed patch" in message:  # server-side apply's word for a field of another type
        status = 400
    if status in explain:
        return explain[status](body, message)
    if status == 429 or status >= 500:
        return ClusterUnavailable(f"the API server must answer; it said {status}: {message}")
    return ClusterRefused(f"the API server refuses: {message}")


def _status_of(text: str) -> Object:
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _unauthorized(_: Object, message: str) -> M3Error:
    return ClusterRefused(
        f"the API server must accept your credentials, and does not ({message}): log in to the cluster again"
    )


def _forbidden(_: Object, message: str) -> M3Error:
    found = FORBIDDEN.search(message)
    if not found:
        return ClusterRefused(f"the API server refuses: {message}")
    resource = f"{found['resource']}.{found['group']}" if found["group"] else found["resource"]
    where = f"in namespace `{found['namespace']}`" if found["namespace"] else "in the whole cluster"
    return ClusterRefused(
        f"user `{found['user']}` must have the right to {found['verb']} {resource} {where}: "
        "ask the cluster's administrator for it"
    )


def _not_found(body: Object, message: str) -> M3Error:
    if body.get("details", {}).get("name") or (body and "could not find the requested resource" not in message):
        return NotFound(message)
    return NotInstalled(f"the cluster must have M3 installed, and knows no {KIND}: {INSTALL}")


def _conflict(_: Object, message: str) -> M3Error:
    return ClusterRefused(f"somebody else has changed it at the same moment; try again: {message}")


def _invalid(body: Object, message: str) -> M3Error:
    """Each cause a line: the field, and what must be true there."""
    lines = [f"{first or second}: must be a known field" for first, second in UNKNOWN.findall(message)]
    lines += [f"{field}: must be {wanted}, is {found}" for field, wanted, found in TYPED.findall(message)]
    causes = body.get("details", {}).get("causes", ())
    lines += [_located(cause.get("field", ""), _plain(cause.get("message", ""))) for cause in causes]
    return InvalidSpec("\n".join(dict.fromkeys(lines)) or message)


def _located(field: str, told: str) -> str:
    """Kubernetes calls the whole object `<nil>`; a rule of the whole names its fields itself."""
    return told if field in ("", "<nil>") else f"{field}: {told}"


def _plain(message: str) -> str:
    """Without the value as Kubernetes quotes it: `"object"` for anything that is none of JSON's simple types."""
    if message == "Required value":
        return "must be set"
    if listed := re.match(r"^Unsupported value: (.*?): supported values: (.*)$", message):
        return f"must be one of {listed[2]}, is {listed[1]}"
    told = re.sub(r"^(Invalid|Required|Duplicate|Forbidden|Too \w+)( value)?: ", "", message)
    if bound := BOUND.match(told):
        return f"must {bound['must']}, is {bound['value']}"
    return re.sub(r'^"(object|array|string)": ', "", told)


def quantity(text: str | float) -> float:
    """A Kubernetes quantity as a number: `500m` is 0.5, `2Gi` is 2147483648."""
    from kubernetes.utils import parse_quantity

    return float(parse_quantity(text))
