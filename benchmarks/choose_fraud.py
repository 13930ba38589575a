"""How the shipped fraud configurations were chosen: features × models, judged on weeks before the test weeks of protocol B.

Four folds as protocol B's; the latest of them tests on 2018-08-01 to 08-07, and protocol B from 2018-08-08: no row of its
test weeks has a part in the choice. The shipped configuration is the one of highest average precision; the fast preset that
of highest average precision among those whose fit and scoring take at most a tenth of the CPU seconds of scikit-learn's
default forest on the fifteen published features. Usage: python benchmarks/choose_fraud.py
"""

from __future__ import annotations

import time
from datetime import date, timedelta
from typing import Any

from harness import machine, write
from prequential import divided, judge, rounded, workload

from m3_trainer.config import Workload

FIRST_TEST_DAY = date(2018, 8, 8)
"""Of protocol B: nothing from here on is looked at."""
TRAINING = {
    "split": {
        "trainStart": "2018-07-18",
        "trainDays": 7,
        "delayDays": 7,
        "testDays": 7,
        "excludeKnown": "CUSTOMER_ID",
    },
    "folds": {"count": 4, "stepDays": 7},
}
CARD = {"key": "CUSTOMER_ID", "of": "TX_AMOUNT"}
TERMINAL = {"key": "TERMINAL_ID", "of": "TX_FRAUD", "delayDays": 7}
DAYS, MORE_DAYS = [1, 7, 30], [1, 3, 7, 14, 21, 30]
BEFORE = CARD | {"ownRow": False, "statistics": ["mean", "max", "ratio"]}
FEATURES = {
    "published": [CARD | {"days": DAYS}, TERMINAL | {"days": DAYS}],
    "ratios": [
        CARD | {"days": DAYS, "statistics": ["count", "mean", "ratio"]},
        BEFORE,
        TERMINAL | {"days": DAYS, "statistics": ["count", "sum", "risk"]},
    ],
    "ratios, maxima and more days": [
        CARD | {"days": DAYS, "statistics": ["count", "mean", "max", "ratio"]},
        BEFORE,
        TERMINAL | {"days": MORE_DAYS, "statistics": ["count", "sum", "risk"]},
    ],
}
FOREST = {"n_estimators": 100}
BOOSTED = {"tree_method": "hist", "colsample_bytree": 0.5, "subsample": 0.7, "min_child_weight": 5}
MODELS = {
    "random_forest": [FOREST, FOREST | {"min_samples_leaf": 3}],
    "lightgbm": [{"n_estimators": 100, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 100}],
    "xgboost": [
        BOOSTED | {"n_estimators": 100, "learning_rate": 0.1, "max_depth": 3},
        BOOSTED | {"n_estimators": 100, "learning_rate": 0.1, "max_depth": 3, "max_bin": 1024},
        BOOSTED | {"n_estimators": 300, "learning_rate": 0.05, "max_depth": 4, "max_bin": 1024},
    ],
}
LIKE = ("published", "random_forest", FOREST)
"""scikit-learn's default forest on the published features."""
SHARE_OF_FAST = 0.1


def candidate(features: str, model: str, hyperparameters: dict[str, Any]) -> Workload:
    return workload(
        "fraud",
        features={"windows": FEATURES[features]},
        model={"type": model, "hyperparameters": hyperparameters},
        training=TRAINING,
    )


def looked_at(asked: Workload) -> date:
    """The day after the last that has a part in the choice."""
    split = asked.training.split
    assert split is not None
    return split.train_start + timedelta(days=split.train_days + split.delay_days + split.test_days)


def tried(features: str, model: str, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    asked = candidate(features, model, hyperparameters)
    assert looked_at(asked) <= FIRST_TEST_DAY
    found = judge(asked, divided(asked), seed=0)
    what = {"features": features, "model": model, "hyperparameters": hyperparameters}
    return what | rounded(found.means) | {"cpu_seconds": round(found.cpu_seconds, 2)}


def ships(sample: str, chosen: dict[str, Any]) -> bool:
    """Whether a sample file is what was chosen."""
    asked = workload(sample)
    best = candidate(chosen["features"], chosen["model"], chosen["hyperparameters"])
    return (asked.features, asked.model) == (best.features, best.model)


def main() -> None:
    start = {"command": "make choose-fraud", "date": time.strftime("%Y-%m-%d")} | machine()
    names = [(features, model, each) for features in FEATURES for model in MODELS for each in MODELS[model]]
    rows = [tried(*name) for name in names]
    like = rows[names.index(LIKE)]
    quick = [row for row in rows if row["cpu_seconds"] <= SHARE_OF_FAST * like["cpu_seconds"]]
    fraud, fast = (max(some, key=lambda row: row["average_precision"]) for some in (rows, quick))
    found = {
        "validation": {"folds": TRAINING, "first_test_day": str(FIRST_TEST_DAY)},
        "fraud": fraud | {"shipped": ships("fraud", fraud)},
        "fast": fast | {"shipped": ships("fraud-fast", fast)},
        "rows": rows,
    }
    write("fraud-choice", start | found)


if __name__ == "__main__":
    main()
