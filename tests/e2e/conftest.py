"""The real thing: a cluster with KubeRay, MLflow and the operator in it, which `tests/cluster/cluster.sh up` has brought."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from e2e.kube import JOBS, SYSTEM, Cluster, Job, Object
from harness import HANDBOOK

ROOT = Path(__file__).parents[2]
CLUSTER_SH = ROOT / "tests" / "cluster" / "cluster.sh"

# The Handbook's transactions carry no licence and are not in the repository: its tests are there where the file is.
collect_ignore = [] if HANDBOOK is not None else ["test_handbook.py"]


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
