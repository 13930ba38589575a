"""The Handbook's protocol B (chapter 5: four folds): its best published rows, and the configuration that M3 ships.

Each row is a sample file, some with what the Handbook has selected for its model; five seeds. What the Handbook has and we have
no type of model for is told as published, and not run. Usage: python benchmarks/protocol_b.py [--seeds 5] [--only fraud]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from typing import Any

from harness import machine, write
from prequential import METRICS, divided, judge, summary, workload

from m3_trainer import models

PROTOCOL = {
    "split": {
        "trainStart": "2018-08-15",
        "trainDays": 7,
        "delayDays": 7,
        "testDays": 7,
        "excludeKnown": "CUSTOMER_ID",
    },
    "folds": {"count": 4, "stepDays": 7},
}
GOALS = {"average_precision": 0.710, "card_precision_at_k": 0.306, "roc_auc": 0.876}
OURS = "fraud"


@dataclass(frozen=True)
class Row:
    """`published`: average precision, card precision@100, ROC AUC, where the Handbook has them."""

    sample: str
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    published: tuple[float, float, float] | None = None
    random: bool = True
    """Whether what it learns depends on the seed at all."""

    def seeds(self, ours: int, peers: int) -> range:
        return range(ours if self.published is None else peers if self.random else 1)


EXACT = {"tree_method": "exact", "base_score": 0.5}
"""What was the default of xgboost when the book was written."""
ROWS = {
    "logistic regression": Row("handbook/logistic-regression", {}, (0.623, 0.2975, 0.868), random=False),
    "random forest, depth 20": Row(
        "handbook/random-forest", {"n_estimators": 100, "max_depth": 20}, (0.678, 0.299, 0.870)
    ),
    "xgboost, 100 of depth 3": Row(
        "handbook/xgboost",
        EXACT | {"n_estimators": 100, "learning_rate": 0.3, "max_depth": 3},
        (0.687, 0.303, 0.869),
        random=False,
    ),
    OURS: Row("fraud"),
}
PUBLISHED_ONLY = {"balanced bagging": dict(zip(METRICS, (0.680, 0.305, 0.879), strict=True))}


def measured(row: Row, seeds: range) -> dict[str, Any]:
    replaced: dict[str, Any] = {"training": PROTOCOL}
    if row.hyperparameters:
        replaced["model"] = workload(row.sample).model.dump() | {"hyperparameters": row.hyperparameters}
    asked = workload(row.sample, **replaced)
    folds = divided(asked)
    each = [judge(asked, folds, seed) for seed in seeds]
    told = {"sample": f"manifests/samples/{row.sample}.yaml", "hyperparameters": asked.model.hyperparameters}
    if row.published:
        told["published"] = dict(zip(METRICS, row.published, strict=True))
    return told | {"metrics": summary(each), "seeds": [one.document() for one in each]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=5, help="of the published rows")
    parser.add_argument("--only", choices=ROWS, help="one row, printed and not written")
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(measured(ROWS[asked.only], range(asked.seeds))))
        return
    command = f"make bench-handbook (--seeds {asked.seeds} --peer-seeds {asked.peer_seeds})"
    start = {"command": command, "date": time.strftime("%Y-%m-%d")} | machine()
    rows = {name: measured(row, row.seeds(asked.seeds, asked.peer_seeds)) for name, row in ROWS.items()}
    ours = {name: rows[OURS]["metrics"][name]["mean"] for name in GOALS}
    found = {
        "threads": models.threads(),
        "ours": ours,
        "goals": GOALS,
        "reached": {name: ours[name] >= goal for name, goal in GOALS.items()},
        "rows": rows,
        "published_only": PUBLISHED_ONLY,
    }
    write("handbook", start | found)


if __name__ == "__main__":
    main()
