"""Write what is made from the API's models: the CRD, its copy in the chart and the field reference.

    python -m m3_operator.crdgen            write them
    python -m m3_operator.crdgen --check    exit 1 where one differs

pydantic's JSON schema is not what the API server takes (a structural schema). The differences, each met as a refusal:

- `$ref` is inlined; what stands beside it wins; `title` is unknown there.
- A map's keys have no schema (`propertyNames`, `patternProperties`): their pattern and length become a CEL rule where
  the values have a type; CEL does not see maps of any value, whose keys only Python judges.
- `X | None` becomes X, not required, without `default: null`; any other union is refused here, by an exception.
- `exclusiveMinimum: 0` becomes `minimum: 0, exclusiveMinimum: true`; `const` becomes `enum`.
- `additionalProperties: false` beside `properties` is dropped: there, an unknown field is pruned, or refused where the
  client asks for it (kubectl does).
- A default that is a model loses its nulls, and keeps the rest: the server judges a default by the CEL rules as it
  stands, before the defaults inside it are filled in.
- A value of any type is nullable: else the server takes a null out of a map, and `max_features: null` means something.
- Nothing in `status` has a default: the server would fill in what nobody has observed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from m3_operator.api.v1alpha1 import GROUP, VERSION, TrainingJob
from m3_trainer.schema import Model

ROOT = Path(__file__).resolve().parents[2]
HEADER = "# Generated from the models in operator/m3_operator/api by `make generate`.\n"
DROPPED = ("title", "propertyNames", "patternProperties", "discriminator", "examples", "$defs")

Schema = dict[str, Any]


# --- from pydantic's schema to a structural one -----------------------------------------------------------------------
def structural(model: type[Model]) -> Schema:
    """The OpenAPI v3 structural schema of a root model. Raises ValueError for a type that has none."""
    raw = model.model_json_schema(by_alias=True)
    schema = _convert(raw, raw.get("$defs", {}), model.__name__)
    schema["properties"]["metadata"] = {"type": "object"}
    for name in ("apiVersion", "kind"):
        schema["properties"][name].pop("enum")
    schema["required"] = ["spec"]
    schema["properties"]["status"] = _without_defaults(schema["properties"]["status"])
    return schema


def _convert(schema: Schema, definitions: Schema, path: str) -> Schema:
    schema = _required_type(_inlined(schema, definitions), definitions, path)
    result = {key: value for key, value in schema.items() if key not in DROPPED} | _map(schema)
    if "const" in result:
        result["enum"] = [result.pop("const")]
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in result:
            result[bound.lower()] = result[f"exclusive{bound}"]
            result[f"exclusive{bound}"] = True
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    return _converted_children(result, definitions, path)


def _converted_children(result: Schema, definitions: Schema, path: str) -> Schema:
    if "properties" in result:
        result.pop("additionalProperties", None)
        children = result["properties"].items()
        result["properties"] = {name: _convert(child, definitions, f"{path}.{name}") for name, child in children}
    elif isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(result["additionalProperties"], definitions, f"{path}.*")
    if "items" in result:
        result["items"] = _convert(result["items"], definitions, f"{path}[]")
        result.setdefault("x-kubernetes-list-type", "atomic")
    if result.get("x-kubernetes-preserve-unknown-fields"):
        result["nullable"] = True
    if "default" in result:
        result["default"] = _without_nulls(result["default"])
    return result


def _map(schema: Schema) -> Schema:
    """The values' schema and the keys' rule of a map whose keys are bounded."""
    names: Schema = schema.get("propertyNames", {})
    values = schema.get("additionalProperties")
    if not isinstance(values, dict) or values.get("x-kubernetes-preserve-unknown-fields"):
        return {}
    checks = [
        (rule["rule"].replace("self.", "key.", 1), rule["message"])
        for rule in names.get("x-kubernetes-validations", ())
    ]
    if "maxLength" in names:
        checks.append((f"size(key) <= {names['maxLength']}", f"must be at most {names['maxLength']} characters"))
    rules = [{"rule": f"self.all(key, {cel})", "message": f"each key {message}"} for cel, message in checks]
    return {"additionalProperties": values} | ({"x-kubernetes-validations": rules} if rules else {})


def _inlined(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    target = definitions[schema["$ref"].rsplit("/", 1)[1]]
    return {**_inlined(target, definitions), **{key: value for key, value in schema.items() if key != "$ref"}}


def _required_type(schema: Schema, definitions: Schema, path: str) -> Schema:
    """`X | None` as X; another union has no structural schema."""
    if "anyOf" not in schema or "x-kubernetes-int-or-string" in schema:
        return schema
    options = [option for option in schema["anyOf"] if option.get("type") != "null"]
    if len(options) != 1:
        raise ValueError(f"{path}: a union must be optional members and `exactly_one_of`, is {schema['anyOf']}")
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if rest.get("default", ...) is None:
        del rest["default"]
    return {**_inlined(options[0], definitions), **rest}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_defaults(value) for key, value in schema.items() if key != "default"}
    return [_without_defaults(item) for item in schema] if isinstance(schema, list) else schema


# --- the CRD ----------------------------------------------------------------------------------------------------------
def _column(name: str, kind: str, path: str, description: str, **more: Any) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, **more}


COLUMNS = [
    _column("Status", "string", ".status.display.status", "State in one word, made from the conditions."),
    _column("Progress", "integer", ".status.progress.percentage", "Percent done."),
    _column("Metric", "string", ".status.display.metric", "The most important metric."),
    _column("Model", "string", ".status.display.model", "Registered model and version."),
    _column("Attempt", "integer", ".status.attempts[-1:].number", "Number of the newest attempt."),
    _column("Run", "string", ".status.mlflow.runId", "MLflow run.", priority=1),
    _column("Age", "date", ".metadata.creationTimestamp", "Time since the job was made."),
]


def custom_resource_definition() -> Schema:
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": COLUMNS,
        "selectableFields": [{"jsonPath": ".status.settled"}],
        "schema": {"openAPIV3Schema": structural(TrainingJob)},
    }
    names = {
        "kind": "TrainingJob",
        "listKind": "TrainingJobList",
        "plural": "trainingjobs",
        "singular": "trainingjob",
        "shortNames": ["tj"],
        "categories": ["ml"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"trainingjobs.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


class _Dumper(yaml.SafeDumper):
    """Without anchors: a schema that occurs twice is written twice, as kubectl and Helm's readers expect."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def crd_yaml() -> str:
    text = yaml.dump(custom_resource_definition(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return HEADER + text


# --- the field reference ----------------------------------------------------------------------------------------------
def reference() -> str:
    schema = structural(TrainingJob)
    lines = [
        "<!-- Generated from the models in operator/m3_operator/api by `make generate`. -->",
        "# TrainingJob, m3.dev/v1alpha1",
        "",
        schema["description"],
        "",
        *_rules(schema, "TrainingJob"),
    ]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | default | what it says |", "| --- | --- | --- | --- |"]
        lines += list(_rows(schema["properties"][part], part))
    return "\n".join(lines) + "\n"


def _rows(schema: Schema, path: str) -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        default = f"`{json.dumps(child['default'])}`" if "default" in child else ""
        required = "required" if name in schema.get("required", ()) else default
        notes = " ".join(f"Rule: {rule['message']}." for rule in child.get("x-kubernetes-validations", ()))
        text = f"{child.get('description', '')} {notes}".strip().replace("|", "\\|")
        yield f"| `{here}` | {_type(child)} | {required} | {text} |"
        inner = child.get("items") or child.get("additionalProperties") or child
        yield from _rows(inner, here + ("[]" if "items" in child else ".*" if "additionalProperties" in child else ""))


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}, at most {schema['maxItems']}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_type(schema['additionalProperties'])}, at most {schema['maxProperties']}"
    return schema.get("type", "any value") + _bounds(schema)


