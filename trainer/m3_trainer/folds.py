"""The same training on other divisions of the rows: how far its metrics depend on which rows it was tested on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from m3_trainer import evaluate
from m3_trainer.config import Evaluation
from m3_trainer.errors import DataError
from m3_trainer.evaluate import Scored

WHOLE_DAYS = "card_precision_at_k"
"""Folds drawn at random hold a part of each day's cards, so the metric that counts cards a day means nothing there."""


COUNTS = ("train_rows", "train_positives", "test_rows", "test_positives")


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and rows to judge by; `day` and `card` belong to the latter."""

    name: str
    train: pd.DataFrame
    train_target: pd.Series
    test: pd.DataFrame
    test_target: pd.Series
    day: np.ndarray | None = None
    card: np.ndarray | None = None

    def counts(self) -> dict[str, int]:
        figures = len(self.train), self.train_target.sum(), len(self.test), self.test_target.sum()
        return {name: int(figure) for name, figure in zip(COUNTS, figures, strict=True)}

    def scored(self, score: np.ndarray) -> Scored:
        return Scored(self.test_target.to_numpy(), score, self.day, self.card)


@dataclass(frozen=True)
class Judged:
    """A fold and how the training did on it; times in milliseconds since 1970."""

    number: int
    name: str
    counts: dict[str, int]
    metrics: dict[str, float]
    start: int
    end: int

    def row(self) -> dict[str, Any]:
        """For the report's table."""
        return {"fold": f"{self.number}: {self.name}"} | self.counts | self.metrics


def shuffled(features: pd.DataFrame, target: pd.Series, count: int, seed: int) -> Iterator[Fold]:
    """The training rows in `count` parts of equal share of the classes, each of them the test once. Raises `DataError`."""
    from sklearn.model_selection import StratifiedKFold

    if target.value_counts().min() < count:
        raise DataError(f"training.cvFolds: each class must have at least {count} training rows, one per fold")
    divide = StratifiedKFold(count, shuffle=True, random_state=seed)
    for number, (train, test) in enumerate(divide.split(features, target), start=1):
        name = f"part {number} of {count}"
        yield Fold(name, features.iloc[train], target.iloc[train], features.iloc[test], target.iloc[test])


def judge(fit: Callable[[Fold], np.ndarray], evaluation: Evaluation, numbered: tuple[int, Fold]) -> Judged:
    """`fit` learns from the fold's rows and gives the scores of its test rows."""
    (number, fold), start = numbered, _now()
    scored = fold.scored(fit(fold))
    asked = [name for name in evaluation.metrics if name != WHOLE_DAYS or fold.card is not None]
    metrics = evaluate.measure(scored, evaluation.model_copy(update={"metrics": tuple(asked)}))
    return Judged(number, fold.name, fold.counts(), metrics, start, _now())


def _now() -> int:
    return int(time.time() * 1000)


def summary(folds: Iterable[Judged]) -> dict[str, float]:
    """`cv_METRIC_mean` and `cv_METRIC_std` over the folds."""
    table = pd.DataFrame([fold.metrics for fold in folds])
    means, deviations = table.mean(), table.std(ddof=0)
    return {
        f"cv_{name}_{word}": float(figures[name])
        for name in table
        for word, figures in (("mean", means), ("std", deviations))
    }
