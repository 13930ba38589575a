"""`m3` as a process, with a kubeconfig of its own, against the real API server."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
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
        return subprocess.Popen(
            [*M3, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environment({}), cwd=self.folder,
        )  # fmt: skip


@pytest.fixture
def as_user(namespace, tmp_path: Path) -> Callable[[str], Cli]:
    """`m3` as a user that the API server knows: `admin`, or `operator`, who may read jobs and not make them."""

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
