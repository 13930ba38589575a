"""`m3 doctor`: what a job needs, each thing looked at by itself. A check is a gatherer, which asks, and a pure judge."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from m3_trainer import kube
from m3_trainer.cli import show_cluster
from m3_trainer.cli.options import (
    MLFLOW_SERVICE,
    SYSTEM_NAMESPACE,
    ContextOption,
    MlflowServiceOption,
    NamespaceOption,
    Output,
    OutputOption,
    SystemNamespaceOption,
)
from m3_trainer.errors import M3Error
from m3_trainer.kube import INSTALL, Object

OK, WARNING, FAULT = "ok", "warning", "fault"
KUBERNETES, KUBERAY = (1, 31), (1, 6)
"""Oldest versions: selectable fields of a CRD are on by default from Kubernetes 1.31; the operator is tested with KubeRay 1.6."""
LITTLE_DISK, NO_DISK = 5e9, 0.5e9
"""Bytes. A run's model and its temporary copies take some hundred megabytes; the images of a local cluster take gigabytes."""
MANY_RESTARTS = 3
DASHBOARD_SECONDS = 3.0
CRD = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kube.PLURAL}.{kube.GROUP}"
UPGRADE = "helm upgrade m3 charts/m3 --namespace m3-system"


class Unhealthy(M3Error):
    """At least one check has found a fault."""

    exit_code = 15


@dataclass(frozen=True)
class Finding:
    """What a check has come to."""

    verdict: str
    seen: str
    cure: str = ""


@dataclass
class World:
    """What the checks look at; what one has found out, and a later one needs, is kept."""

    home: Path
    release: str
    system_namespace: str
    mlflow_service: str
    cluster: kube.Kube | None = None
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def kube(self) -> kube.Kube:
        assert self.cluster is not None, "the checks of a cluster run with one"
        return self.cluster


@dataclass(frozen=True)
class Check:
    """`look` asks, and may raise an `M3Error`; `judge` decides, from what it has got and nothing else."""

    name: str
    look: Callable[[World], Any]
    judge: Callable[[Any], Finding]

    def __call__(self, world: World) -> Finding:
        try:
            return self.judge(self.look(world))
        except kube.ClusterRefused as error:
            return Finding(WARNING, f"could not be looked at: {error}")
        except M3Error as error:
            return Finding(FAULT, str(error))


# --- this machine -----------------------------------------------------------------------------------------------------
TRAINING = ("sklearn", "mlflow", "ray", "pandas", "skops")


def look_at_packages(_: World) -> list[str]:
    return [name for name in (*TRAINING, "kubernetes") if find_spec(name) is None]


def judge_packages(missing: list[str]) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if not missing:
        return Finding(OK, f"Python {version}, with what training and clusters need")
    extra = "cluster" if missing == ["kubernetes"] else "trainer,cluster"
    return Finding(WARNING, f"Python {version} without {', '.join(missing)}", f"pip install 'm3-ml[{extra}]'")


def look_at_disk(world: World) -> dict[str, int]:
    """Free bytes where runs are kept and where they are written on the way."""
    home = next(folder for folder in (world.home.resolve(), *world.home.resolve().parents) if folder.exists())
    return {str(place): shutil.disk_usage(place).free for place in (home, Path(tempfile.gettempdir()))}


def judge_disk(free: dict[str, int]) -> Finding:
    place, least = min(free.items(), key=lambda pair: pair[1])
    seen = f"{least / 1e9:.1f} GB free at {place}"
    if least >= LITTLE_DISK:
        return Finding(OK, seen)
    return Finding(FAULT if least < NO_DISK else WARNING, seen, "free some space, or set M3_HOME and TMPDIR elsewhere")


def look_at_tracking(world: World) -> tuple[str | None, Path]:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and uri.startswith(("http://", "https://")):
        from m3_trainer.cli import cluster_mlflow

        cluster_mlflow.at(uri).ask("/api/2.0/mlflow/experiments/search", None, {"max_results": 1})
    return uri, world.home


def judge_tracking(found: tuple[str | None, Path]) -> Finding:
    uri, home = found
    return Finding(OK, f"MLflow at {uri} answers" if uri else f"no MLFLOW_TRACKING_URI: runs of `m3 run` go to {home}")


