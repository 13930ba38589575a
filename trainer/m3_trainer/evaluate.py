"""How good a model is on rows that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from m3_trainer.config import Evaluation


@dataclass(frozen=True)
class Scored:
    """The test rows: class, probability, and, where the file names them, day and card; all of shape (n,)."""

    target: np.ndarray
    score: np.ndarray
    day: np.ndarray | None = None
    card: np.ndarray | None = None

    def at(self, chosen: np.ndarray) -> Scored:
        """Some of the rows, by a mask or by positions."""
        kept = (part if part is None else part[chosen] for part in (self.target, self.score, self.day, self.card))
        return Scored(*kept)


def measure(rows: Scored, evaluation: Evaluation) -> dict[str, float]:
    """The metrics that the file asks for, in its order."""
    return {name: float(METRICS[name](rows, evaluation)) for name in evaluation.metrics}


def _positive(rows: Scored, evaluation: Evaluation) -> np.ndarray:
    return rows.score >= evaluation.threshold


METRICS: dict[str, Callable[[Scored, Evaluation], Any]] = {
    "average_precision": lambda rows, _: sk.average_precision_score(rows.target, rows.score),
    "roc_auc": lambda rows, _: sk.roc_auc_score(rows.target, rows.score),
    "precision": lambda rows, how: sk.precision_score(rows.target, _positive(rows, how), zero_division=0.0),
    "recall": lambda rows, how: sk.recall_score(rows.target, _positive(rows, how), zero_division=0.0),
    "f1": lambda rows, how: sk.f1_score(rows.target, _positive(rows, how), zero_division=0.0),
    "log_loss": lambda rows, _: sk.log_loss(rows.target, rows.score, labels=[0, 1]),
    "brier_score": lambda rows, _: sk.brier_score_loss(rows.target, rows.score),
    "card_precision_at_k": lambda rows, how: card_precision_at_k(rows, how.top_k),
}


def card_precision_at_k(rows: Scored, k: int) -> float:
    """Share of fraudulent cards among the k cards of highest score, per day, as a mean over the days.

    A card that was found on one day is not looked at again on later days (Fraud Detection Handbook, chapter 4). The
    denominator is always k: a team that can look at k cards looks at fewer only when there are no more. Ties go to the lower
    card number, so that the figure does not depend on the order of rows.
    """
    frame = pd.DataFrame({"day": rows.day, "card": rows.card, "score": rows.score, "fraud": rows.target})
    cards = frame.groupby(["day", "card"], sort=True).max().reset_index()
    found: list[Any] = []
    precisions = []
    for _, today in cards.groupby("day", sort=True):
        looked_at = today[~today["card"].isin(found)].sort_values("score", ascending=False, kind="stable").head(k)
        caught = looked_at.loc[looked_at["fraud"] == 1, "card"]
        precisions.append(len(caught) / k)
        found += caught.tolist()
    return float(np.mean(precisions))
