"""The TrainingJobs of a file, each judged as `m3 run` judges it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from m3_trainer import config, files
from m3_trainer.errors import InvalidSpec


def read(path: str) -> list[dict[str, Any]]:
    """Every document of a file (`-`: standard input), all of them good. Raises `InvalidSpec` with every fault, a line each."""
    documents = _parse(path)
    faults = []
    for number, document in enumerate(documents, start=1):
        source = path if len(documents) == 1 else f"{path}, document {number}"
        try:
            _validate(document, source)
        except InvalidSpec as error:
            faults.append(str(error))
    if faults:
        raise InvalidSpec("\n".join(faults))
    _refuse_twice(path, documents)
    return documents


def _parse(path: str) -> list[Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidSpec(f"{path}: the file must exist; looked from {Path.cwd()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path}: must be a readable text file: {error}") from error
    try:
        documents = [each for each in yaml.load_all(text, files.Loader) if each is not None]
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path}: must be YAML: {error}") from error
    if not documents:
        raise InvalidSpec(f"{path}: must hold a {files.KIND}, is empty")
    return documents


def _validate(document: Any, source: str) -> None:
    if not isinstance(document, dict):
        raise InvalidSpec(f"{source}: must be a YAML mapping, is {type(document).__name__}")
    if faults := files._envelope(document):
        raise InvalidSpec(f"{source}: " + "\n".join(faults))
    files.parse_workload(config.workload_of(document["spec"]), at="spec", source=source)


def _refuse_twice(path: str, documents: list[dict[str, Any]]) -> None:
    seen = set()
    for document in documents:
        key = document["metadata"].get("namespace"), document["metadata"]["name"]
        if key in seen:
            raise InvalidSpec(f"{path}: metadata.name: must differ between documents, {key[1]} stands twice")
        seen.add(key)
