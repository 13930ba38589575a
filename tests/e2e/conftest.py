"""The real thing: a cluster with KubeRay, MLflow and the operator in it, which `tests/cluster/cluster.sh up` has brought.

Nothing here waits by sleeping: kubectl watches, and every event is kept with the moment at which it came.
"""

import codecs
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER_SH = ROOT / "tests" / "cluster" / "cluster.sh"
SAMPLES = ROOT / "manifests" / "samples"
HANDBOOK_DATA = ROOT.parent / "shared" / "data" / "transactions.parquet"
JOBS, SYSTEM = "default", "m3-system"

# The Handbook's transactions carry no licence and are not in the repository: its tests are there where the file is.
collect_ignore = [] if HANDBOOK_DATA.is_file() else ["test_handbook.py"]

Object = dict[str, Any]


# --- kubectl ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """An event of a watch, and when it came (seconds of the monotonic clock)."""

    at: float
    type: str
    object: Object


class Watch:
    """What the API server says about some objects, from the moment that the watch stands."""

    def __init__(self, kubectl: list[str], environment: dict[str, str]):
        self.seen: list[Seen] = []
        self._news = threading.Condition()
        self._stands = threading.Event()
        # Verbose: the line about the open connection is the only sign that from now on nothing is missed.
        command = [*kubectl, "--watch", "--output-watch-events", "--output=json", "--v=6"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for read in (self._read_events, self._read_log):
            threading.Thread(target=read, daemon=True).start()
        assert self._stands.wait(30), f"no watch after 30 s: {' '.join(command)}"

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if b"watch=true" in line and b"200 OK" in line:
                self._stands.set()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        decode, parse, text = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder().raw_decode, ""
        for chunk in iter(lambda: os.read(self._process.stdout.fileno(), 1 << 20), b""):  # type: ignore[union-attr]
            at = time.monotonic()
            text = (text + decode.decode(chunk)).lstrip()
            while text:
                try:
                    event, end = parse(text)
                except json.JSONDecodeError:
                    break  # the rest of it is still to come
                text = text[end:].lstrip()
                with self._news:
                    self.seen.append(Seen(at, event["type"], event["object"]))
                    self._news.notify_all()

    def first(self, predicate: Callable[[Seen], bool], timeout: float) -> Seen:
        """The first event that fits, which may have come already; fails after `timeout` seconds."""

        def found() -> Seen | None:
            return next((each for each in self.seen if predicate(each)), None)

        with self._news:
            event = self._news.wait_for(found, timeout)
        if event is None:
            last = self.seen[-1].object.get("status") if self.seen else "nothing"
            pytest.fail(f"no such event within {timeout:g} s; last seen: {json.dumps(last, indent=1)}")
        return event

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)


