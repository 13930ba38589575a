"""`m3 run` of the sample against the same training as a bare scikit-learn script: what tracking and registering cost.

Whole processes, in turn, in one run: interpreter start, imports, rows, fit, metrics; with `m3 run` also the MLflow database
(made anew each time), the run, the model and its version. Usage: python benchmarks/overhead.py [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from typing import Any

from harness import ROOT, SAMPLE, machine, timed, write

BARE = ROOT / "benchmarks/bare_sklearn.py"
GOAL_SECONDS = 5.0


def ours(home: str) -> dict[str, Any]:
    return timed([sys.executable, "-m", "m3_trainer", "-q", "run", "-f", str(SAMPLE), "-o", "json", "--home", home])


def bare() -> dict[str, Any]:
    return timed([sys.executable, str(BARE)])


def pair() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        return {"m3": ours(home), "bare": bare()}


def figures(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the pairs; `ratio` is ours ÷ theirs in wall time of the whole process."""
    wall = {side: [one[side]["wall_seconds"] for one in pairs] for side in ("m3", "bare")}
    fit = {side: [one[side]["output"]["seconds"]["fit"] for one in pairs] for side in ("m3", "bare")}
    first = pairs[0]
    shared = first["bare"]["output"]["metrics"]
    return {
        "overhead_seconds": round(statistics.median(a - b for a, b in zip(wall["m3"], wall["bare"], strict=True)), 3),
        "goal_seconds": GOAL_SECONDS,
        "ratio": round(statistics.median(wall["m3"]) / statistics.median(wall["bare"]), 3),
        "fit_ratio": round(statistics.median(fit["m3"]) / statistics.median(fit["bare"]), 3),
        "same_metrics": all(first["m3"]["output"]["metrics"][name] == value for name, value in shared.items()),
        "wall_seconds": wall,
        "fit_seconds": fit,
        "steps_of_m3_seconds": first["m3"]["output"]["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="pairs, after one that warms the disk's cache")
    runs = parser.parse_args().runs
    pair()
    found = figures([pair() for _ in range(runs)])
    write(
        "overhead",
        {"command": f"make bench-overhead (--runs {runs})", "date": time.strftime("%Y-%m-%d")} | machine() | found,
    )


if __name__ == "__main__":
    main()