def _bounds(schema: Schema) -> str:
    if "maxLength" in schema:
        return f", at most {schema['maxLength']} characters"
    low = (
        ("more than " if schema.get("exclusiveMinimum") else "from ") + f"{schema['minimum']:g}"
        if "minimum" in schema
        else ""
    )
    high = (
        ("less than " if schema.get("exclusiveMaximum") else "to ") + f"{schema['maximum']:.12g}"
        if "maximum" in schema
        else ""
    )
    text = " ".join(filter(None, (low, high)))
    return f", {text}" if text else ""


def _rules(schema: Schema, where: str) -> list[str]:
    rules = schema.get("x-kubernetes-validations", []) + schema["properties"]["spec"].get(
        "x-kubernetes-validations", []
    )
    return [f"Rules of a {where}:", "", *(f"- {rule['message']}" for rule in rules)]


# --- writing ----------------------------------------------------------------------------------------------------------
def generated() -> dict[Path, str]:
    """Path, relative to the repository, and text of each generated file."""
    name = f"{GROUP}_trainingjobs.yaml"
    crd = crd_yaml()
    return {
        Path("manifests/crds") / name: crd,
        Path("charts/m3/files/crds") / name: crd,
        Path("operator/docs/api.md"): reference(),
    }


def stale(root: Path) -> list[Path]:
    """The generated files below `root` that differ from what the models say."""
    texts = generated().items()
    return [path for path, text in texts if not (root / path).is_file() or (root / path).read_text() != text]


def write(root: Path) -> None:
    for path, text in generated().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the CRD and the field reference from the API's models.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is not current")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    arguments = parser.parse_args()
    if not arguments.check:
        write(arguments.root)
        return 0
    differing = stale(arguments.root)
    for path in differing:
        print(f"{path}: must be as the models say; run `make generate`", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
