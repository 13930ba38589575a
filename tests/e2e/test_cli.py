"""`m3` as a person uses it, on the real cluster: nothing is forwarded, and nothing but a kubeconfig is set."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.kube import JOBS, SYSTEM, Cluster
from support import wait_until

WARM = Path(__file__).parents[2] / "manifests" / "samples" / "raycluster.yaml"
M3 = str(Path(sys.executable).parent / "m3")


@dataclass
class Following:
    """A command whose lines are kept with the moment at which they came."""

    process: subprocess.Popen[str]
    lines: list[tuple[float, str]] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip("\n")))

    @property
    def text(self) -> list[str]:
        return [line for _, line in self.lines]


@pytest.fixture
def m3(cluster: Cluster) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {name: value for name, value in cluster.environment.items() if name != "MLFLOW_TRACKING_URI"}

    def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [M3, *arguments], input=text, capture_output=True, text=True, check=False, timeout=300, env=environment
        )

    return run


@pytest.fixture
def follow(cluster: Cluster) -> Iterator[Callable[..., Following]]:
    started: list[Following] = []

    def start(*arguments: str) -> Following:
        process = subprocess.Popen([M3, *arguments], stdout=subprocess.PIPE, text=True, env=cluster.environment)
        following = Following(process)
        started.append(following)
        threading.Thread(target=following.read, daemon=True).start()
        return following

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def job(cluster: Cluster, small_job: Callable[..., Any]) -> Iterator[Callable[..., str]]:
    """A TrainingJob as text, gone before and after the test."""
    names = []

    def make(name: str, **spec: Any) -> str:
        names.append(name)
        cluster.delete_job(name)
        return yaml.safe_dump(small_job(name, **spec))

    yield make
    for name in names:
        cluster.delete_job(name)


LONGER = {
    "data": {"uri": "sample://transactions?rows=100000&seed=1", "target": "TX_FRAUD"},
    "model": {"hyperparameters": {"n_estimators": 100}},
}


def test_submit_follow_wait_and_read_it_later(m3, follow, job, cluster):
    submitted = m3("submit", "-f", "-", text=job("cli-story", **LONGER))
    assert (submitted.returncode, submitted.stderr) == (0, "")
    with cluster.watch("trainingjobs", "--field-selector=metadata.name=cli-story") as watch:
        followed = follow("logs", "-f", "cli-story")
        waited = m3("wait", "cli-story", "--timeout", "4m")
        assert waited.returncode == 0, waited.stderr
        complete = watch.first(lambda seen: _is(seen.object, "Complete"), 10).at
    assert followed.process.wait(30) == 0
    wait_until(lambda: any("register" in line for line in followed.text), 5, lambda: followed.text)
    live = next(at for at, line in followed.lines if line.startswith("read the data"))
    assert complete - live > 3, "the line is shown while the job trains, and not when it is over"
    later = m3("logs", "cli-story", "--output", "json")
    assert later.returncode == 0, later.stderr
    told = json.loads(later.stdout)
    assert (told["source"], told["attempt"]) == ("mlflow", 1)
    assert told["lines"] == followed.text, "what was shown live is what is kept, line by line"
    assert m3("logs", "cli-story", "--tail", "1").stdout.splitlines() == told["lines"][-1:]
    shown = json.loads(m3("status", "cli-story", "-o", "json").stdout)
    assert (shown["state"], shown["model"]["name"]) == ("Complete", "e2e-cli-story")
    assert shown["progress"]["metrics"][0]["name"] == "average_precision"


def _is(job: dict[str, Any], kind: str) -> bool:
    return any(
        each["type"] == kind and each["status"] == "True" for each in job.get("status", {}).get("conditions", ())
    )


def test_following_goes_on_with_the_next_attempt(m3, follow, job, cluster):
    m3("submit", "-f", "-", text=job("cli-retry", backoffLimit=1, **LONGER))
    followed = follow("logs", "-f", "cli-retry")
    wait_until(lambda: any(line.startswith("read the data") for line in followed.text), 120, lambda: followed.text)
    rayjob = cluster.job("cli-retry").status["attempts"][0]["rayJobName"]
    cluster.kubectl("delete", "rayjob", rayjob, f"--namespace={JOBS}")
    assert m3("wait", "cli-retry", "--timeout", "4m").returncode == 0
    assert followed.process.wait(30) == 0
    assert sum(line.startswith("read the data") for line in followed.text) == 2
    attempts = json.loads(m3("status", "cli-retry", "-o", "json").stdout)["attempts"]
    assert [each["reason"] for each in attempts] == ["RayJobDeleted", "Succeeded"]


@pytest.fixture
def shared_cluster(cluster: Cluster) -> Iterator[str]:
    """A Ray cluster that stays, from the sample, under a name of this test's own."""
    document = yaml.safe_load(WARM.read_text())
    name = document["metadata"]["name"] = "cli-shared"
    cluster.apply(document)
    cluster.kubectl(
        "wait", "--for=condition=HeadPodReady", f"raycluster/{name}", f"--namespace={JOBS}", "--timeout=120s"
    )
    yield name
    cluster.kubectl("delete", "raycluster", name, f"--namespace={JOBS}", "--wait")


