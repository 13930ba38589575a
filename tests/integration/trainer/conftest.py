"""A small data set, and `m3` as a user starts it."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import unused_port
from jobs import Job
from postgres import Postgres, serve
from support import M3, Ended, wait_until

from m3_trainer.cli.main import main

ROOT = Path(__file__).parents[3]
VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MODEL_OUTPUT_PATH",
    "RAY_DASHBOARD_HOST",
    "RAY_DASHBOARD_PORT",
    "TRAIN_DATA_PATH",
    "SAMPLE_SIZE",
    "DATABASE_USER",
    "DATABASE_PASSWORD",
    "M3_HOME",
    "M3_WORKLOAD",
    "M3_WORKERS",
    "RAY_ADDRESS",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory and none of the variables that `m3` reads."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def m3(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`m3` in this process: the imports, three seconds of every start, are shared by the tests."""

    def run(*arguments: str) -> Ended:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def m3_process() -> Callable[..., Ended]:
    """`m3` as a process of its own."""

    def run(*arguments: str, **environment: str) -> Ended:
        done = subprocess.run(
            [*M3, *arguments], capture_output=True, text=True, timeout=120, check=False, env=os.environ | environment
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def job_file(clean: Path) -> Callable[..., str]:
    """The sample TrainingJob on 2,000 rows and 10 trees, with parts of its spec replaced."""

    def write(**replaced: Any) -> str:
        job = yaml.safe_load((ROOT / "manifests/samples/trainingjob.yaml").read_text())
        job["spec"]["data"]["uri"] = "sample://transactions?rows=20000"
        job["spec"]["model"]["hyperparameters"] = {"n_estimators": 10, "max_depth": 8}
        for part, value in replaced.items():
            job["spec"][part] = value if part not in job["spec"] else job["spec"][part] | value
        path = clean / "job.yaml"
        path.write_text(json.dumps(job))
        return str(path)

    return write


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with its own host check."""
    folder, port = tmp_path_factory.mktemp("mlflow"), unused_port()
    command = [M3[0], "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    hosts = ["--allowed-hosts", f"127.0.0.1:{port}"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving([*command, *stores, *hosts], port, folder, environment):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def serving(command: list[str], port: int, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A server as a process of its own, from when it answers at its port; its log is in the folder."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(port), 90, lambda: (folder / "log").read_text())
        yield
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def job(server: str, m3_process: Callable[..., Ended], request: pytest.FixtureRequest) -> Job:
    return Job(re.sub("[^a-z0-9]+", "-", request.node.name.lower()), server, m3_process)


def built(tool: str) -> Path:
    """The program of a server that tests/cluster/tools.sh builds."""
    subprocess.run([str(ROOT / "tests/cluster/tools.sh"), tool], check=True, timeout=3000)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "m3"
    return Path(os.environ.get("M3_CACHE", cache)) / "bin" / tool


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server with the bucket `kept`; what a process needs in its environment to reach it."""
    binary = built("minio")
    folder, port = tmp_path_factory.mktemp("minio"), unused_port()
    (folder / "data" / "kept").mkdir(parents=True)
    credentials = {"AWS_ACCESS_KEY_ID": "m3-test", "AWS_SECRET_ACCESS_KEY": "m3-test-secret"}
    own = {"MINIO_ROOT_USER": "m3-test", "MINIO_ROOT_PASSWORD": "m3-test-secret", "MINIO_BROWSER": "off"}
    command = [str(binary), "server", str(folder / "data"), f"--address=127.0.0.1:{port}", f"--certs-dir={folder}"]
    with serving(command, port, folder, os.environ | own | {"HOME": str(folder)}):
        yield credentials | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@pytest.fixture(scope="session")
def google_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks Google Cloud Storage's API, with the bucket `kept`. It asks for no key."""
    binary = built("fake-gcs-server")
    folder, port = tmp_path_factory.mktemp("gcs"), unused_port()
    (folder / "data" / "kept").mkdir(parents=True)
    address = f"127.0.0.1:{port}"
    command = [str(binary), "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-filesystem-root={folder / 'data'}"]
    with serving([*command, f"-public-host={address}"], port, folder, os.environ):
        yield f"http://{address}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A real PostgreSQL."""
    with serve(tmp_path_factory.mktemp("postgres")) as server:
        yield server