RAY_DASHBOARD_PORT = "8265"
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - where a dashboard listens, which is none of the addresses to call it by


def look_at_ray_dashboard(_: World) -> tuple[str | None, str]:
    """Address of the dashboard that the environment names, and what it says of itself: nothing where it does not answer."""
    if not (host := os.environ.get("RAY_DASHBOARD_HOST")):
        return None, ""
    host = "127.0.0.1" if host in ANYWHERE else host
    address = f"http://{host}:{os.environ.get('RAY_DASHBOARD_PORT') or RAY_DASHBOARD_PORT}"
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=DASHBOARD_SECONDS) as answer:
            return address, json.loads(answer.read())["ray_version"]
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return address, ""


def judge_ray_dashboard(found: tuple[str | None, str]) -> Finding:
    address, version = found
    if address is None:
        return Finding(OK, "no RAY_DASHBOARD_HOST: no dashboard of Ray was looked for")
    if version:
        return Finding(OK, f"Ray {version} shows its work at {address}")
    return Finding(
        WARNING,
        f"no dashboard of Ray answers at {address}",
        "start Ray there, or mend RAY_DASHBOARD_HOST and RAY_DASHBOARD_PORT; without it m3 works as well",
    )


# --- the cluster ------------------------------------------------------------------------------------------------------
def look_at_api_server(world: World) -> tuple[str, str]:
    return world.kube.get("/version")["gitVersion"], world.kube.server


def judge_api_server(found: tuple[str, str]) -> Finding:
    version, server = found
    seen = f"Kubernetes {version} at {server}"
    if version_of(version) >= KUBERNETES:
        return Finding(OK, seen)
    return Finding(FAULT, seen, f"Kubernetes must be {'.'.join(map(str, KUBERNETES))} or newer")


