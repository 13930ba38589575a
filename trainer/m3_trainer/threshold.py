"""The probability from which a row counts as positive, chosen on the validation rows: never on those that judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m3_trainer.config import Cost, ThresholdFor
from m3_trainer.errors import TrainingFailed


@dataclass(frozen=True)
class Candidates:
    """What each threshold would do on the rows, from the strictest on; all of shape (k,)."""

    score: np.ndarray
    """Each distinct score, falling: rows of that score and above count as positive."""
    true_positives: np.ndarray
    false_positives: np.ndarray
    positives: int

    @classmethod
    def of(cls, target: np.ndarray, score: np.ndarray) -> Candidates:
        order = np.argsort(-score, kind="stable")
        last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of each run of equal scores
        hits = np.cumsum(target[order])[last]
        return cls(score[order][last], hits, last + 1 - hits, int(target.sum()))

    @property
    def precision(self) -> np.ndarray:
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        return self.true_positives / self.positives

    def value(self, index: int) -> float:
        """Halfway to the next score below: a row at the score itself stays positive where another library adds up its trees in
        another order, or with 32 bits."""
        below = self.score[index + 1] if index + 1 < len(self.score) else 0.0
        return float((self.score[index] + below) / 2)


@dataclass(frozen=True)
class Threshold:
    """The threshold, and what it did on the validation rows."""

    value: float
    precision: float
    recall: float


def choose(target: np.ndarray, score: np.ndarray, wish: ThresholdFor) -> Threshold:
    """The threshold that does what is wished for on rows with these classes and probabilities, both of shape (n,).

    Raises `TrainingFailed` where no threshold has the precision.
    """
    rows = Candidates.of(target, score)
    if wish.cost:
        return _cheapest(rows, wish.cost)
    if wish.recall:
        index = _best(rows.precision, rows.recall >= wish.recall)
    else:
        assert wish.precision is not None  # a rule of the schema
        index = _best(rows.recall, _reachable(rows, wish.precision))
    return Threshold(rows.value(index), float(rows.precision[index]), float(rows.recall[index]))


def _best(figure: np.ndarray, allowed: np.ndarray) -> int:
    """Where the figure is highest among what is allowed; of equals the strictest."""
    return int(np.argmax(np.where(allowed, figure, -1.0)))


def _reachable(rows: Candidates, precision: float) -> np.ndarray:
    found = rows.precision >= precision
    if not found.any():
        best = _best(rows.precision, np.full(len(found), True))
        raise TrainingFailed(
            f"evaluation.thresholdFor.precision: {precision:g} must be reachable on the validation rows; the highest there is "
            f"{rows.precision[best]:.3f}, with recall {rows.recall[best]:.3f}. Ask for less, or for a recall"
        )
    return found


def _cheapest(rows: Candidates, cost: Cost) -> Threshold:
    """Not to act at all is a choice, too: then only certainty counts."""
    missed = rows.positives - rows.true_positives
    total = rows.false_positives * cost.false_positive + missed * cost.false_negative
    index = int(np.argmin(total))
    if total[index] >= rows.positives * cost.false_negative:
        return Threshold(1.0, 0.0, 0.0)
    return Threshold(rows.value(index), float(rows.precision[index]), float(rows.recall[index]))