@dataclass(frozen=True)
class Cluster:
    environment: dict[str, str] = field(repr=False)

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", *arguments],
            input=text,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done

    def get(self, *arguments: str) -> Object:
        return json.loads(self.kubectl("get", *arguments, "--output=json").stdout)

    def apply(self, document: Object, namespace: str = JOBS) -> None:
        """Apply, and have the API server say nothing about it: a warning is a fault of what we tell users to write."""
        done = self.kubectl("apply", f"--namespace={namespace}", "--filename=-", text=yaml.safe_dump(document))
        assert done.stderr == ""

    def job(self, name: str) -> "Job":
        return Job(self.get("trainingjob", name, f"--namespace={JOBS}"))

    @contextmanager
    def watch(self, resource: str, *arguments: str, namespace: str = JOBS) -> Iterator[Watch]:
        watch = Watch(["kubectl", "get", resource, f"--namespace={namespace}", *arguments], self.environment)
        try:
            yield watch
        finally:
            watch.close()

    @contextmanager
    def forward(self, namespace: str, service: str, port: int) -> Iterator[int]:
        """A port of this machine that leads to a Service."""
        command = ["kubectl", f"--namespace={namespace}", "port-forward", f"service/{service}", f":{port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, f"{' '.join(command)} said {line!r}"
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(timeout=10)

    def delete_job(self, name: str) -> None:
        """Delete a TrainingJob, and come back when its pods have given back what they held."""
        self.kubectl("delete", "trainingjob", name, f"--namespace={JOBS}", "--ignore-not-found")
        self.kubectl(
            *("wait", "--for=delete", "pods", f"--selector=m3.dev/job={name}", f"--namespace={JOBS}", "--timeout=120s")
        )


@dataclass(frozen=True)
class Job:
    """A TrainingJob as the API server gives it."""

    object: Object = field(repr=False)

    @property
    def name(self) -> str:
        return self.object["metadata"]["name"]

    @property
    def uid(self) -> str:
        return self.object["metadata"]["uid"]

    @property
    def status(self) -> Object:
        return self.object.get("status", {})

    def condition(self, kind: str) -> Object:
        """The condition of that type, or one that is Unknown for want of any."""
        unknown = {"status": "Unknown", "reason": "", "message": ""}
        return next((each for each in self.status.get("conditions", []) if each["type"] == kind), unknown)

    def has(self, kind: str) -> bool:
        return self.condition(kind)["status"] == "True"

    @property
    def is_finished(self) -> bool:
        return self.has("Complete") or self.has("Failed")


# --- fixtures ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster. Without one every test fails: a suite that skips itself is green and says nothing."""
    script = f'eval "$("{CLUSTER_SH}" env)" && env -0'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        pytest.fail(f"{CLUSTER_SH.name} env failed: {done.stderr}")
    found = Cluster(dict(each.split("=", 1) for each in done.stdout.split("\0") if "=" in each))
    answer = found.kubectl("get", "--raw=/readyz", "--request-timeout=10s", check=False)
    if answer.returncode != 0:
        pytest.fail(f"no cluster answers; bring one up with `make cluster-up`: {answer.stderr}")
    found.kubectl("label", "--overwrite", "namespace", JOBS, "pod-security.kubernetes.io/enforce=restricted")
    return found


@pytest.fixture(scope="session")
def session_start() -> str:
    return datetime.now(UTC).isoformat()


@pytest.fixture(scope="session", autouse=True)
def _note_the_start(session_start: str) -> None:
    """The operator's log is read from here on, whichever test comes first."""


@pytest.fixture(scope="module")
def mlflow_client(cluster: Cluster) -> Iterator[Any]:
    import mlflow

    with cluster.forward(SYSTEM, "mlflow", 5000) as port:
        yield mlflow.MlflowClient(tracking_uri=f"http://localhost:{port}")


@pytest.fixture
def run_job(cluster: Cluster) -> Iterator[Callable[..., Job]]:
    """Apply a TrainingJob and give it back when it is Complete or Failed."""
    names = []

    def run(document: Object, timeout: float = 180) -> Job:
        name = document["metadata"]["name"]
        cluster.delete_job(name)
        names.append(name)
        with cluster.watch("trainingjobs", f"--field-selector=metadata.name={name}") as watch:
            cluster.apply(document)
            return Job(watch.first(lambda seen: Job(seen.object).is_finished, timeout).object)

    yield run
    for name in names:
        cluster.delete_job(name)


@pytest.fixture
def small_job() -> Callable[..., Object]:
    """A TrainingJob that needs one pod and few seconds, with a model of its own; `spec` replaces parts of its spec."""

    def make(name: str, **spec: Any) -> Object:
        head = {"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}}}
        document = {
            "apiVersion": "m3.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": {
                "data": {"uri": "sample://transactions?rows=5000&seed=1", "target": "TX_FRAUD"},
                "model": {"hyperparameters": {"n_estimators": 10}},
                "tracking": {"experimentName": "e2e"},
                "registry": {"modelName": f"e2e-{name}"},
                "ray": {"head": head},
                "backoffLimit": 0,
            },
        }
        document["spec"].update(spec)
        return document

    return make


@pytest.fixture(scope="session")
def m3() -> Callable[..., Object]:
    """`m3 … --output json` of this checkout, on this machine; gives what it prints."""

    def run(*arguments: str | Path) -> Object:
        command = [str(Path(sys.executable).parent / "m3"), *map(str, arguments), "--output", "json"]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


# --- what a person wants to see after a failure -----------------------------------------------------------------------
DIAGNOSES = {
    "jobs and pods": ("get", "trainingjobs,rayjobs,rayclusters,pods", "--all-namespaces", "--output=wide"),
    "TrainingJobs": ("describe", "trainingjobs", f"--namespace={JOBS}"),
    "status of the RayJobs": (
        "get",
        "rayjobs",
        f"--namespace={JOBS}",
        "--output=custom-columns=NAME:.metadata.name,STATUS:.status",
    ),
    "pods": ("describe", "pods", f"--namespace={JOBS}"),
    "events": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
    "operator": ("logs", f"--namespace={SYSTEM}", "deployment/m3-operator", "--tail=150"),
    "MLflow": ("logs", f"--namespace={SYSTEM}", "deployment/mlflow", "--tail=30"),
    "Ray": ("logs", f"--namespace={JOBS}", "--selector=m3.dev/job", "--tail=50", "--prefix", "--all-containers"),
}
DRIVER_LOG = "tail -n 100 /tmp/ray/session_latest/logs/job-driver-*.log"


def diagnoses(cluster: Cluster) -> Iterator[tuple[str, str]]:
    for title, arguments in DIAGNOSES.items():
        done = cluster.kubectl(*arguments, check=False)
        yield title, done.stdout + done.stderr
    heads = cluster.kubectl(
        *("get", "pods", f"--namespace={JOBS}", "--selector=m3.dev/job,ray.io/node-type=head", "--output=name"),
        check=False,
    )
    for head in heads.stdout.split():
        done = cluster.kubectl("exec", f"--namespace={JOBS}", head, "--", "sh", "-c", DRIVER_LOG, check=False)
        yield f"driver of {head}", done.stdout + done.stderr


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cluster = item.funcargs.get("cluster") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(cluster, Cluster):
        report.sections.extend(diagnoses(cluster))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is said about the whole run comes after it."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: runs after all other tests, because it judges what they left")