def version_of(text: str) -> tuple[int, int]:
    """Major and minor number in a version or an image's tag; (0, 0) where there is none."""
    found = re.search(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def look_at_crds(world: World) -> Object | None:
    """The installed CRD; None where it is there and may not be read."""
    world.kube.get(f"{kube.API}")
    try:
        world.seen["crd"] = world.kube.get(CRD)
    except kube.ClusterRefused:
        return None
    return world.seen["crd"]


def judge_crds(crd: Object | None) -> Finding:
    if crd is None:
        return Finding(OK, f"{kube.KIND} is known; you may not read its schema, so that was not compared")
    conditions = {each["type"]: each["status"] for each in crd.get("status", {}).get("conditions", ())}
    if conditions.get("Established") != "True":
        return Finding(FAULT, f"the CRD of {kube.KIND} is not established", UPGRADE)
    installed = schema_of(crd)
    if installed is None:
        return Finding(FAULT, f"the CRD does not serve {kube.VERSION}", UPGRADE)
    return _judge_schema(*differences(installed))


def _judge_schema(missing: list[str], more: list[str]) -> Finding:
    if fields := _fields(missing):
        return Finding(FAULT, f"the CRD is older than this m3: it lacks {_some(fields)}", UPGRADE)
    if fields := _fields(more):
        return Finding(WARNING, f"the CRD is newer than this m3: it has {_some(fields)}", "pip install --upgrade m3-ml")
    if missing or more:
        seen = f"the CRD has the fields of this m3 and other rules, at {_some(missing or more)}"
        return Finding(WARNING, seen, f"install both from one version: {UPGRADE}")
    return Finding(OK, f"{kube.KIND} {kube.VERSION}, with every field and rule of this m3")


def _fields(paths: list[str]) -> list[str]:
    return [path for path in paths if ":" not in path]


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def schema_of(crd: Object) -> Object | None:
    """The schema of `spec` in the version that we speak."""
    versions = {each["name"]: each for each in crd["spec"]["versions"] if each.get("served")}
    if kube.VERSION not in versions:
        return None
    return versions[kube.VERSION]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def differences(installed: Object) -> tuple[list[str], list[str]]:
    """What this m3 knows and the installed schema of `spec` has not, and the other way round: fields, and the workload's rules.

    Below the fields that say where a job runs only the operator's models know what there is.
    """
    from m3_trainer import config  # `m3 --help` imports this module, and need not wait for pydantic

    ours = config.Workload.model_json_schema(by_alias=True)
    known = set(_leaves(ours, ours.get("$defs", {}))) | config.EXECUTION_FIELDS
    there = set(_leaves(installed, {}))
    of_workload = {path for path in there if re.split(r"[.:[]", path)[0] in config.WORKLOAD_FIELDS}
    top = {path for path in there if re.fullmatch(r"\w+", path)}
    return sorted(known - there), sorted((of_workload | top) - known)


def _leaves(schema: Object, definitions: Object, path: str = "") -> Iterator[str]:
    """Path of each field, and of each rule as `path: rule …`."""
    schema = _resolved(schema, definitions)
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"{path or 'spec'}: {rule['message']}"
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here
        yield from _leaves(child, definitions, here)
    if isinstance(schema.get("items"), dict):
        yield from _leaves(schema["items"], definitions, f"{path}[]")


def _resolved(schema: Object, definitions: Object) -> Object:
    """Behind `$ref`, and behind `X | None`."""
    if "$ref" in schema:
        return _resolved(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    choices = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return _resolved(choices[0], definitions) if len(choices) == 1 else schema


@dataclass(frozen=True)
class Deployed:
    """A Deployment and its pods' restarts."""

    name: str
    namespace: str
    image: str
    available: int
    restarts: int
    last_end: str
    environment: dict[str, str]


def _deployed(world: World, path: str, selector: str) -> Deployed | None:
    found = world.kube.get(path, labelSelector=selector)["items"]
    if not found:
        return None
    meta, spec = found[0]["metadata"], found[0]["spec"]
    labels = ",".join(f"{key}={value}" for key, value in spec["selector"]["matchLabels"].items())
    try:
        pods = world.kube.pods(meta["namespace"], labels)
    except kube.ClusterRefused:
        pods = []
    containers = [each for pod in pods for each in pod.get("status", {}).get("containerStatuses") or ()]
    ends = [(each.get("lastState") or {}).get("terminated") or {} for each in containers]
    container = spec["template"]["spec"]["containers"][0]
    return Deployed(
        meta["name"],
        meta["namespace"],
        container["image"],
        found[0].get("status", {}).get("availableReplicas", 0),
        sum(each["restartCount"] for each in containers),
        next((f"{end['reason']} at {end.get('finishedAt')}" for end in ends if end.get("reason")), ""),
        {each["name"]: each.get("value", "") for each in container.get("env", ())},
    )


def look_at_operator(world: World) -> tuple[Deployed | None, str]:
    path = f"/apis/apps/v1/namespaces/{world.system_namespace}/deployments"
    selector = f"app.kubernetes.io/instance={world.release},app.kubernetes.io/component=operator"
    world.seen["operator"] = _deployed(world, path, selector)
    return world.seen["operator"], f"release {world.release} in namespace {world.system_namespace}"


def judge_operator(found: tuple[Deployed | None, str]) -> Finding:
    operator, where = found
    if operator is None:
        return Finding(
            FAULT, f"there is no operator ({where})", f"{INSTALL}; or name it: --release, --system-namespace"
        )
    return _judge_deployed(operator, operator.image)


def _judge_deployed(found: Deployed, seen: str) -> Finding:
    where = f"-n {found.namespace} deployment/{found.name}"
    restarts = f", restarted {found.restarts} times" if found.restarts else ""
    restarts += f", last {found.last_end}" if found.last_end else ""
    if found.available < 1:
        return Finding(FAULT, f"{found.name} ({seen}) is not available{restarts}", f"kubectl describe {where}")
    if found.restarts >= MANY_RESTARTS:
        return Finding(WARNING, f"{found.name} ({seen}) runs{restarts}", f"kubectl logs --previous {where}")
    return Finding(OK, f"{found.name} ({seen}) runs{restarts}")


def look_at_namespace(world: World) -> tuple[str, bool, str | None]:
    operator: Deployed | None = world.seen.get("operator")
    watched = operator.environment.get("M3_WATCH_NAMESPACES") if operator else None
    name = world.kube.namespace
    return name, world.kube.has_namespace(name), watched


def judge_namespace(found: tuple[str, bool, str | None]) -> Finding:
    name, is_there, watched = found
    if not is_there:
        return Finding(
            FAULT, f"there is no namespace {name}", f"kubectl create namespace {name}, or name another with -n"
        )
    if watched is None:
        return Finding(WARNING, f"{name}; which namespaces the operator watches could not be seen")
    if watched == "*" or name in watched.split(","):
        return Finding(OK, f"{name}; the operator watches {'every namespace' if watched == '*' else watched}")
    return Finding(
        FAULT,
        f"the operator does not watch {name}, only {watched}: a job here stays Pending",
        f"{UPGRADE} --set 'watchNamespaces={{{watched},{name}}}', or name a watched one with -n",
    )


def look_at_kuberay(world: World) -> Deployed | None:
    world.kube.get("/apis/ray.io/v1")
    return _deployed(world, "/apis/apps/v1/deployments", "app.kubernetes.io/component=kuberay-operator")


def judge_kuberay(found: Deployed | None) -> Finding:
    wanted = ".".join(map(str, KUBERAY))
    if found is None:
        return Finding(
            WARNING,
            "RayJob is known, and no Deployment labelled component=kuberay-operator is there",
            f"KubeRay ≥ {wanted}",
        )
    tag = found.image.rpartition(":")[2]
    running = _judge_deployed(found, found.image)
    if running.verdict == FAULT or version_of(tag) >= KUBERAY:
        return running
    if version_of(tag) == (0, 0):
        return Finding(WARNING, f"{running.seen}; its image does not tell the version", f"it must be {wanted} or newer")
    return Finding(FAULT, running.seen, f"KubeRay must be {wanted} or newer: helm upgrade kuberay-operator")


@dataclass(frozen=True)
class MlflowAnswer:
    """How the cluster's MLflow answers to the name that jobs call it by."""

    uri: str
    error: M3Error | None = None
    is_outside: bool = False


def look_at_mlflow(world: World) -> MlflowAnswer:
    """Through the API server, with the Host header of a job in the cluster: MLflow answers 403 to names that it does not know."""
    operator: Deployed | None = world.seen.get("operator")
    service, _, port = world.mlflow_service.partition(":")
    uri = f"http://{service}.{world.system_namespace}.svc.cluster.local:{port or 5000}"
    uri = operator.environment.get("M3_MLFLOW_TRACKING_URI", uri) if operator else uri
    parts = urlsplit(uri)
    names = (parts.hostname or "").split(".")
    if len(names) < 3 or names[2] != "svc":
        return MlflowAnswer(uri, is_outside=True)
    try:
        target = f"{names[0]}:{parts.port or 80}"
        path = "/api/2.0/mlflow/experiments/search"
        world.kube.through_service(names[1], target, path, {"max_results": 1}, parts.netloc)
    except M3Error as error:
        return MlflowAnswer(uri, error)
    return MlflowAnswer(uri)


def judge_mlflow(answer: MlflowAnswer) -> Finding:
    host = urlsplit(answer.uri).netloc
    if answer.is_outside:
        return Finding(WARNING, f"the operator uses {answer.uri}, which is not a Service of this cluster: not asked")
    if answer.error is None:
        return Finding(OK, f"answers jobs that call it {host}")
    told = str(answer.error)
    if "Invalid Host" in told:
        return Finding(
            FAULT,
            f"is there, and answers 403 to jobs that call it {host}",
            f"start it with --allowed-hosts {host} (charts/mlflow: extraAllowedHosts)",
        )
    if isinstance(answer.error, kube.ClusterRefused):
        return Finding(WARNING, f"could not be asked: {told}")
    return Finding(
        FAULT, f"does not answer at {answer.uri}: {told}", "helm install mlflow charts/mlflow --namespace m3-system"
    )


def look_at_storage_class(world: World) -> list[Object]:
    return world.kube.get("/apis/storage.k8s.io/v1/storageclasses")["items"]


def judge_storage_class(classes: list[Object]) -> Finding:
    default = [
        each["metadata"]["name"]
        for each in classes
        if (each["metadata"].get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true"
    ]
    if default:
        return Finding(OK, f"{default[0]} is the default")
    names = ", ".join(each["metadata"]["name"] for each in classes) or "none at all"
    return Finding(
        WARNING,
        f"no default StorageClass ({names}): a claim that names none stays Pending",
        "annotate one with storageclass.kubernetes.io/is-default-class=true",
    )


# --- capacity ---------------------------------------------------------------------------------------------------------
Amounts = dict[str, float]


@dataclass(frozen=True)
class Node:
    """A node that takes ordinary pods: what it could give, and what it has left. CPUs, and bytes of memory."""

    name: str
    allocatable: Amounts
    free: Amounts


def look_at_capacity(world: World) -> tuple[list[Node], Amounts]:
    nodes = world.kube.get("/api/v1/nodes")["items"]
    pods = world.kube.get("/api/v1/pods", fieldSelector="status.phase!=Succeeded,status.phase!=Failed")["items"]
    return nodes_of(nodes, pods), default_requests(world.seen.get("crd"))


def nodes_of(nodes: Iterable[Object], pods: Iterable[Object]) -> list[Node]:
    """Nodes without a taint that keeps ordinary pods away."""
    used: dict[str, list[Amounts]] = {}
    for pod in pods:
        used.setdefault(pod["spec"].get("nodeName", ""), []).append(_requested(pod))
    usable = [node for node in nodes if not node["spec"].get("unschedulable") and not _is_tainted(node)]
    return [_node(node, used.get(node["metadata"]["name"], [])) for node in usable]


def _node(node: Object, used: list[Amounts]) -> Node:
    allocatable = _amounts(node["status"]["allocatable"])
    free = {name: value - sum(each[name] for each in used) for name, value in allocatable.items()}
    return Node(node["metadata"]["name"], allocatable, free)


def _is_tainted(node: Object) -> bool:
    return any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in node["spec"].get("taints") or ())


def _requested(pod: Object) -> Amounts:
    each = [
        _amounts((container.get("resources") or {}).get("requests") or {}) for container in pod["spec"]["containers"]
    ]
    return {name: sum(amounts[name] for amounts in each) for name in ("cpu", "memory")}


def _amounts(quantities: Object) -> Amounts:
    return {name: kube.quantity(quantities.get(name, 0)) for name in ("cpu", "memory")}


def default_requests(crd: Object | None) -> Amounts:
    """What the head of a job that says nothing asks for, by the installed CRD's default; nothing where that is not known."""
    ray = ((schema_of(crd) if crd else None) or {}).get("properties", {}).get("ray", {}).get("properties", {})
    resources = ray.get("head", {}).get("properties", {}).get("resources", {})
    return _amounts(resources.get("default", {}).get("requests") or {})


def judge_capacity(found: tuple[list[Node], Amounts]) -> Finding:
    nodes, wanted = found
    asked = f"a job's head asks for {wanted['cpu']:g} CPU and {_gib(wanted['memory'])}"
    if not nodes:
        return Finding(FAULT, "no node takes ordinary pods (all are cordoned or tainted)", "kubectl get nodes; add one")
    if best := [node for node in nodes if _fits(wanted, node.free)]:
        roomy = max(best, key=lambda node: (node.free["cpu"], node.free["memory"]))
        left = f"{roomy.free['cpu']:.1f} CPU and {_gib(roomy.free['memory'])} left"
        return Finding(OK, f"node {roomy.name} has {left}; {asked}")
    if any(_fits(wanted, node.allocatable) for node in nodes):
        return Finding(
            WARNING, f"no node has that much left now, so a job would wait: {asked}", "kubectl describe nodes"
        )
    return Finding(
        FAULT, f"no node is large enough: {asked}", "lower spec.ray.head.resources.requests, or add a larger node"
    )


def _fits(wanted: Amounts, there: Amounts) -> bool:
    return all(wanted[name] <= there[name] for name in wanted)


def _gib(value: float) -> str:
    return f"{value / 2**30:.1f} GiB"


# --- rights -----------------------------------------------------------------------------------------------------------
NEEDED = {
    "submit": (("create", "trainingjobs", kube.GROUP, ""), ("patch", "trainingjobs", kube.GROUP, "")),
    "status and wait": (
        ("get", "trainingjobs", kube.GROUP, ""),
        ("list", "trainingjobs", kube.GROUP, ""),
        ("watch", "trainingjobs", kube.GROUP, ""),
    ),
    "cancel --delete": (("delete", "trainingjobs", kube.GROUP, ""),),
    "logs of a running job": (("list", "pods", "", ""), ("get", "pods", "", "log")),
}


def look_at_rights(world: World) -> tuple[str, dict[str, list[str]]]:
    """What the current user lacks for which command."""
    lacking = {
        purpose: [
            f"{verb} {resource}{'/' + sub if sub else ''}"
            for verb, resource, group, sub in wanted
            if not world.kube.may(verb, resource, world.kube.namespace, group, sub)
        ]
        for purpose, wanted in NEEDED.items()
    }
    if not world.kube.may("get", "services", world.system_namespace, subresource="proxy"):
        lacking["logs of a finished job"] = [f"get services/proxy in {world.system_namespace}"]
    return world.kube.namespace, {purpose: rights for purpose, rights in lacking.items() if rights}


def judge_rights(found: tuple[str, dict[str, list[str]]]) -> Finding:
    namespace, lacking = found
    if not lacking:
        return Finding(OK, f"every m3 command may be used in namespace {namespace}")
    told = "; ".join(f"{purpose}: {', '.join(rights)}" for purpose, rights in lacking.items())
    verdict = FAULT if "submit" in lacking or "status and wait" in lacking else WARNING
    return Finding(verdict, f"in namespace {namespace} you may not use {told}", "ask the cluster's administrator")


# --- all of them ------------------------------------------------------------------------------------------------------
LOCAL = (
    Check("python", look_at_packages, judge_packages),
    Check("disk", look_at_disk, judge_disk),
    Check("tracking", look_at_tracking, judge_tracking),
    Check("ray-dashboard", look_at_ray_dashboard, judge_ray_dashboard),
)
ON_CLUSTER = (
    Check("crds", look_at_crds, judge_crds),
    Check("operator", look_at_operator, judge_operator),
    Check("namespace", look_at_namespace, judge_namespace),
    Check("kuberay", look_at_kuberay, judge_kuberay),
    Check("mlflow", look_at_mlflow, judge_mlflow),
    Check("storage-class", look_at_storage_class, judge_storage_class),
    Check("capacity", look_at_capacity, judge_capacity),
    Check("rights", look_at_rights, judge_rights),
)
API_SERVER = Check("api-server", look_at_api_server, judge_api_server)


def examine(world: World, connect: Callable[[], kube.Kube]) -> Iterator[tuple[str, Finding]]:
    """Each check's name and finding, as they come. Without a cluster that answers, nothing further is asked of it."""
    for check in LOCAL:
        yield check.name, check(world)
    try:
        world.cluster = connect()
    except kube.ClusterUnavailable as error:
        yield "kubeconfig", Finding(WARNING, f"no cluster is set up, so none was looked at: {error}")
        return
    yield "kubeconfig", Finding(OK, f"namespace {world.cluster.namespace} at {world.cluster.server}")
    answered = API_SERVER(world)
    yield API_SERVER.name, answered
    if answered.verdict == FAULT:
        return
    for check in ON_CLUSTER:
        yield check.name, check(world)


def doctor(
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    system_namespace: SystemNamespaceOption = SYSTEM_NAMESPACE,
    release: Annotated[str, typer.Option(help="Helm release of the operator.")] = "m3",
    mlflow_service: MlflowServiceOption = MLFLOW_SERVICE,
    home: Annotated[Path, typer.Option("--home", envvar="M3_HOME", help="Folder for the runs of this machine.")] = Path(
        "m3"
    ),
    output: OutputOption = Output.text,
) -> None:
    """Look at this machine and the cluster for what a job needs, and say how to mend what is missing.

    Each check is ok, a warning or a fault; exit code 0 without faults, 15 with one. Without a kubeconfig the cluster is left out.

    Example: m3 doctor
    """
    world = World(home, release, system_namespace, mlflow_service)
    findings: dict[str, Finding] = {}
    for name, finding in examine(world, lambda: kube.connect(context, namespace)):
        findings[name] = finding
        if output is Output.text:
            print(show_cluster.finding(name, finding.verdict, finding.seen, finding.cure), flush=True)
    faults = [name for name, finding in findings.items() if finding.verdict == FAULT]
    if output is Output.json:
        checks = [{"name": name} | finding.__dict__ for name, finding in findings.items()]
        warnings = sum(finding.verdict == WARNING for finding in findings.values())
        print(json.dumps({"checks": checks, "faults": len(faults), "warnings": warnings}))
    if faults:
        raise Unhealthy(f"faults: {', '.join(faults)}")
