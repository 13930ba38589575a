"""A sample file on the Handbook's transactions, trained and judged on its folds, seed by seed, by M3's own steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from harness import HANDBOOK, ROOT

from m3_trainer import config, evaluate, files, learn, models, train
from m3_trainer.config import Workload
from m3_trainer.folds import Fold

Fit = Callable[[Fold], Any]
Score = Callable[[Any, pd.DataFrame], np.ndarray]
METRICS = ("average_precision", "card_precision_at_k", "roc_auc")


def workload(sample: str, **replaced: dict[str, Any]) -> Workload:
    """The workload of `manifests/samples/SAMPLE.yaml` on the Handbook's file, with parts of it replaced or added to."""
    if HANDBOOK is None:
        raise SystemExit("the Handbook's transactions must lie at ../shared/data/transactions.parquet")
    document = config.workload_of(files.read_document(str(ROOT / f"manifests/samples/{sample}.yaml"))["spec"])
    document["data"] |= {"uri": str(HANDBOOK)}
    parts = {name: document.get(name, {}) | change for name, change in replaced.items()}
    return files.parse_workload(document | parts)


@dataclass(frozen=True)
class Judged:
    """The folds' metrics, the latest first, and what fitting and scoring all of them has cost; CPU seconds are of all threads."""

    seed: int
    folds: list[dict[str, float]]
    fit_seconds: float
    score_seconds: float
    cpu_seconds: float

    @property
    def seconds(self) -> float:
        return self.fit_seconds + self.score_seconds

    @property
    def means(self) -> dict[str, float]:
        return {name: statistics.fmean(fold[name] for fold in self.folds) for name in METRICS}

    def document(self) -> dict[str, Any]:
        seconds = ("fit_seconds", "score_seconds", "cpu_seconds")
        return {
            "seed": self.seed,
            **rounded(self.means),
            "folds": [rounded(fold) for fold in self.folds],
            **{name: round(getattr(self, name), 3) for name in seconds},
        }


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in metrics.items()}


def divided(asked: Workload) -> list[Fold]:
    """The folds of `training.folds`, with their features."""
    return [part() for part in train.prepare(asked).folds]


def judge(asked: Workload, folds: list[Fold], seed: int) -> Judged:
    """Train on each fold with this seed, as `m3 run` does."""
    spec = asked.model.model_copy(update={"random_state": seed})

    def fit(fold: Fold) -> Any:
        return learn.fit(spec, models.build(spec), models.Rows(fold.train, fold.train_target))

    return judge_by(fit, models.probabilities, asked, folds, seed)


def judge_by(fit: Fit, score: Score, asked: Workload, folds: list[Fold], seed: int) -> Judged:
    """`score` gives the probabilities of rows, by what `fit` has made of a fold."""
    found, fit_seconds, score_seconds, cpu = [], 0.0, 0.0, time.process_time()
    for fold in folds:
        start = time.perf_counter()
        estimator = fit(fold)
        fitted = time.perf_counter()
        scored = fold.scored(score(estimator, fold.test))
        fit_seconds, score_seconds = fit_seconds + fitted - start, score_seconds + time.perf_counter() - fitted
        found.append(scored)
    cpu = time.process_time() - cpu
    metrics = [evaluate.measure(scored, asked.evaluation) for scored in found]
    return Judged(seed, metrics, fit_seconds, score_seconds, cpu)


def summary(each: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """Of each metric the mean over the seeds and its spread: standard deviation, least and most."""
    values = {name: [one.means[name] for one in each] for name in METRICS}
    return {
        name: rounded(
            {
                "mean": statistics.fmean(found),
                "std": statistics.pstdev(found),
                "min": min(found),
                "max": max(found),
            }
        )
        for name, found in values.items()
    }
