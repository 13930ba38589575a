"""What a person reads on the terminal."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m3_trainer.train import Result

SAMPLE_AMOUNT = 250


def result(found: Result, file: str | None) -> str:
    """Metrics, the model's version and the three next commands."""
    rows = found.rows
    lines = [
        "",
        f"trained on {rows['train_rows']:,} rows, tested on {rows['test_rows']:,} ({rows['test_positives']:,} positive)",
        *(f"  {name:<28} {value:.4f}{interval(found, name)}" for name, value in found.metrics.items()),
        "",
        f"registered {found.model['name']} version {found.model['version']} ({found.model['uri']})",
        *promotion(found),
        *([f"  its files are in {found.model['path']}"] if "path" in found.model else []),
        "",
        "next:",
        *(f"  {what:<28} {command}" for what, command in next_commands(found, file).items()),
    ]
    return "\n".join(lines)


def interval(found: Result, metric: str) -> str:
    """By how much the chance of which rows were tested may have moved a metric."""
    bounds = found.intervals.get(metric)
    return f"  ({bounds.low:.4f} to {bounds.high:.4f})" if bounds else ""


def promotion(found: Result) -> list[str]:
    """Which way the alias went, where the file asks for a promotion."""
    if found.promotion is None:
        return []
    told = found.promotion
    verdict = "has got" if told["decision"] == "Promoted" else "has not got"
    return [f"  it {verdict} the alias {told['alias']} ({told['reason']}): {told['message']}"]


def next_commands(found: Result, file: str | None) -> dict[str, str]:
    """Look, score, scale: each can be pasted as it stands."""
    m3 = _command()
    row = dict.fromkeys(found.features, 0) | {found.features[0]: SAMPLE_AMOUNT}
    allow = f" --allow-module {found.model['module']}" if "module" in found.model else ""
    look = f"open {found.run['url']}" if found.run["url"] else f"{m3} ui"
    commands = {
        "look at it in MLflow": look,
        "score a transaction": f"{m3} predict {found.model['uri']} --features {shlex.quote(json.dumps(row))}{allow}",
    }
    return commands | ({"run it on a cluster": f"make cluster-up && kubectl apply -f {file}"} if file else {})


def _command() -> str:
    """`m3` as it was called: a path that works from here, where it is not on PATH."""
    called = sys.argv[0]
    return called if called.endswith("m3") else "m3"


def scores(model: str, probabilities: list[float]) -> str:
    return "\n".join(f"{model}  probability {value:.4f}" for value in probabilities)
