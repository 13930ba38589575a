"""benchmarks/results/faults.json: what all plans have come to, a row per plan, a row per line."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from harness import RESULTS, machine
from integration.fault_proxy import CUTS
from integration.faults.campaign import Plan
from integration.faults.plans import CUT_HEALS, DROP_HEALS, Row
from integration.faults.workloads import Workload
from integration.faults.world import Object

RESULT = RESULTS / "faults.json"
ROWS = ("rows", "naive_rows")


@dataclass(frozen=True)
class Choice:
    """Which plans are wanted; all, where nothing is said."""

    workloads: frozenset[str]
    kinds: frozenset[str]
    failed: frozenset[tuple[str, str, str]] | None
    workers: int

    @classmethod
    def of(cls, config: pytest.Config) -> Choice:
        option = config.getoption
        return cls(
            frozenset(option("--workload")),
            frozenset(option("--kind")),
            failed_before() if option("--only-failed") else None,
            option("--workers"),
        )

    @property
    def is_all(self) -> bool:
        return not self.workloads and not self.kinds and self.failed is None

    def among(self, workloads: Iterable[Workload]) -> list[Workload]:
        return [workload for workload in workloads if workload.name in (self.workloads or {workload.name})]

    def takes(self, plan: Plan) -> bool:
        workload, fault = plan.workload.name, plan.fault
        if self.failed is not None and (workload, fault.words, str(fault.place)) not in self.failed:
            return False
        return fault.kind in (self.kinds or {fault.kind})


def failed_before() -> frozenset[tuple[str, str, str]]:
    rows = json.loads(RESULT.read_text())["rows"]
    return frozenset((row["workload"], row["fault"], row["place"]) for row in rows if not row["converged"])


def figures(rows: list[Row], naive: list[Row], seconds: float) -> Object:
    converged, naive_converged = (sum(row.converged for row in each) for each in (rows, naive))
    return {
        "plans": len(rows),
        "converged": converged,
        "naive_plans": len(naive),
        "naive_converged": naive_converged,
        "naive_converged_ratio": round(naive_converged / len(naive), 3) if naive else None,
        "seconds": round(seconds),
        "by_workload": _by(rows, lambda row: row.workload),
        "by_fault": _by(rows, lambda row: row.kind),
        "naive_by_fault": _by(naive, lambda row: row.kind),
        "dropped_event_heals_seconds": _longest(rows, ("drop",)) | {"goal": DROP_HEALS},
        "cut_heals_seconds": _longest(rows, CUTS) | {"goal": CUT_HEALS},
        "rows": [row.as_json() for row in rows],
        "naive_rows": [row.as_json() for row in naive],
    }


def _by(rows: list[Row], word: Callable[[Row], str]) -> Object:
    """`converged of plans`, for each word."""
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for row in rows:
        found[word(row)].append(row.converged)
    return {name: f"{sum(each)} of {len(each)}" for name, each in found.items()}


def _longest(rows: list[Row], kinds: tuple[str, ...]) -> Object:
    found = [row.healed_seconds for row in rows if row.kind in kinds and row.healed_seconds is not None]
    return {"longest": max(found, default=None)}


def head() -> Object:
    """To be asked before anything runs: the load is part of it."""
    return {"command": "make test-faults", "date": time.strftime("%Y-%m-%d")} | machine()


def write(begin: Object, found: Object, keep: bool) -> None:
    """On one line, without the rows, last; and into the result file, if it is to be kept."""
    summary = begin | {name: value for name, value in found.items() if name not in ROWS}
    if keep:
        lines = json.dumps(summary, indent=2).removesuffix("\n}")
        tables = (f'  "{name}": [\n{_lines(found[name])}\n  ]' for name in ROWS)
        RESULT.write_text(",\n".join([lines, *tables]) + "\n}\n")
    print(json.dumps(summary))


def _lines(rows: list[Object]) -> str:
    return ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows)
