"""The rendered command line, run by the real MLflow: what the chart allows is answered, anything else is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from json import dumps
from pathlib import Path
from typing import Any

import pytest
from harness import unused_port
from support import wait_until

VALUES = {
    "ingress": {"enabled": True, "host": "ml.example.org", "tlsSecretName": "cert"},
    "extraAllowedHosts": ["gateway-*.example.org:*"],
}


@dataclass(frozen=True)
class Server:
    port: int
    pid: int
    rendered: Any

    def ask(self, path: str, host: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        method, payload = ("GET", None) if body is None else ("POST", dumps(body))
        connection.request(method, path, payload, {"Host": host, "Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read().decode()

    def ready(self) -> bool:
        get = self.rendered.container["readinessProbe"]["httpGet"]
        try:
            return self.ask(get["path"], get["httpHeaders"][0]["value"])[0] == 200
        except ConnectionError:
            return False


@pytest.fixture(scope="module")
def server(charts, tmp_path_factory) -> Iterator[Server]:
    data, rendered, port = (
        tmp_path_factory.mktemp("mlflow"),
        charts.render("mlflow", VALUES, "mlflow", "ml"),
        unused_port(),
    )
    command = [
        each.replace("/mlflow/", f"{data}/").replace("--port=5000", f"--port={port}")
        for each in rendered.container["command"]
    ]
    command[0] = str(Path(sys.executable).parent / command[0])
    with (data / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=data, env={**os.environ, **rendered.env}, stdout=log, stderr=log)
    try:
        found = Server(port, process.pid, rendered)
        wait_until(found.ready, 90, (data / "log").read_text)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=20)


EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"
ALLOWED = [
    *("mlflow", "mlflow.ml", "mlflow.ml.svc", "mlflow.ml.svc.cluster.local"),
    *("mlflow:5000", "mlflow.ml:5000", "mlflow.ml.svc:5000", "mlflow.ml.svc.cluster.local:5000"),
    *("localhost", "localhost:5050", "127.0.0.1:5050", "ml.example.org", "gateway-7.example.org:443"),
]
REFUSED = ["rebinding.example", "mlflow:5001", "mlflow.other:5000", "10.0.0.1:5000", "example.org", "localhost.example"]


@pytest.mark.parametrize("host", ALLOWED)
def test_answered(server, host):
    assert server.ask(EXPERIMENTS, host)[0] == 200


@pytest.mark.parametrize("host", REFUSED)
def test_refused(server, host):
    assert server.ask(EXPERIMENTS, host)[0] == 403
    assert server.ask("/health", host)[0] == 200, "the trap: health does not look at the host"


@pytest.mark.parametrize(("origin", "status"), [("https://ml.example.org", 200), ("https://elsewhere.example", 403)])
def test_a_page_may_write_only_from_the_ingress(server, origin, status):
    body = {"name": f"from {origin}"}
    assert server.ask("/api/2.0/mlflow/experiments/create", "ml.example.org", body, Origin=origin)[0] == status


def test_a_model_version_cannot_point_outside_the_servers_artifacts(server):
    assert server.ask("/api/2.0/mlflow/registered-models/create", "mlflow", {"name": "m"})[0] == 200
    body = {"name": "m", "source": "s3://elsewhere/model"}
    status, text = server.ask("/api/2.0/mlflow/model-versions/create", "mlflow", body)
    assert (status, "Invalid model version source" in text) == (400, True), text


def descendants(pid: int) -> list[str]:
    """The command lines of all processes below `pid`."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    processes = [line.split(None, 2) for line in table.splitlines()]
    children = [each for each in processes if each[1] == str(pid)]
    return [line for child in children for line in [child[2], *descendants(int(child[0]))]]


def test_no_job_runner_beside_the_server(server):
    """With the runner MLflow starts seven consumers and takes 1.1 GB more."""
    assert 1 <= len(descendants(server.pid)) <= 2