def test_jobs_on_a_shared_cluster_have_each_their_own_log(m3, follow, job, shared_cluster):
    ray = {"clusterSelector": {"ray.io/cluster": shared_cluster}}
    sizes = {"cli-first": 20_000, "cli-second": 30_000}
    for name, rows in sizes.items():
        data = {"uri": f"sample://transactions?rows={rows}&seed=1", "target": "TX_FRAUD"}
        assert m3("submit", "-f", "-", text=job(name, ray=ray, data=data)).returncode == 0
    followed = {name: follow("logs", "-f", name) for name in sizes}
    for name, rows in sizes.items():
        assert m3("wait", name, "--timeout", "4m").returncode == 0
        assert followed[name].process.wait(30) == 0, "the log of a pod that lives on ends with the job"
        lines = followed[name].text
        assert json.loads(lines[-1])["lineage"]["rows"] == rows
        assert lines == json.loads(m3("logs", name, "-o", "json").stdout)["lines"]


def test_a_job_that_is_stuck_says_why_wherever_it_is_asked(m3, job):
    text = job("cli-stuck", image="registry.invalid/none:1")
    m3("submit", "-f", "-", text=text)
    reasons = ("ImagePullBackOff", "ErrImagePull")
    wait_until(lambda: any(word in m3("status", "cli-stuck").stdout for word in reasons), 60)
    log = m3("logs", "cli-stuck")
    assert log.returncode == 12
    assert "registry.invalid/none:1" in log.stderr
    waited = m3("wait", "cli-stuck", "--timeout", "1s")
    assert waited.returncode == 14
    assert "registry.invalid/none:1" in waited.stderr
    assert m3("cancel", "cli-stuck", "--delete").stdout == "trainingjob.m3.dev/cli-stuck deleted\n"


def test_cancel_frees_the_nodes_and_keeps_the_job(m3, job, cluster):
    m3("submit", "-f", "-", text=job("cli-cancel", **LONGER))
    assert m3("wait", "cli-cancel", "--for", "Running", "--timeout", "2m").returncode == 0
    assert m3("cancel", "cli-cancel").returncode == 0
    cluster.kubectl(
        *("wait", "--for=delete", "pods", "--selector=m3.dev/job=cli-cancel", f"--namespace={JOBS}", "--timeout=60s")
    )
    shown = json.loads(m3("status", "cli-cancel", "-o", "json").stdout)
    assert (shown["state"], shown["attempts"][0]["reason"]) == ("Suspended", "Suspended")


def test_doctor_finds_nothing_wrong(m3):
    done = m3("doctor", "--output", "json")
    checks = json.loads(done.stdout)
    verdicts = {each["name"]: (each["verdict"], each["seen"]) for each in checks["checks"]}
    wrong = {name: seen for name, (verdict, seen) in verdicts.items() if verdict != "ok" and name != "capacity"}
    assert wrong == {}, "capacity may be short while other tests' pods are going"
    assert done.returncode == 0
    assert {
        "api-server",
        "crds",
        "operator",
        "namespace",
        "kuberay",
        "mlflow",
        "storage-class",
        "rights",
    } <= verdicts.keys()


@pytest.fixture
def other_name(cluster: Cluster) -> Iterator[str]:
    """A second Service of the same MLflow, whose name MLflow was never told."""
    selector = cluster.get("service", "mlflow", f"--namespace={SYSTEM}")["spec"]["selector"]
    ports = [{"name": "http", "port": 5000, "targetPort": "http"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "tracking"},
        "spec": {"selector": selector, "ports": ports},
    }
    cluster.apply(service, SYSTEM)
    yield "tracking"
    cluster.kubectl("delete", "service", "tracking", f"--namespace={SYSTEM}")


def test_doctor_sees_an_mlflow_that_refuses_the_name_it_is_called_by(m3, other_name):
    def mlflow() -> dict[str, str]:
        # no operator is named, so it is not the operator's setting that says which MLflow
        done = m3("doctor", "--release", "none", "--mlflow-service", other_name, "--output", "json")
        return next(each for each in json.loads(done.stdout)["checks"] if each["name"] == "mlflow")

    wait_until(lambda: "no endpoints" not in mlflow()["seen"], 30, mlflow)
    host = f"{other_name}.{SYSTEM}.svc.cluster.local:5000"
    assert mlflow() == {
        "name": "mlflow",
        "verdict": "fault",
        "seen": f"is there, and answers 403 to jobs that call it {host}",
        "cure": f"start it with --allowed-hosts {host} (charts/mlflow: extraAllowedHosts)",
    }


def test_doctor_sees_a_namespace_that_nobody_watches(m3):
    done = m3("doctor", "-n", "kube-public")
    assert done.returncode == 15
    assert "the operator does not watch kube-public" in done.stdout
