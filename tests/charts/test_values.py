"""values.yaml, its schema and the README's table say the same."""

import importlib.util
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"

spec = importlib.util.spec_from_file_location("readme", CHARTS / "readme.py")
assert spec is not None
assert spec.loader is not None
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)

each_chart = pytest.mark.parametrize("chart", ["m3", "mlflow"])


def load(chart: str) -> tuple[dict[str, Any], dict[str, Any]]:
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    return values, json.loads((CHARTS / chart / "values.schema.json").read_text())


def schema_paths(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted path of every leaf property; `$ref` is followed."""
    for name, child in node["properties"].items():
        child = schema["definitions"][child["$ref"].rpartition("/")[2]] if "$ref" in child else child
        if "properties" in child:
            yield from schema_paths(schema, child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def value_at(values: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


@each_chart
def test_every_value_that_the_schema_knows_has_a_default(chart):
    values, schema = load(chart)
    for path in set(schema_paths(schema, schema)) - {"global"}:
        assert value_at(values, path) is not None, path


@each_chart
def test_the_schema_refuses_what_it_does_not_know_at_every_depth(chart):
    _, schema = load(chart)

    def closed(node: Any) -> Iterator[bool]:
        if isinstance(node, dict):
            if "properties" in node and node.get("type") == "object":
                yield node.get("additionalProperties") is False
            for child in node.values():
                yield from closed(child)

    assert all(closed(schema))


@each_chart
def test_the_readme_lists_every_value_with_its_default(chart):
    text = (CHARTS / chart / "README.md").read_text()
    assert readme.rendered(CHARTS / chart) == text, "run `python charts/readme.py`"
    _, schema = load(chart)
    listed = [
        line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and "--" not in line.split("`")[1]
    ]
    for path in set(schema_paths(schema, schema)) - {"global"}:
        assert any(path == each or path.startswith(f"{each}.") for each in listed), f"{path} is not in the README"


def test_a_value_without_a_comment_is_refused():
    with pytest.raises(readme.UndocumentedValue, match=r"`image.tag` must have a comment above it"):
        list(readme.documented_values('image:\n  # -- Its name\n  repository: x\n  tag: ""\n'))


@each_chart
def test_the_charts_version_is_the_projects(chart):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
    assert about["appVersion"] == about["version"] == project["version"]
