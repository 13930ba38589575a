"""Every pod would start in a namespace that enforces Pod Security `restricted`, and has a read-only root."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def pod_violations(pod: dict[str, Any]) -> list[str]:
    context = pod.get("securityContext", {})
    found = [f"{each} is true" for each in ("hostNetwork", "hostPID", "hostIPC") if pod.get(each)]
    found += [
        f"volume {each['name']} is of a forbidden type" for each in pod.get("volumes", []) if not VOLUMES & each.keys()
    ]
    found += [f"{each} is set" for each in ("sysctls", "supplementalGroups") if context.get(each)]
    return found


def container_violations(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    own = container.get("securityContext", {})
    either = {**pod.get("securityContext", {}), **own}
    capabilities = own.get("capabilities", {})
    rules = {
        "runAsNonRoot must be true": either.get("runAsNonRoot") is True,
        "runAsUser must be a number that is not 0": either.get("runAsUser", 0) != 0,
        "seccompProfile must be RuntimeDefault": either.get("seccompProfile") == {"type": "RuntimeDefault"},
        "capabilities must be dropped, all": capabilities.get("drop") == ["ALL"] and not capabilities.get("add"),
        "allowPrivilegeEscalation must be false": own.get("allowPrivilegeEscalation") is False,
        "privileged must not be true": not own.get("privileged"),
        "readOnlyRootFilesystem must be true": own.get("readOnlyRootFilesystem") is True,
        "ports must not be of the host": not any(each.get("hostPort") for each in container.get("ports", [])),
        "memory must have a limit": "memory" in container.get("resources", {}).get("limits", {}),
        "cpu and memory must be requested": {"cpu", "memory"}
        <= container.get("resources", {}).get("requests", {}).keys(),
    }
    return [f"{container['name']}: {rule}" for rule, kept in rules.items() if not kept]


def violations(pod: dict[str, Any]) -> list[str]:
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    return pod_violations(pod) + [each for container in containers for each in container_violations(pod, container)]


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pod spec of every object that has one, whatever its kind."""
    templates = [each["spec"]["template"]["spec"] for each in objects if "template" in each.get("spec", {})]
    return templates + [each["spec"] for each in objects if each["kind"] == "Pod"]


EVERYTHING = {
    "watchNamespaces": ["default", "team-a"],
    "metrics": {name: {"enabled": True} for name in ("service", "serviceMonitor", "prometheusRule", "dashboard")},
}
VALUES = {
    "m3 by default": ("m3", {}),
    "m3 cluster-wide": ("m3", {"clusterWide": True}),
    "m3 with everything that can be switched on": ("m3", EVERYTHING),
    "mlflow by default": ("mlflow", {}),
    "mlflow without a volume, behind an ingress": (
        "mlflow",
        {"persistence": {"enabled": False}, "ingress": {"enabled": True, "host": "ml.example.org"}},
    ),
}


@pytest.mark.parametrize("sentence", VALUES)
def test_every_pod_is_restricted(charts, sentence):
    found = pods(charts.render(*VALUES[sentence]).objects)
    assert found != []
    assert [violations(pod) for pod in found] == [[]] * len(found)


def test_only_the_operator_has_a_service_account_token(charts):
    assert charts.render("mlflow").pod["automountServiceAccountToken"] is False
    assert "automountServiceAccountToken" not in charts.render("m3").pod


@pytest.mark.parametrize("chart", ["m3", "mlflow"])
def test_a_read_only_root_leaves_tmp_to_write_to(charts, chart):
    rendered = charts.render(chart)
    assert {"name": "tmp", "mountPath": "/tmp"} in rendered.container["volumeMounts"]
    assert rendered.env["HOME"] == rendered.container["workingDir"] == "/tmp"


@pytest.mark.parametrize(("chart", "values"), [("m3", {}), ("m3", EVERYTHING), ("mlflow", {})])
def test_every_object_says_which_release_it_belongs_to(charts, chart, values):
    for each in charts.render(chart, values, release=f"my-{chart}").objects:
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == f"my-{chart}", each["metadata"]
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "m3"


@pytest.mark.parametrize("chart", ["m3", "mlflow"])
def test_labels_of_ones_own_do_not_replace_the_selectors(charts, chart):
    labels = {"app.kubernetes.io/name": "mine", "team": "fraud"}
    spec = charts.render(chart, {"podLabels": labels}).one("Deployment")["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert spec["template"]["metadata"]["labels"]["team"] == "fraud"


def switches(values: dict[str, Any], path: str = "") -> set[str]:
    """The paths of all values named `enabled`."""
    below = {
        each for name, value in values.items() if isinstance(value, dict) for each in switches(value, f"{path}{name}.")
    }
    return below | ({path.rstrip(".")} if "enabled" in values else set())


def test_everything_is_everything():
    defaults = yaml.safe_load((Path(__file__).parents[2] / "charts" / "m3" / "values.yaml").read_text())
    assert switches(EVERYTHING) | {"crds"} == switches(defaults)


LOOSENED = {
    "the host's network": lambda pod: pod.update(hostNetwork=True),
    "a folder of the host": lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "root": lambda pod: pod["securityContext"].update(runAsUser=0),
    "no word about root": lambda pod: pod["securityContext"].pop("runAsNonRoot"),
    "any system call": lambda pod: pod["securityContext"].pop("seccompProfile"),
    "a capability": lambda pod: pod["containers"][0]["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    "a writable root": lambda pod: pod["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    "escalation": lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    "a privileged init container": lambda pod: pod.update(
        initContainers=[{**copy.deepcopy(pod["containers"][0]), "securityContext": {"privileged": True}}]
    ),
    "a port of the host": lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80),
}


@pytest.mark.parametrize("sentence", LOOSENED)
def test_the_check_itself_refuses(charts, sentence):
    pod = copy.deepcopy(charts.render("m3").pod)
    LOOSENED[sentence](pod)
    assert violations(pod) != []
