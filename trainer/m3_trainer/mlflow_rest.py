"""What is left to do in MLflow after the training process has ended, without importing MLflow: that takes a second and 120 MB.

A server that serves the artifacts itself takes them by one PUT. For any other store MLflow is imported after all.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

TIMEOUT_SECONDS = 10.0
LOG_FOLDER, LOG_FILE = "logs", "driver.log"
FAULTS = (OSError, HTTPException, ValueError)
"""What a request raises: urllib's errors are OSErrors, an answer that is no JSON is a ValueError."""


@dataclass(frozen=True)
class OwnRun:
    """The run that a training process has begun."""

    run_id: str
    artifacts: str
    tracking_uri: str

    @classmethod
    def read(cls, path: Path) -> OwnRun | None:
        """As the training process told it; None where it did not come so far."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.__dict__))

    @property
    def is_on_server(self) -> bool:
        return self.tracking_uri.startswith(("http://", "https://"))


def end_if_running(run: OwnRun, status: str, why: str, environment: Mapping[str, str]) -> None:
    """End, as FAILED or KILLED, a run that its own process cannot end any more. Raises one of `FAULTS`."""
    if not run.is_on_server:
        return _end_by_library(run, status, why)
    found = _call(run, f"runs/get?run_id={run.run_id}", None, environment)
    if found["run"]["info"]["status"] != "RUNNING":
        return None
    if why:
        _call(run, "runs/set-tag", {"run_id": run.run_id, "key": "m3.error", "value": why}, environment)
    ended = {"run_id": run.run_id, "status": status, "end_time": int(time.time() * 1000)}
    _call(run, "runs/update", ended, environment)
    return None


def store_log(run: OwnRun, data: bytes, environment: Mapping[str, str]) -> None:
    """Keep the output as artifact `logs/driver.log`. Raises one of `FAULTS`."""
    artifacts = urlsplit(run.artifacts)
    if not run.is_on_server or artifacts.scheme != "mlflow-artifacts":
        return _store_by_library(run, data)
    base = urlsplit(run.tracking_uri)
    host = artifacts.netloc or base.netloc
    path = f"{base.path.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts{quote(artifacts.path)}/{LOG_FOLDER}/{LOG_FILE}"
    _send(f"{base.scheme}://{host}{path}", "PUT", data, "text/plain", environment)
    return None


def _call(run: OwnRun, path: str, body: object, environment: Mapping[str, str]) -> dict:
    data = None if body is None else json.dumps(body).encode()
    url = f"{run.tracking_uri.rstrip('/')}/api/2.0/mlflow/{path}"
    return json.loads(_send(url, "POST" if data else "GET", data, "application/json", environment))


def _send(url: str, method: str, data: bytes | None, kind: str, environment: Mapping[str, str]) -> bytes:
    headers = {"Content-Type": kind} | _authorization(environment)
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read()


def _authorization(environment: Mapping[str, str]) -> dict[str, str]:
    """MLflow's own variables, in its own order."""
    if user := environment.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    return {}


def _end_by_library(run: OwnRun, status: str, why: str) -> None:
    import mlflow.exceptions

    client = mlflow.MlflowClient(run.tracking_uri)
    try:
        if client.get_run(run.run_id).info.status == "RUNNING":
            if why:
                client.set_tag(run.run_id, "m3.error", why)
            client.set_terminated(run.run_id, status)
    except mlflow.exceptions.MlflowException as error:
        raise OSError(str(error)) from error


def _store_by_library(run: OwnRun, data: bytes) -> None:
    import tempfile

    import mlflow.exceptions

    client = mlflow.MlflowClient(run.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="m3-log-") as folder:
        file = Path(folder) / LOG_FILE
        file.write_bytes(data)
        try:
            client.log_artifact(run.run_id, str(file), LOG_FOLDER)
        except mlflow.exceptions.MlflowException as error:
            raise OSError(str(error)) from error
