"""The operators that are measured: ours, Kubeflow Trainer, and a kopf operator with a synchronous client."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from apiserver import KUBERNETES_VERSION, USERS, ApiServer, module
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness import ROOT, SAMPLE, unused_port
from load import JOBSETS, RAYJOBS, TRAININGJOBS, TRAINJOBS, Resource
from process import Program

HERE = Path(__file__).parent
TRAINER_RUNTIME = "manifests/base/runtimes/torch_distributed.yaml"
UNLIMITED = 1_000_000
MANY_WORKERS = 32
"""Four times as many as our operator has; what it makes of it, its metrics say, and the result repeats."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """What is created, what becomes of it, and the operator that does it."""

    name: str
    user: str
    parents: Resource
    children: Resource
    body: Callable[[str], Object]
    run: Callable[[ApiServer, str], AbstractContextManager[Program]]
    """Run the operator for a namespace, from its being ready."""


# --- ours -------------------------------------------------------------------------------------------------------------
@functools.cache
def _sample() -> Object:
    return yaml.safe_load(SAMPLE.read_text())


def training_job(name: str, **spec: Any) -> Object:
    """The sample that the README starts with."""
    document = _sample()
    return document | {"metadata": {"name": name}, "spec": document["spec"] | spec}


def grant_chart_rights(server: ApiServer, namespace: str) -> None:
    rendered = subprocess.run(
        [
            str(server.bin / "helm"), "template", "m3", str(ROOT / "charts/m3"), "--namespace=m3-system",
            f"--set=watchNamespaces={{{namespace}}}", "--show-only=templates/rbac.yaml",
            f"--kube-version={KUBERNETES_VERSION}",
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    server.apply(*(role for role in yaml.safe_load_all(rendered.stdout) if role["metadata"]["namespace"] == namespace))


def m3_program(server: ApiServer, namespace: str, mlflow_uri: str) -> tuple[Program, str]:
    """`python -m m3_operator` with what the chart sets, and the URL of its probe; not yet ready."""
    port = unused_port()
    environment = clean_environment() | {
        "KUBECONFIG": str(server.kubeconfig("m3")),
        "M3_WATCH_NAMESPACES": namespace,
        "M3_NAMESPACE": "m3-system",
        "M3_OPERATOR_ID": "m3-system/m3",
        "M3_MLFLOW_TRACKING_URI": mlflow_uri,
        "M3_PROBE_PORT": str(port),
    }
    program = Program([sys.executable, "-m", "m3_operator"], environment, server.folder, f"m3-{namespace}")
    return program, f"http://127.0.0.1:{port}/healthz"


def m3(mlflow_uri: str) -> Contestant:
    @contextlib.contextmanager
    def run(server: ApiServer, namespace: str) -> Iterator[Program]:
        grant_chart_rights(server, namespace)
        program, probe = m3_program(server, namespace, mlflow_uri)
        with stopping(program):
            program.wait_until(probe)
            yield program

    return Contestant("m3", "m3", TRAININGJOBS, RAYJOBS, training_job, run)


# --- Kubeflow Trainer -------------------------------------------------------------------------------------------------
def train_job(name: str) -> Object:
    """As much as the sample asks for: one more node, a command, resources."""
    trainer = {
        "numNodes": 2,
        "image": "m3-trainer:dev",
        "command": ["python", "-m", "m3_trainer", "job"],
        "resourcesPerNode": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": trainer},
    }


def shipped_configuration() -> Object:
    """The configuration in Trainer's own manifests: qps 50, burst 100, five TrainJobs at a time."""
    return yaml.safe_load((module("trainer") / "manifests/base/manager/controller_manager_config.yaml").read_text())


