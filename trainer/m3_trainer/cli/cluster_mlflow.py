"""The log that a job has left in MLflow, found from outside the cluster without a port-forward.

Straight to a tracking URI where one is given; else through the API server's proxy of the Service, with the Host header that
MLflow knows from inside. urllib and four calls: importing MLflow costs two seconds, which is long for `m3 logs`.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from m3_trainer.cli.cluster_job import Job, Object
from m3_trainer.errors import TrackingUnavailable
from m3_trainer.kube import ClusterRefused, ClusterUnavailable, Kube, NotFound

ARTIFACT = "logs/driver.log"
TIMEOUT_SECONDS = 20.0
API = "/api/2.0/mlflow"

Ask = Callable[[str, Object | None, Object], bytes]
"""Takes a path, a body to POST (None: GET) and a query. Raises `Missing` and `TrackingUnavailable`."""


class Missing(Exception):
    """MLflow answers, and has not what it is asked for."""


@dataclass(frozen=True)
class Mlflow:
    """An MLflow server, however it is reached."""

    where: str
    ask: Ask

    def driver_log(self, job: Job, attempt: int) -> str:
        """The whole output of an attempt. Raises `Missing` with the reason, `TrackingUnavailable`."""
        run = self._run(job, attempt)
        try:
            data = self.ask("/get-artifact", None, {"run_id": run, "path": ARTIFACT})
        except Missing as error:
            raise Missing(f"its run {run} in {self.where} has no {ARTIFACT}") from error
        return data.decode(errors="replace")

    def _run(self, job: Job, attempt: int) -> str:
        newest = job.attempts[-1]["number"] if job.attempts else None
        known = (job.status.get("mlflow") or {}).get("runId")
        if known and attempt == newest:
            return known
        experiment = self._experiment(job)
        wanted = f"tags.`m3.job.uid` = '{job.uid}' AND tags.`m3.job.attempt` = '{attempt}'"
        body = {"experiment_ids": [experiment], "filter": wanted, "max_results": 1}
        runs = json.loads(self.ask(f"{API}/runs/search", body, {})).get("runs") or []
        if not runs:
            raise Missing(f"{self.where} has no run of attempt {attempt}")
        return runs[0]["info"]["run_id"]

    def _experiment(self, job: Job) -> str:
        if found := (job.status.get("mlflow") or {}).get("experimentId"):
            return found
        name = job.object["spec"]["tracking"]["experimentName"]
        try:
            answer = self.ask(f"{API}/experiments/get-by-name", None, {"experiment_name": name})
        except Missing as error:
            raise Missing(f"{self.where} has no experiment {name}") from error
        return json.loads(answer)["experiment"]["experiment_id"]


def at(uri: str) -> Mlflow:
    """An MLflow server by its address; MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN are used."""

    def ask(path: str, body: Object | None, query: Object) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        address = f"{uri.rstrip('/')}{path}?{urlencode(query)}"
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"} | _credentials())
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")
            raise _of(error.code, told, f"MLflow at {uri}") from error
        except (OSError, ValueError) as error:
            cause = getattr(error, "reason", error)
            raise TrackingUnavailable(f"MLflow at {uri} must answer: {cause}. Is --tracking-uri right?") from error

    return Mlflow(f"MLflow at {uri}", ask)


def _credentials() -> dict[str, str]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        both = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": "Basic " + base64.b64encode(both.encode()).decode()}
    return {}


def _of(status: int, told: str, where: str) -> Exception:
    """MLflow's refusals: what is not there is one answer, everything else is no answer."""
    # It says 404 for an unknown run, and 500 with the file system's words for an unknown artifact.
    if status == 404 or "No such file" in told or "RESOURCE_DOES_NOT_EXIST" in told:
        return Missing(told)
    if status == 403:
        return TrackingUnavailable(f"{where} must accept the host name that it is called by: --allowed-hosts")
    return TrackingUnavailable(f"{where} must answer; it said {status}: {told[:200]}")


def in_cluster(kube: Kube, namespace: str, service: str) -> Mlflow:
    """The Service in the cluster, as `name` or `name:port`, through the API server."""
    name, _, port = service.partition(":")
    where = f"MLflow in the cluster (service {namespace}/{name})"
    instead = (
        f"Reach it yourself instead: kubectl port-forward -n {namespace} service/{name} 5000, and --tracking-uri "
        "http://localhost:5000"
    )

    def ask(path: str, body: Object | None, query: Object) -> bytes:
        try:
            target, host = f"{name}:{port or 'http'}", f"{name}.{namespace}.svc"
            return kube.through_service(namespace, target, path, query, host, body)
        except NotFound as error:
            if f'services "{name}" not found' in str(error):
                raise TrackingUnavailable(
                    f"{where} must be there: name it with --system-namespace and --mlflow-service, or --tracking-uri"
                ) from error
            raise Missing(str(error)) from error
        except ClusterRefused as error:
            raise TrackingUnavailable(f"{where} must be reached: {error}. {instead}") from error
        except ClusterUnavailable as error:
            if "No such file" in str(error):
                raise Missing(str(error)) from error
            raise TrackingUnavailable(f"{where} must answer: {error}. {instead}") from error

    return Mlflow(where, ask)
