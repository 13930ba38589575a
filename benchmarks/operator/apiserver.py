"""A real etcd and kube-apiserver, as the integration tests start them, with an audit log that tells who asked what.

No kubelet and no controller runs: what happens in it is the load's and the measured operator's doing alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from harness import ROOT, unused_port

TOOLS = ROOT / "tests/cluster/tools.sh"
HELPERS = ("kube-apiserver", "etcd", "kubectl", "helm", "trainer-controller-manager")
KUBERNETES_VERSION = "1.34.3"
USERS = {
    "m3": "system:serviceaccount:m3-system:m3-operator",
    "trainer": "system:serviceaccount:kubeflow-system:kubeflow-trainer-controller-manager",
    "naive": "system:serviceaccount:m3-system:naive-operator",
}
"""Token and user of each measured operator. None is a cluster administrator, whom the API server lets pass unasked."""

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": list(USERS.values())}, {"level": "None"}],
}

Object = dict[str, Any]


def wait_for(what: Callable[[], Any], timeout: float, reason: str = "", every: float = 0.05) -> Any:
    """The first true value of `what`; TimeoutError after `timeout` seconds."""
    pause, end = threading.Event(), time.monotonic() + timeout
    while not (value := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout:g} s: {reason}")
        pause.wait(every)
    return value


def build_tools() -> Path:
    """Folder with the binaries, built where they are not there yet."""
    subprocess.run([str(TOOLS), *HELPERS], check=True)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "m3"
    return Path(os.environ.get("M3_CACHE", cache)) / "bin"


def module(name: str) -> Path:
    """Where the source of a pinned Go module lies: its CRDs are installed from there."""
    told = subprocess.run([str(TOOLS), "--module-dir", name], check=True, capture_output=True, text=True)
    return Path(told.stdout.strip())


def module_version(name: str) -> str:
    told = subprocess.run([str(TOOLS), "--version", name], check=True, capture_output=True, text=True)
    return told.stdout.strip()


@dataclass(frozen=True)
class Request:
    """A line of the audit log."""

    user: str
    verb: str
    group: str
    resource: str
    code: int
    uri: str

    @property
    def writes(self) -> bool:
        return self.verb in ("create", "update", "patch", "delete", "deletecollection")

    @property
    def is_watch(self) -> bool:
        return self.verb == "watch"

    @property
    def is_event(self) -> bool:
        return self.resource == "events"

    @property
    def kind(self) -> str:
        return f"{self.verb} {self.resource or self.uri.split('?')[0]}"


@dataclass
class ApiServer:
    folder: Path
    bin: Path
    port: int
    pids: list[int]
    """Of etcd and the kube-apiserver."""
    _read: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "certificates/apiserver.crt"))

    def kubeconfig(self, user: str) -> Path:
        path = self.folder / f"{user}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.folder / "certificates/apiserver.crt")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "benchmark", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "benchmark", "context": {"cluster": "benchmark", "user": user}}],
            "current-context": "benchmark",
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        command = [str(self.bin / "kubectl"), "--kubeconfig", str(self.kubeconfig("admin")), *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout if done.returncode == 0 else ""

    def apply(self, *documents: Object) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=yaml.safe_dump_all(documents))

    def skip_audit(self) -> None:
        """Forget the requests until now."""
        self._read = (self.folder / "audit.log").stat().st_size

    def audited(self, user: str) -> list[Request]:
        """Requests of `user` since the last skip_audit()."""
        with (self.folder / "audit.log").open("rb") as log:
            log.seek(self._read)
            complete = log.read().rpartition(b"\n")[0]
        requests = (_request(json.loads(line)) for line in complete.splitlines())
        return [request for request in requests if request is not None and request.user == USERS[user]]


def _request(line: Object) -> Request | None:
    # a watch is told of at its start and again at its end, everything else once
    if line["verb"] == "watch" and line["stage"] != "ResponseStarted":
        return None
    target = line.get("objectRef", {})
    resource = "/".join(filter(None, (target.get("resource", ""), target.get("subresource", ""))))
    code = line.get("responseStatus", {}).get("code", 0)
    return Request(
        line["user"]["username"], line["verb"], target.get("apiGroup", ""), resource, code, line["requestURI"]
    )


def quiet(server: ApiServer, seconds: float = 2.0) -> None:
    """Until the measured operator has asked for nothing for some seconds; only one runs at a time."""
    seen, since = -1, time.monotonic()

    def calm() -> bool:
        nonlocal seen, since
        size = (server.folder / "audit.log").stat().st_size
        if size != seen:
            seen, since = size, time.monotonic()
        return time.monotonic() - since >= seconds

    wait_for(calm, 120, "the operator has come to rest")


def count(requests: list[Request]) -> dict[str, int]:
    """Requests by verb and resource, most frequent first."""
    return dict(Counter(request.kind for request in requests).most_common())


@contextlib.contextmanager
def running(bin_folder: Path) -> Iterator[ApiServer]:
    """An API server with the CRDs of M3, KubeRay, Trainer and JobSet, on an empty etcd."""
    with tempfile.TemporaryDirectory(prefix="m3-bench-") as name, contextlib.ExitStack() as stack:
        server = ApiServer(Path(name), bin_folder, unused_port(), [])
        _write_files(server.folder)
        etcd_port = unused_port()
        for command in (_etcd(server, etcd_port), _kube_apiserver(server, etcd_port)):
            log = server.folder / f"{Path(command[0]).name}.log"
            server.pids.append(stack.enter_context(_process(command, log)))
        wait_for(lambda: server.kubectl("get", "--raw", "/readyz", check=False), 60, "kube-apiserver is ready")
        _install_crds(server)
        yield server


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _etcd(server: ApiServer, port: int) -> list[str]:
    return [
        str(server.bin / "etcd"),
        f"--data-dir={server.folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{port}",
        f"--advertise-client-urls=http://127.0.0.1:{port}",
        f"--listen-peer-urls=http://127.0.0.1:{unused_port()}",
        "--unsafe-no-fsync",  # else the machine's disk is what is measured
    ]


def _kube_apiserver(server: ApiServer, etcd_port: int) -> list[str]:
    folder = server.folder
    return [
        str(server.bin / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={server.port}",
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
    ]


def _write_files(folder: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "accounts.key").write_bytes(key)
    tokens = ['admin,admin,0,"system:masters"'] + [f"{token},{user},{token}" for token, user in USERS.items()]
    (folder / "tokens.csv").write_text("\n".join(tokens) + "\n")
    (folder / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
    (folder / "audit.log").touch()


def _install_crds(server: ApiServer) -> None:
    kuberay = module("kuberay") / "config/crd/bases"
    for place in (
        ROOT / "manifests/crds",
        kuberay / "ray.io_rayjobs.yaml",
        kuberay / "ray.io_rayclusters.yaml",
        *sorted((module("trainer") / "manifests/base/crds").glob("trainer.*.yaml")),
        module("jobset") / "config/components/crd/bases",
    ):
        server.kubectl("apply", "--server-side", "-f", str(place))
    established = ("wait", "--for=condition=Established", "--timeout=5s", "crd", "--all")
    wait_for(lambda: server.kubectl(*established, check=False), 30, "CRDs are established")
