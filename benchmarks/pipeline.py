"""Load, features, fit and evaluate on the Handbook's transactions, five months of them: M3 beside pandas and scikit-learn.

Features are of all rows; `--fit week` learns from a week and tests on another, as the Handbook's chapter 3 does, `--fit all` from
the first four fifths of the time and tests on the rest. Each side is a process of its own on one and the same core, and its peak
memory all that it has held, interpreter and libraries too. Ours is the fast preset, histogram trees on 36 features, by M3's own
steps (`prepare`, `fit`, `measure`); the peer, benchmarks/pandas_pipeline.py, is scikit-learn's default forest on the fifteen.
Usage: python benchmarks/pipeline.py [--fit week] [--runs 3]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from typing import Any

from harness import HANDBOOK, ROOT, machine, reading, timed, told, write

GOAL_TIME, GOAL_MEMORY = 1 / 3, 1 / 2
PEER = ROOT / "benchmarks/pandas_pipeline.py"
SAMPLE = "fraud-fast"
WEEK = {"trainStart": "2018-07-25", "trainDays": 7, "delayDays": 7, "testDays": 7}
TRAINING = {"week": {"split": WEEK, "folds": None}, "all": {"split": None, "folds": None, "testSize": 0.2}}


def ours(fit: str) -> dict[str, Any]:
    """What the process of our side prints."""
    from prequential import workload

    from m3_trainer import evaluate, learn, models, train

    asked = workload(SAMPLE, training=TRAINING[fit])
    reached = [reading()]
    prepared = train.prepare(asked)
    reached.append(reading())
    estimator = learn.fit(asked.model, models.build(asked.model), models.Rows(prepared.train, prepared.train_target))
    reached.append(reading())
    metrics = evaluate.measure(prepared.scored_by(estimator), asked.evaluation)
    reached.append(reading())
    return told(metrics, dict(zip(("load and features", "fit", "evaluate"), itertools.pairwise(reached), strict=True)))


def one_core() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="pairs")
    parser.add_argument("--fit", choices=TRAINING, default="week")
    parser.add_argument("--side", choices=("ours",), help="our side alone, printed and not written")
    asked = parser.parse_args()
    if HANDBOOK is None:
        raise SystemExit("the Handbook's transactions must lie at ../shared/data/transactions.parquet")
    one_core()
    if asked.side:
        print(json.dumps(ours(asked.fit)))
        return
    command = f"make bench-pipeline (--fit {asked.fit} --runs {asked.runs}; one core)"
    start = {"command": command, "date": time.strftime("%Y-%m-%d")} | machine()
    sides = {
        "ours": [sys.executable, __file__, "--side", "ours", "--fit", asked.fit],
        "theirs": [sys.executable, str(PEER), str(HANDBOOK), asked.fit],
    }
    pairs = [{side: timed(command) for side, command in sides.items()} for _ in range(asked.runs)]
    write("pipeline", start | figures(pairs))


def figures(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the pairs; a ratio is ours ÷ theirs."""

    def ratio(of: Any) -> float:
        return round(statistics.median(of(pair["ours"]) / of(pair["theirs"]) for pair in pairs), 4)

    metrics = {side: pairs[0][side]["output"]["metrics"] for side in pairs[0]}
    gained = metrics["ours"]["average_precision"] - metrics["theirs"]["average_precision"]
    return {
        "ratio": ratio(lambda side: side["wall_seconds"]),
        "goal_ratio": round(GOAL_TIME, 3),
        "memory_ratio": ratio(lambda side: side["output"]["peak_mib"]),
        "goal_memory_ratio": GOAL_MEMORY,
        "cpu_ratio": ratio(lambda side: side["output"]["cpu_seconds"]),
        "average_precision_gained": round(gained, 5),
        "sample": f"manifests/samples/{SAMPLE}.yaml",
        "pairs": pairs,
    }


if __name__ == "__main__":
    main()
