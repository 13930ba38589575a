"""A real API server, with the Prometheus operator's kinds, takes what the charts make and knows every field of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.conftest import ROOT, TOOLS, ApiServer, wait_for

SYSTEM = "m3-system"
METRICS = {kind: {"enabled": True} for kind in ("service", "serviceMonitor", "prometheusRule", "dashboard")}
VALUES = {
    "m3 by default": ("m3", {}),
    "m3 with all that can be switched on": ("m3", {"watchNamespaces": ["default"], "metrics": METRICS}),
    "m3 cluster-wide": ("m3", {"clusterWide": True}),
    "mlflow by default": ("mlflow", {}),
    "mlflow behind an ingress": ("mlflow", {"ingress": {"enabled": True, "host": "ml.example.org"}}),
}


@pytest.fixture(scope="module")
def cluster(api_server: ApiServer) -> ApiServer:
    """With the namespace of the release, and with ServiceMonitor and PrometheusRule."""
    where = subprocess.run(
        [str(TOOLS), "--module-dir", "prometheus-operator"], check=True, capture_output=True, text=True, timeout=600
    )
    kinds = [f"{kind}.monitoring.coreos.com" for kind in ("servicemonitors", "prometheusrules")]
    for kind in kinds:
        plural, _, group = kind.partition(".")
        crd = Path(where.stdout.strip()) / "example" / "prometheus-operator-crd" / f"{group}_{plural}.yaml"
        api_server.kubectl("apply", "--server-side", "-f", str(crd))
    established = ("wait", "--for=condition=Established", "--timeout=5s", "crd", *kinds)
    wait_for(lambda: api_server.kubectl(*established, check=False).returncode == 0, 30, every=0.1)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    api_server.kubectl("apply", "-f", "-", text=yaml.safe_dump(namespace))
    return api_server


@pytest.fixture
def render(cluster: ApiServer, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def run(chart: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
        command = [str(cluster.bin / "helm"), "template", chart, str(ROOT / "charts" / chart), f"--namespace={SYSTEM}"]
        command += ["--kube-version=1.34.3", f"--values={tmp_path / 'values.yaml'}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return run


def refusals(cluster: ApiServer, objects: list[dict[str, Any]]) -> str:
    """What the API server says against them; nothing is kept."""
    strictly = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    return cluster.kubectl(*strictly, text=yaml.safe_dump_all(objects), check=False).stderr


@pytest.mark.parametrize("sentence", VALUES)
def test_taken(cluster, render, sentence):
    objects = render(*VALUES[sentence])
    assert objects
    assert refusals(cluster, objects) == ""


def endpoint(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda objects: objects["ServiceMonitor"]["spec"]["endpoints"][0].update(fields)


SPOILT = {
    "a field that a ServiceMonitor has not": (endpoint(intervall="30s"), "intervall"),
    "an interval without a unit": (endpoint(interval="30"), "spec.endpoints[0].interval"),
    "a rule without an expression": (
        lambda objects: objects["PrometheusRule"]["spec"]["groups"][0]["rules"][0].pop("expr"),
        "rules[0].expr",
    ),
    "a port that nothing has": (
        lambda objects: objects["Service"]["spec"]["ports"][0].update(port=0),
        "spec.ports[0].port",
    ),
}


@pytest.mark.parametrize("sentence", SPOILT)
def test_the_check_itself_refuses(cluster, render, sentence):
    spoil, words = SPOILT[sentence]
    objects = {each["kind"]: each for each in render("m3", {"metrics": METRICS})}
    spoil(objects)
    assert words in refusals(cluster, list(objects.values()))
