"""The fast preset (manifests/samples/fraud-fast.yaml) beside scikit-learn's default forest on the fifteen published features.

Protocol B of the Handbook, four folds, the two in turn, seed by seed, with the same threads (the forest's own default would be
one). Fit and scoring are timed; what the preset's own features take is told beside them, and what is in the file is free to the
forest. Usage: python benchmarks/fast.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import pandas as pd
from harness import machine, write
from prequential import Judged, divided, judge, judge_by, summary, workload
from protocol_b import PROTOCOL
from sklearn.ensemble import RandomForestClassifier

from m3_trainer import models
from m3_trainer.config import Workload
from m3_trainer.folds import Fold

GOAL_RATIO = 0.1


def forest(asked: Workload, folds: list[Fold], seed: int) -> Judged:
    """As scikit-learn's users write it."""

    def fit(fold: Fold) -> RandomForestClassifier:
        return RandomForestClassifier(random_state=seed, n_jobs=models.threads()).fit(fold.train, fold.train_target)

    def score(estimator: Any, features: pd.DataFrame) -> np.ndarray:
        return estimator.predict_proba(features)[:, 1]

    return judge_by(fit, score, asked, folds, seed)


def side(each: list[Judged]) -> dict[str, Any]:
    return {
        "seconds": round(statistics.median(one.seconds for one in each), 3),
        "metrics": summary(each),
        "seeds": [one.document() for one in each],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    start = {"command": f"make bench-fast (--seeds {seeds})", "date": time.strftime("%Y-%m-%d")} | machine()
    published, preset = workload("handbook/random-forest", training=PROTOCOL), workload("fraud-fast")
    plain = divided(published)
    before = time.perf_counter()
    own = divided(preset)
    features_seconds = time.perf_counter() - before
    pairs = [(judge(preset, own, seed), forest(published, plain, seed)) for seed in range(seeds)]
    ours, theirs = (side([pair[index] for pair in pairs]) for index in (0, 1))
    gains = [one.means["average_precision"] - other.means["average_precision"] for one, other in pairs]
    found = {
        "goal_ratio": GOAL_RATIO,
        "ratio": round(statistics.median(one.seconds / other.seconds for one, other in pairs), 4),
        "average_precision_gained": {"mean": round(statistics.fmean(gains), 4), "least": round(min(gains), 4)},
        "threads": models.threads(),
        "data_and_features_seconds": round(features_seconds, 3),
        "ours": ours,
        "default_forest": theirs,
    }
    write("fast", start | found)


if __name__ == "__main__":
    main()
