"""Charts are rendered by the real helm; tests assert on the objects that would reach the API server."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"

# A helm that was built from its module does not know its own Kubernetes version and would say 1.20.
KUBERNETES = "1.34.3"


@dataclass(frozen=True)
class Rendered:
    """What a chart renders to."""

    objects: list[dict[str, Any]]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        (found,) = self.all(kind)
        return found

    @property
    def pod(self) -> dict[str, Any]:
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.pod["containers"]
        return container

    @property
    def env(self) -> dict[str, str]:
        return {each["name"]: each.get("value", "") for each in self.container["env"]}


@dataclass(frozen=True)
class Charts:
    helm: Path
    scratch: Path
    rendered: dict[str, Rendered] = field(default_factory=dict)
    """What was rendered already: half of the tests look at the same few."""

    def template(
        self, chart: str, values: dict[str, Any], release: str, namespace: str, *options: str
    ) -> subprocess.CompletedProcess[str]:
        file = self.scratch / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        command = [str(self.helm), "template", release, str(CHARTS / chart), "--namespace", namespace]
        command += ["--kube-version", KUBERNETES, "--values", str(file), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    def render(
        self, chart: str, values: dict[str, Any] | None = None, release: str = "", namespace: str = "m3-system"
    ) -> Rendered:
        """What `helm install RELEASE charts/CHART` would send; the release is named as the chart by default."""
        key = json.dumps([chart, values, release, namespace])
        if key not in self.rendered:
            done = self.template(chart, values or {}, release or chart, namespace)
            assert done.returncode == 0, done.stderr
            self.rendered[key] = Rendered([each for each in yaml.safe_load_all(done.stdout) if each])
        return self.rendered[key]

    def refusal(self, chart: str, values: dict[str, Any]) -> str:
        """What helm says to values that must be refused."""
        done = self.template(chart, values, chart, "m3-system")
        assert done.returncode != 0, f"helm accepted {values}"
        return done.stderr

    def notes(self, chart: str, values: dict[str, Any] | None = None) -> str:
        """The text after an install. Only an install prints it, and wants a cluster: a copy renders it as an object."""
        copy = self.scratch / "with-notes" / chart
        shutil.copytree(CHARTS / chart, copy, dirs_exist_ok=True)
        (copy / "files").mkdir(exist_ok=True)
        (copy / "templates" / "NOTES.txt").rename(copy / "files" / "notes.txt")
        (copy / "templates" / "notes.yaml").write_text(
            '{kind: Notes, text: {{ tpl (.Files.Get "files/notes.txt") . | toJson }}}'
        )
        done = self.template(str(copy), values or {}, chart, "m3-system", "--show-only", "templates/notes.yaml")
        assert done.returncode == 0, done.stderr
        return yaml.safe_load(done.stdout)["text"]


def tool(name: str) -> Path:
    """One of the pinned tools, built where it is not there yet."""
    subprocess.run([str(ROOT / "tests" / "cluster" / "tools.sh"), name], check=True, timeout=900)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("M3_CACHE") or Path(cache) / "m3") / "bin" / name


@pytest.fixture(scope="session")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Charts:
    return Charts(tool("helm"), tmp_path_factory.mktemp("values"))


@pytest.fixture(scope="session")
def promtool() -> Path:
    return tool("promtool")
