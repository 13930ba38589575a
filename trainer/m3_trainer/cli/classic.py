"""`m3 train`: a workload from flags, the environment and a file in the classic form, completed by the data's own columns."""

from __future__ import annotations

import logging
from typing import Any

from m3_trainer.errors import DataError, InvalidSpec

log = logging.getLogger("m3_trainer")

KNOWN_TARGETS = ("TX_FRAUD", "is_fraud", "isFraud", "Class", "fraud", "label", "target")
# The Fraud Detection Handbook's columns that would leak the answer or only name a row.
NEVER_FEATURES = (
    "TRANSACTION_ID",
    "CUSTOMER_ID",
    "TERMINAL_ID",
    "TX_TIME_SECONDS",
    "TX_TIME_DAYS",
    "TX_FRAUD_SCENARIO",
)


def document(config: str | None, flags: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """The workload's document: the file's, with what the flags say instead. Raises `InvalidSpec`, `DataError`."""
    from m3_trainer import files

    asked = files.read_config(config) if config else {}
    if asked.pop("tuning", None) is not None:
        log.info("%s: `tuning` is for m3 tune; m3 train leaves it out", config)
    for path, value in flags.items():
        if value is not None:
            _set(asked, path, value)
    return _completed(asked)


def _set(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        inner = document.get(part)
        if not isinstance(inner, dict | None):
            raise InvalidSpec(f"{part}: must be a mapping in --config, as {{{path[-1]}: {value}}}, is {inner}")
        document[part] = document = dict(inner or {})
    document[path[-1]] = value


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """What the classic command line leaves open, from the names of the columns: target and columns that are no features."""
    data = document.get("data")
    if not isinstance(data, dict) or not data.get("uri"):
        raise InvalidSpec("--data: must be given (or data.uri in --config, or TRAIN_DATA_PATH)")
    if data.get("target") and document.get("features"):
        return document
    from m3_trainer import files
    from m3_trainer.data import sources

    columns = sources.columns(files.parse_workload({"data": {"target": "?"} | data}, source="m3 train").data)
    target = data.get("target") or next((name for name in KNOWN_TARGETS if name in columns), None)
    if target is None:
        raise DataError(f"--target: must name the column to predict; the data has {', '.join(columns[:20])}")
    exclude = [name for name in columns if name in NEVER_FEATURES and name != target]
    return {"features": {"exclude": exclude}} | document | {"data": data | {"target": target}}


def complete_types(incomplete: str) -> list[str]:
    """Types of model that are built in."""
    from m3_trainer.hyperparameters import BUILT_IN

    return [name for name in BUILT_IN if name.startswith(incomplete)]
