"""From rows to figures: medians, ratios, bars. Pure, and so testable without a cluster."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]

PARTS = ("throughput", "start_and_rest", "restart", "scale", "recovery", "apply_to_complete", "warm_cluster")
MEDIANS = (
    "seconds", "apply_seconds", "server_cpu_seconds", "cpu_seconds", "rss_mb", "peak_rss_mb", "requests_per_object",
    "events_per_object",
)  # fmt: skip
FLAT = 1.5
"""The dearest job of a run of 100 to 10,000, against the cheapest: what is still called flat."""


def median(values: Iterable[float]) -> float:
    """To three digits behind the point. Raises StatisticsError where there is no value."""
    return round(statistics.median(values), 3)


def by_operator(rows: list[Object]) -> dict[str, Object]:
    """The medians of each operator's rounds."""
    names = dict.fromkeys(row["operator"] for row in rows)
    return {name: _medians([row for row in rows if row["operator"] == name]) for name in names}


def _medians(rows: list[Object]) -> Object:
    return {"rounds": len(rows)} | {field: median(row[field] for row in rows) for field in MEDIANS}


def ratios(summary: dict[str, Object]) -> Object:
    """Ours ÷ theirs in time, lower is better."""
    ours = summary["m3"]["seconds"]

    def over(name: str) -> float:
        return round(ours / summary[name]["seconds"], 3)

    return {
        "ratio": over("trainer"),
        "ratio_defaults": over("trainer_defaults"),
        "ratio_kopf_synchronous": over("kopf_synchronous"),
    }


def paired(pairs: list[Object], ours: str, theirs: str) -> Object:
    """Medians of both sides, of the pairs' ratios and of their differences."""
    return {
        ours: median(pair[ours] for pair in pairs),
        theirs: median(pair[theirs] for pair in pairs),
        "ratio": median(pair[ours] / pair[theirs] for pair in pairs),
        "difference_seconds": median(pair[ours] - pair[theirs] for pair in pairs),
    }


def flatness(rows: list[Object], field: str) -> float:
    """The dearest ÷ the cheapest over the sizes; 1 is flat."""
    costs = [row[field] for row in rows]
    return round(max(costs) / min(costs), 3)


def bar(name: str, value: float, at_most: float) -> Object:
    return {"name": name, "value": value, "at_most": at_most, "met": value <= at_most}


def bars(parts: dict[str, Any]) -> list[Object]:
    """Every promise that has been measured, and whether it is kept."""
    found: list[Object] = []
    for name in PARTS:
        if name in parts:
            found += _BARS[name](parts[name])
    return found


def _throughput_bars(part: Object) -> list[Object]:
    return [bar("time to 1,000 children, ours ÷ Trainer's with equal limits", part["ratio"], 0.8)]


def _start_and_rest_bars(part: Object) -> list[Object]:
    start, rest = part["start"], part["rest_running"]
    ticks = max(1, rest["ticks"])
    return [
        bar("API requests per job until it runs, Events apart", start["requests_per_job"], 3),
        bar("lists of the unsettled children per tick", rest["requests"].get("list rayjobs", 0) / ticks, 1),
        bar("MLflow searches per tick", round(rest["mlflow_searches"] / ticks, 2), 1),
        bar("writes at rest", rest["writes"], 0),
    ]


def _restart_bars(part: Object) -> list[Object]:
    settled, empty = part["settled"], part["empty"]
    more = settled["rest"]["kubernetes_calls_per_tick"] - empty["rest"]["kubernetes_calls_per_tick"]
    return [
        bar("calls of a restart with 10,000 settled jobs", settled["calls"], 10),
        bar("writes of a restart with 10,000 settled jobs", settled["writes"], 0),
        bar("CPU seconds of a restart with 10,000 settled jobs", settled["cpu_seconds"], 5),
        bar("kB of memory per settled job", part["rss_kb_per_job"], 20),
        bar("calls per tick that 10,000 settled jobs add", round(more, 2), 0),
    ]


def _scale_bars(rows: list[Object]) -> list[Object]:
    return [bar("CPU per job from 100 to 10,000, dearest ÷ cheapest", flatness(rows, "cpu_ms_per_job"), FLAT)]


def _recovery_bars(part: Object) -> list[Object]:
    return [bar("seconds from a SIGKILL to the next correct action", part["first_action_seconds"], 5)]


def _apply_to_complete_bars(part: Object) -> list[Object]:
    return [bar("apply to Complete, ours ÷ a plain RayJob's", part["ratio"], 0.6)]


def _warm_cluster_bars(part: Object) -> list[Object]:
    return [bar("seconds above `m3 run` on a warm cluster", part["difference_seconds"], 6)]


_BARS = {
    "throughput": _throughput_bars,
    "start_and_rest": _start_and_rest_bars,
    "restart": _restart_bars,
    "scale": _scale_bars,
    "recovery": _recovery_bars,
    "apply_to_complete": _apply_to_complete_bars,
    "warm_cluster": _warm_cluster_bars,
}


def throughput(rows: list[Object]) -> Object:
    summary = by_operator(rows)
    return ratios(summary) | {"median": summary, "rounds": rows}


def recovery(rounds: list[Object]) -> Object:
    return {
        "first_action_seconds": median(turn["first_action_seconds"] for turn in rounds),
        "slowest_first_action_seconds": max(turn["first_action_seconds"] for turn in rounds),
        "one_child_per_job": all(turn["one_child_per_job"] for turn in rounds),
        "rounds": rounds,
    }


def assemble(head: Object, parts: dict[str, Any]) -> Object:
    """The result file: first what it is about, then the figures that were asked for, then all of them."""
    known = parts.get("throughput", {})
    return (
        head
        | {"ratio": known.get("ratio"), "ratio_defaults": known.get("ratio_defaults"), "bars": bars(parts)}
        | {name: parts[name] for name in PARTS if name in parts}
    )
