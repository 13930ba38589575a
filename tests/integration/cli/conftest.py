"""`m3` as a process, with a kubeconfig of its own, against the real API server."""

import json
import os
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import M3, Ended

CLEARED = ("MLFLOW_TRACKING_URI", "KUBECONFIG", "M3_HOME", "M3_SYSTEM_NAMESPACE", "KUBERNETES_SERVICE_HOST")


@dataclass(frozen=True)
class Cli:
    """`m3` in a shell where `kubeconfig` is the cluster's, and the context's namespace the test's."""

    folder: Path
    kubeconfig: Path

    def environment(self, changed: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in CLEARED}
        return kept | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder)} | changed

    def __call__(self, *arguments: str, text: str | None = None, **environment: str) -> Ended:
        done = subprocess.run(
            [*M3, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False,
            env=self.environment(environment), cwd=self.folder,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str, text: str | None = None) -> dict[str, Any]:
        ended = self(*arguments, "--output", "json", text=text)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """As a terminal starts it: where these tests run in the background, Ctrl-C is ignored, and children inherit that."""
        return subprocess.Popen(
            [*M3, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environment({}), cwd=self.folder,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


@pytest.fixture
def as_user(namespace, tmp_path: Path) -> Callable[[str], Cli]:
    """`m3` as a user that the API server knows: `admin`, or `reader`, who may read jobs and not make them."""

    def make(user: str) -> Cli:
        document = yaml.safe_load(namespace.server.kubeconfig(user).read_text())
        document["contexts"][0]["context"]["namespace"] = namespace.name
        path = tmp_path / f"{user}.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return Cli(tmp_path, path)

    return make


@pytest.fixture
def m3(as_user) -> Cli:
    return as_user("admin")


@pytest.fixture
def job_yaml() -> Callable[..., str]:
    """A TrainingJob's file; `spec` adds to its spec."""

    def make(name: str = "job", **spec: Any) -> str:
        workload = {"data": {"uri": "sample://transactions?rows=1000&seed=7", "target": "TX_FRAUD"}}
        document = {
            "apiVersion": "m3.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": workload | spec,
        }
        return yaml.safe_dump(document)

    return make


def keep_log(uri: str, run_id: str, text: str) -> None:
    """Put a job's output where the job puts it: artifact `logs/driver.log` of its run."""
    with urllib.request.urlopen(f"{uri}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=30) as answer:
        artifacts = json.load(answer)["run"]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:")
    address = f"{uri}/api/2.0/mlflow-artifacts/artifacts{artifacts}/logs/driver.log"
    with urllib.request.urlopen(urllib.request.Request(address, text.encode(), method="PUT"), timeout=30):
        pass


@pytest.fixture(name="keep_log")
def keep_log_fixture() -> Callable[[str, str, str], None]:
    return keep_log


# --- a line that can be cut -------------------------------------------------------------------------------------------
@dataclass
class Line:
    """A port that leads to the API server until it is cut, and again when it is mended."""

    target: int
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    open: list[socket.socket] = field(default_factory=list)
    is_cut: bool = False

    @property
    def port(self) -> int:
        return self.listener.getsockname()[1]

    def serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            self.open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        self.is_cut = True
        for each in self.open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.is_cut = False


@pytest.fixture
def line(m3: Cli, api_server) -> Iterator[Line]:
    """The line that `m3` has to the API server in this test."""
    made = Line(api_server.port)
    threading.Thread(target=made.serve, daemon=True).start()
    m3.kubeconfig.write_text(m3.kubeconfig.read_text().replace(f":{api_server.port}", f":{made.port}"))
    yield made
    made.listener.close()
    made.cut()
