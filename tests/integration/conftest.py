"""What integration tests stand on: a real etcd, kube-apiserver and MLflow, and the operator as a process of its own.

Missing on purpose: KubeRay and the kubelet. `FakeKubeRay` writes a RayJob's status as KubeRay does, so that a test can stop at
any moment of a job's life; tests/e2e has the real ones. There is no garbage collector either: what goes by ownerReference is
tested there, too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from harness import unused_port
from kubernetes import client

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests" / "cluster" / "tools.sh"
GROUP, VERSION, JOBS = "m3.dev", "v1alpha1", "trainingjobs"
RAY_GROUP, RAY_VERSION, RAYJOBS = "ray.io", "v1", "rayjobs"
OPERATOR_USER = "system:serviceaccount:m3-system:m3-operator"
OPERATOR_UID = "2"
"""By which the audit log tells the operator from the token `reader`: a user of `m3` with its name, and so with its rights."""
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [OPERATOR_USER]}, {"level": "None"}],
}

Object = dict[str, Any]
T = TypeVar("T")


def wait_for(what: Callable[[], T | None], timeout: float, every: float = 0.02) -> T:
    """The first true value of `what`. Fails with its last value after `timeout` seconds."""
    tick, end = threading.Event(), time.monotonic() + timeout
    while not (value := what()):
        assert time.monotonic() < end, f"not within {timeout:g} s; last seen: {value!r}"
        tick.wait(every)
    return value


@pytest.fixture(scope="session", name="wait_for")
def wait_for_fixture() -> Callable[..., Any]:
    return wait_for


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- Kubernetes -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ApiServer:
    """A kube-apiserver that answers, with our CRDs and KubeRay's."""

    port: int
    folder: Path
    bin: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "certificates" / "apiserver.crt"

    def kubeconfig(self, user: str) -> Path:
        path = self.folder / f"{user}.kubeconfig"
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "kubectl"), "--kubeconfig", str(self.kubeconfig("admin")), *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def api(self) -> client.ApiClient:
        configuration = client.Configuration()
        configuration.host = f"https://127.0.0.1:{self.port}"
        configuration.ssl_ca_cert = str(self.certificate)
        configuration.api_key = {"authorization": "Bearer admin"}
        return client.ApiClient(configuration)

    def chart_roles(self, namespace: str) -> list[Object]:
        """Role and RoleBinding that the chart makes in a watched namespace."""
        rendered = subprocess.run(
            [
                str(self.bin / "helm"), "template", "m3", str(ROOT / "charts" / "m3"), "--namespace=m3-system",
                f"--set=watchNamespaces={{{namespace}}}", "--show-only=templates/rbac.yaml", "--kube-version=1.34.3",
            ],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        found = [
            each for each in yaml.safe_load_all(rendered.stdout) if each and each["metadata"]["namespace"] == namespace
        ]
        assert found, rendered.stdout
        return found

    def operators_requests(self) -> Iterator[Object]:
        """What all operators have asked until now."""
        return self.requests_of(OPERATOR_UID)

    def requests_of(self, uid: str) -> Iterator[Object]:
        """What a user has asked until now, as the audit log tells it."""
        for log in self.folder.glob("audit*.log"):
            with log.open() as lines:
                entries = (json.loads(line) for line in lines if line.endswith("\n"))
                yield from (entry for entry in entries if entry["user"]["uid"] == uid)


@pytest.fixture(scope="session")
def tools() -> Path:
    """Folder with kube-apiserver, etcd, kubectl and helm, built where they are not there yet."""
    subprocess.run([str(TOOLS), "kube-apiserver", "etcd", "kubectl", "helm"], check=True, timeout=3000)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "m3"
    return Path(os.environ.get("M3_CACHE", cache)) / "bin"


@pytest.fixture(scope="session")
def kuberay_crds() -> list[Path]:
    where = subprocess.run(
        [str(TOOLS), "--module-dir", "kuberay"], check=True, capture_output=True, text=True, timeout=600
    )
    bases = Path(where.stdout.strip()) / "config" / "crd" / "bases"
    return [bases / "ray.io_rayjobs.yaml", bases / "ray.io_rayclusters.yaml"]


@pytest.fixture(scope="session")
def api_server(tools: Path, kuberay_crds: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("kubernetes")
    etcd_port, peer_port, port = unused_port(), unused_port(), unused_port()
    (folder / "accounts.key").write_bytes(private_key())
    (folder / "tokens.csv").write_text(
        f'admin,admin,1,"system:masters"\n'
        f'operator,{OPERATOR_USER},{OPERATOR_UID},"system:serviceaccounts"\n'
        f'reader,{OPERATOR_USER},3,"system:serviceaccounts"\n'
    )
    (folder / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
    etcd = subprocess.Popen(
        [
            str(tools / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            "--unsafe-no-fsync",
        ],
        stdout=(folder / "etcd.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    server = subprocess.Popen(
        [
            str(tools / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={folder / 'certificates'}",
            "--service-account-issuer=https://m3.test",
            f"--service-account-key-file={folder / 'accounts.key'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            f"--audit-policy-file={folder / 'audit-policy.yaml'}",
            f"--audit-log-path={folder / 'audit.log'}",
        ],
        stdout=(folder / "kube-apiserver.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    running = ApiServer(port, folder, tools)
    try:
        wait_for(lambda: running.kubectl("get", "--raw", "/readyz", check=False).returncode == 0, 60, every=0.2)
        for crds in (ROOT / "manifests" / "crds", *kuberay_crds):
            running.kubectl("apply", "--server-side", "-f", str(crds))
        established = ("wait", "--for=condition=Established", "--timeout=5s", "crd", "--all")
        wait_for(lambda: running.kubectl(*established, check=False).returncode == 0, 30, every=0.1)
        yield running
    finally:
        stop(server)
        stop(etcd)


def private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Namespace:
    """One test's namespace, and the objects in it as dicts."""

    name: str
    server: ApiServer
    objects: client.CustomObjectsApi
    core: client.CoreV1Api

    # TrainingJobs
    def training_job(self, name: str, **spec: Any) -> Object:
        return training_job(name, **spec)

    def create(self, name: str, **spec: Any) -> Object:
        return self.objects.create_namespaced_custom_object(GROUP, VERSION, self.name, JOBS, training_job(name, **spec))

    def job(self, name: str) -> Object | None:
        return self._get(GROUP, VERSION, JOBS, name)

    def patch(self, name: str, **spec: Any) -> Object:
        return self.objects.patch_namespaced_custom_object(GROUP, VERSION, self.name, JOBS, name, {"spec": spec})

    def delete(self, name: str) -> None:
        self.objects.delete_namespaced_custom_object(GROUP, VERSION, self.name, JOBS, name)

    def status(self, name: str) -> Object:
        return (self.job(name) or {}).get("status", {})

    def condition(self, name: str, kind: str) -> Object:
        conditions = self.status(name).get("conditions", ())
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def wait_for_condition(self, name: str, kind: str, status: str = "True", timeout: float = 10) -> Object:
        def reached() -> Object | None:
            condition = self.condition(name, kind)
            return condition if condition.get("status") == status else None

        return wait_for(reached, timeout)

    # RayJobs
    def rayjob(self, name: str) -> Object | None:
        return self._get(RAY_GROUP, RAY_VERSION, RAYJOBS, name)

    def rayjobs(self) -> list[Object]:
        return self.objects.list_namespaced_custom_object(RAY_GROUP, RAY_VERSION, self.name, RAYJOBS)["items"]

    def wait_for_rayjob(self, job: Object, attempt: int = 1, timeout: float = 10) -> Object:
        name = f"{job['metadata']['name']}-{job['metadata']['uid'][:4]}-{attempt}"
        return wait_for(lambda: self.rayjob(name), timeout)

    def events(self, reason: str) -> list[Any]:
        return [event for event in self.core.list_namespaced_event(self.name).items if event.reason == reason]

    def _get(self, group: str, version: str, plural: str, name: str) -> Object | None:
        try:
            return self.objects.get_namespaced_custom_object(group, version, self.name, plural, name)
        except client.ApiException as error:
            if error.status != 404:
                raise
            return None


def training_job(name: str, **spec: Any) -> Object:
    workload = {"data": {"uri": "sample://transactions?rows=1000&seed=7", "target": "TX_FRAUD"}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": workload | spec,
    }


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[Namespace]:
    """A namespace of the test's own, in which the operator has the rights that the chart gives it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    api_server.kubectl("create", "namespace", name)
    api_server.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(api_server.chart_roles(name)))
    with api_server.api() as api:
        yield Namespace(name, api_server, client.CustomObjectsApi(api), client.CoreV1Api(api))


# --- KubeRay ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FakeKubeRay:
    """Writes a RayJob's status in the order, and with the fields, of KubeRay 1.6."""

    namespace: Namespace

    def initializing(self, rayjob: Object) -> None:
        name = rayjob["metadata"]["name"]
        self._write(
            rayjob,
            jobDeploymentStatus="Initializing",
            jobId=f"{name}-x7k2p",
            rayClusterName=f"{name}-8wq4z",
            startTime=now(),
        )

    def cluster_ready(self, rayjob: Object) -> None:
        self._write(rayjob, jobDeploymentStatus="Running", jobStatus="PENDING")

    def running(self, rayjob: Object) -> None:
        self._write(rayjob, jobDeploymentStatus="Running", jobStatus="RUNNING", rayJobInfo={"startTime": now()})

    def start(self, rayjob: Object) -> None:
        self.initializing(rayjob)
        self.cluster_ready(rayjob)
        self.running(rayjob)

    def succeeded(self, rayjob: Object) -> None:
        self._write(
            rayjob,
            jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", endTime=now(), succeeded=1,
            message="Job finished successfully.", rayJobInfo={"startTime": now(), "endTime": now()},
        )  # fmt: skip

    def failed(self, rayjob: Object, output: str) -> None:
        told = f"Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\n{output}"
        self._write(
            rayjob, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", endTime=now(), message=told
        )

    def head_is(self, rayjob: Object, pod: str) -> None:
        self._write(rayjob, rayClusterStatus={"head": {"podName": pod}, "observedGeneration": 1})

    def over_quota(self, rayjob: Object) -> None:
        told = 'pods "head" is forbidden: exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0'
        condition = {
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod",
            "message": f"FailedCreateHeadPod\n{told}", "lastTransitionTime": now(),
        }  # fmt: skip
        self._write(rayjob, rayClusterStatus={"conditions": [condition], "observedGeneration": 1})

    def suspended(self, rayjob: Object) -> None:
        self._write(rayjob, jobDeploymentStatus="Suspended", jobStatus="")

    def _write(self, rayjob: Object, **status: Any) -> None:
        self.namespace.objects.patch_namespaced_custom_object_status(
            RAY_GROUP, RAY_VERSION, self.namespace.name, RAYJOBS, rayjob["metadata"]["name"], {"status": status}
        )


@pytest.fixture
def kuberay(namespace: Namespace) -> FakeKubeRay:
    return FakeKubeRay(namespace)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- MLflow -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Mlflow:
    """A running `mlflow server`, and what a job writes into it."""

    uri: str
    process: subprocess.Popen[bytes]

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, as a server that swaps, or waits for its disk."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def train(
        self,
        job: Object,
        attempt: int = 1,
        version: str | None = "3",
        percentage: int | None = None,
        more_tags: dict[str, str] | None = None,
        **metrics: float,
    ) -> str:
        """Write the run of a job's attempt, which goes on until `finish`; its id."""
        experiment = job["spec"]["tracking"]["experimentName"]
        run = self._post("runs/create", experiment_id=self._experiment(experiment), start_time=int(time.time() * 1000))
        run_id = run["run"]["info"]["run_id"]
        meta = job["metadata"]
        tags = {
            "m3.job.uid": meta["uid"], "m3.job.attempt": str(attempt), "m3.job.name": meta["name"],
            "m3.job.namespace": meta["namespace"], "m3.operator": "m3-system/m3", "m3.data.digest": "sha256:" + "0" * 64,
            "m3.data.rows": "1000", "m3.spec.hash": "sha256:" + "1" * 64,
        } | (more_tags or {})  # fmt: skip
        if percentage is not None:
            tags["m3.progress.percentage"] = str(percentage)
        if version:
            tags |= {"m3.model.name": job["spec"]["registry"]["modelName"], "m3.model.version": version}
        self._post(
            "runs/log-batch",
            run_id=run_id,
            tags=[{"key": key, "value": value} for key, value in tags.items()],
            metrics=[
                {"key": key, "value": value, "timestamp": int(time.time() * 1000), "step": 0}
                for key, value in metrics.items()
            ],
        )
        return run_id

    def progress(self, run_id: str, percentage: int) -> None:
        self._post("runs/set-tag", run_id=run_id, key="m3.progress.percentage", value=str(percentage))

    def finish(self, run_id: str) -> None:
        self._post("runs/update", run_id=run_id, status="FINISHED", end_time=int(time.time() * 1000))

    def run_status(self, run_id: str) -> str:
        return self._ask(f"runs/get?run_id={run_id}")["run"]["info"]["status"]

    # the registry
    def new_version(self, name: str, **tags: str) -> str:
        """Register a version of a model, which is made with these tags where it is not there."""
        if self.model(name) is None:
            self._post(
                "registered-models/create", name=name, tags=[{"key": f"m3.{k}", "value": v} for k, v in tags.items()]
            )
        made = self._post("model-versions/create", name=name, source="s3://nowhere/model")
        return str(made["model_version"]["version"])

    def model(self, name: str) -> Object | None:
        try:
            return self._ask(f"registered-models/get?{urllib.parse.urlencode({'name': name})}")["registered_model"]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def aliases(self, name: str) -> dict[str, str]:
        return {each["alias"]: each["version"] for each in (self.model(name) or {}).get("aliases", ())}

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._post("registered-models/alias", name=name, alias=alias, version=version)

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        query = urllib.parse.urlencode({"name": name, "version": version})
        found = self._ask(f"model-versions/get?{query}")["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", ())}

    def _experiment(self, name: str) -> str:
        query = urllib.parse.urlencode({"experiment_name": name})
        try:
            return self._ask(f"experiments/get-by-name?{query}")["experiment"]["experiment_id"]
        except urllib.error.HTTPError:
            return self._post("experiments/create", name=name)["experiment_id"]

    def _post(self, path: str, **body: Any) -> Object:
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, data: bytes | None = None) -> Object:
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}", data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    folder, port = tmp_path_factory.mktemp("mlflow"), unused_port()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1",
            f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}", f"--artifacts-destination={folder / 'artifacts'}",
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=(folder / "mlflow.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{uri}/health"), 120, every=0.2)
        yield Mlflow(uri, process)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


# --- the operator -----------------------------------------------------------------------------------------------------
@dataclass
class Operator:
    """`python -m m3_operator` for one namespace, with the rights of the chart's Role."""

    namespace: Namespace
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    program: tuple[str, ...] = ("-m", "m3_operator")

    @property
    def log(self) -> Path:
        return self.folder / "operator.log"

    def start(self) -> Operator:
        port = unused_port()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program],
                env=self.environment | {"M3_PROBE_PORT": str(port)},
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.probes = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{self.probes}/healthz") or (self.process and self.process.poll() is not None), 30)
        return self

    def wait_for_first_look(self) -> Operator:
        """Until it has listed what there is: its start is over, and only events are waited for."""
        wait_for(lambda: self.metric("m3_kubernetes_requests_total") >= 4, 20)
        return self

    def kill(self) -> None:
        """As the kernel does it: no word of farewell."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        stop(self.process)
        return self.process.returncode

    def metric(self, name: str) -> float:
        """Sum of a counter's or gauge's samples."""
        if not answers(f"{self.probes}/healthz"):
            return float("nan")
        with urllib.request.urlopen(f"{self.probes}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@pytest.fixture
def make_operator(namespace: Namespace, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    """Makes an operator that is not running yet. None may leave a traceback or an ERROR behind."""
    made: list[Operator] = []

    def make(**settings: str) -> Operator:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("M3_", "KUBE"))}
        environment |= {
            "KUBECONFIG": str(namespace.server.kubeconfig("operator")),
            "M3_WATCH_NAMESPACES": namespace.name,
            "M3_NAMESPACE": "m3-system",
            "M3_OPERATOR_ID": "m3-system/m3",
            "M3_MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nobody listens there
        }
        operator = Operator(namespace, tmp_path, environment | settings)
        made.append(operator)
        return operator

    yield make
    for operator in made:
        if operator.process is not None and operator.process.poll() is None:
            operator.stop()
        lines = operator.log.read_text().splitlines() if operator.log.exists() else []
        bad = [line for line in lines if " ERROR " in line or line.startswith("Traceback")]
        assert not bad, "\n".join(lines)


@pytest.fixture
def operator(make_operator: Callable[..., Operator], mlflow: Mlflow) -> Operator:
    """An operator at work, with MLflow."""
    return make_operator(M3_MLFLOW_TRACKING_URI=mlflow.uri, M3_MLFLOW_UI_URL="https://mlflow.example").start()