def trainer(name: str, equal_limits: bool) -> Contestant:
    @contextlib.contextmanager
    def run(server: ApiServer, namespace: str) -> Iterator[Program]:
        del namespace  # it watches the whole cluster, and cannot do otherwise
        _install_trainer(server)
        probe, metrics = unused_port(), unused_port()
        folder = server.folder / name
        folder.mkdir(exist_ok=True)
        configuration = _configuration(probe, metrics, equal_limits)
        (folder / "configuration.yaml").write_text(yaml.safe_dump(configuration))
        _write_certificate(folder / "k8s-webhook-server/serving-certs")
        # it looks for its certificate below the folder for temporary files
        environment = clean_environment() | {"KUBECONFIG": str(server.kubeconfig("trainer")), "TMPDIR": str(folder)}
        command = [str(server.bin / "trainer-controller-manager"), f"--config={folder / 'configuration.yaml'}"]
        program = Program(command, environment, folder, "trainer")
        with stopping(program):
            program.wait_until(f"http://127.0.0.1:{probe}/readyz")
            program.metrics = f"http://127.0.0.1:{metrics}/metrics"
            yield program

    return Contestant(name, "trainer", TRAINJOBS, JOBSETS, train_job, run)


def _configuration(probe: int, metrics: int, equal_limits: bool) -> Object:
    configuration = shipped_configuration()
    configuration["health"]["healthProbeBindAddress"] = f"127.0.0.1:{probe}"
    configuration["metrics"] = {"bindAddress": f"127.0.0.1:{metrics}", "secureServing": False}
    configuration["webhook"]["port"] = unused_port()
    configuration["leaderElection"]["leaderElect"] = False  # one process, and no requests for a lease
    configuration["certManagement"]["enable"] = False
    if equal_limits:
        configuration["clientConnection"] = {"qps": UNLIMITED, "burst": UNLIMITED}
        configuration["controller"]["groupKindConcurrency"]["TrainJob.trainer.kubeflow.org"] = MANY_WORKERS
    return configuration


def workers_in_effect(program: Program) -> int:
    """How many TrainJobs Trainer works on at a time, as its metrics say it."""
    with urllib.request.urlopen(program.metrics, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    wanted = 'controller_runtime_max_concurrent_reconciles{controller="trainjob_controller"}'
    return int(float(next(line for line in lines if line.startswith(wanted)).split()[-1]))


def _install_trainer(server: ApiServer) -> None:
    """Its rights, for its user of the token file, and the runtime that TrainJobs name. Its webhooks are left out."""
    roles = yaml.safe_load_all((module("trainer") / "manifests/base/rbac/role.yaml").read_text())
    role = next(document for document in roles if document and document["kind"] == "ClusterRole")
    server.apply(role, binding(role["metadata"]["name"], USERS["trainer"]))
    server.kubectl("apply", "--server-side", "-f", str(module("trainer") / TRAINER_RUNTIME))


def _write_certificate(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = serialization.Encoding.PEM
    (folder / "tls.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    (folder / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


# --- kopf, as in its tutorial -----------------------------------------------------------------------------------------
NAIVE_RULES = [
    {"apiGroups": ["m3.dev"], "resources": ["trainingjobs", "trainingjobs/status"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "list", "watch", "create"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
]  # fmt: skip


def naive() -> Contestant:
    @contextlib.contextmanager
    def run(server: ApiServer, namespace: str) -> Iterator[Program]:
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "naive"}}
        server.apply(role | {"rules": NAIVE_RULES}, binding("naive", USERS["naive"]))
        port = unused_port()
        liveness = f"http://127.0.0.1:{port}/healthz"
        command = [
            sys.executable, "-m", "kopf", "run", str(HERE / "naive_operator.py"), "--standalone",
            f"--namespace={namespace}", f"--liveness={liveness}",
        ]  # fmt: skip
        environment = clean_environment() | {"KUBECONFIG": str(server.kubeconfig("naive"))}
        program = Program(command, environment, server.folder, f"naive-{namespace}")
        with stopping(program):
            program.wait_until(liveness)
            yield program

    return Contestant("kopf_synchronous", "naive", TRAININGJOBS, RAYJOBS, training_job, run)


# --- all --------------------------------------------------------------------------------------------------------------
def binding(role: str, user: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{role}-benchmark"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def clean_environment() -> dict[str, str]:
    """Ours without what would point an operator elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("M3_", "KUBE"))}


def encode(body: Object) -> bytes:
    return json.dumps(body).encode()


def encoded(contestant: Contestant, names: list[str]) -> list[bytes]:
    return [encode(contestant.body(name)) for name in names]


@contextlib.contextmanager
def stopping(program: Program) -> Iterator[None]:
    try:
        yield
    finally:
        program.stop()
