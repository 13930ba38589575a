"""A user's YAML file, read as kubectl reads it, into a workload."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from m3_trainer import config, schema
from m3_trainer.errors import InvalidSpec

API_VERSION, KIND = "m3.dev/v1alpha1", "TrainingJob"
JOB_NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"


class Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: 1e-3 is a number, y is true, 1:30 and a date are texts; a key that stands twice is refused."""

    bool_values = yaml.SafeLoader.bool_values | {"y": True, "n": False}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key `{twice}` must stand once", node.start_mark)
        return super().construct_mapping(node, deep)


_WORDS = {
    "null": "~|null|Null|NULL|",
    "bool": "[yY]|[nN]|yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    "int": "[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)",
    "float": r"[-+]?([.][0-9][0-9_]*|[0-9][0-9_]*([.][0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?[.](inf|Inf|INF)|[.](nan|NaN|NAN)",
    "merge": "<<",
}
Loader.yaml_implicit_resolvers = {
    None: [(f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z")) for name, pattern in _WORDS.items()]
}


@dataclass(frozen=True)
class Job:
    """A named workload, as a TrainingJob file holds it."""

    name: str
    workload: config.Workload


def read_job(path: str) -> Job:
    """The TrainingJob in a file (`-`: standard input). Raises `InvalidSpec` with every fault, a line each."""
    document = read_document(path)
    faults = _envelope(document)
    if faults:
        raise InvalidSpec(f"{path}: " + "\n".join(faults))
    workload = parse_workload(config.workload_of(document["spec"]), at="spec", source=path)
    return Job(document["metadata"]["name"], workload)


def read_config(path: str) -> dict[str, Any]:
    """A workload file for `m3 train --config`: the workload part of a TrainingJob, or the classic file in snake_case, whose
    `tuning` is kept as it stands. Raises `InvalidSpec`.
    """
    document = read_document(path)
    if "apiVersion" in document or "kind" in document:
        raise InvalidSpec(f"{path}: must be a workload alone, is a whole {document.get('kind')}: m3 run -f {path}")
    try:
        return classic(document)
    except ValueError as error:
        raise InvalidSpec(f"{path}: {error}") from error


def parse_workload(document: dict[str, Any], at: str = "", source: str = "") -> config.Workload:
    """Raises `InvalidSpec` with every fault, a line each."""
    try:
        return config.Workload.parse(document)
    except ValidationError as error:
        prefix = f"{source}: " if source else ""
        raise InvalidSpec(prefix + "\n".join(schema.explain(error, config.Workload, at))) from error
    except TypeError as error:  # a YAML type that JSON has not, as a set
        raise InvalidSpec(f"{source}: must hold only what JSON can: {error}") from error


def classic(document: dict[str, Any]) -> dict[str, Any]:
    """snake_case to camelCase; `hyperparameters` beside `model` go into it, where those inside win. Raises `ValueError`."""
    tuning = {"tuning": document["tuning"]} if "tuning" in document else {}
    document = _camel({name: value for name, value in document.items() if name != "tuning"}, "")
    if (beside := document.pop("hyperparameters", None)) is not None:
        model = document.get("model") or {}
        inside = model.get("hyperparameters") or {} if isinstance(model, dict) else None
        if not isinstance(beside, dict) or not isinstance(inside, dict):
            raise ValueError("`model` and `hyperparameters` must be mappings, as {n_estimators: 100}")
        document["model"] = model | {"hyperparameters": beside | inside}
    return document | tuning


def _camel(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_camel(each, key) for each in value]
    if not isinstance(value, dict) or key == "hyperparameters":
        return value
    names = {str(name): to_camel(str(name)) for name in value}
    if twice := [name for name, camel in names.items() if camel != name and camel in names]:
        raise ValueError(f"`{twice[0]}` and `{names[twice[0]]}` are one field: it must stand once")
    return {names[str(name)]: _camel(inner, str(name)) for name, inner in value.items()}


def read_document(path: str) -> dict[str, Any]:
    """The one YAML mapping in a file (`-`: standard input). Raises `InvalidSpec`."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidSpec(f"{path}: the file must exist; looked from {Path.cwd()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path}: must be a readable text file: {error}") from error
    try:
        document = yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path}: must be one YAML document: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSpec(
            f"{path}: must be a YAML mapping, is {'empty' if document is None else type(document).__name__}"
        )
    return document


def _envelope(document: dict[str, Any]) -> list[str]:
    """What is wrong around the spec, a sentence each."""
    faults = []
    if document.get("apiVersion") != API_VERSION:
        faults.append(f"apiVersion: must be {API_VERSION}, is {document.get('apiVersion')}")
    if document.get("kind") != KIND:
        faults.append(f"kind: must be {KIND}, is {document.get('kind')}")
    faults += [
        f"{name}: must be a known field; known here: apiVersion, kind, metadata, spec"
        for name in document.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}
    ]
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not re.fullmatch(JOB_NAME, name) or len(name) > config.MAX_JOB_NAME:
        faults.append(
            "metadata.name: must start with a letter, hold lower-case letters, digits and -, and be at most "
            f"{config.MAX_JOB_NAME} long, is {name}"
        )
    if not isinstance(document.get("spec"), dict):
        faults.append("spec: must be set")
    return faults
