"""How far a metric may be off by the chance of which rows were tested: bootstrap intervals.

All metrics are judged on the same replicates, and each of them is a few sums over weighted units: no replicate is ever copied
out of the data, which makes 500 of them cost less than scoring the rows once did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from m3_trainer.config import Evaluation
from m3_trainer.evaluate import Scored

LEVEL = 0.95
REPLICATES, FEWEST_REPLICATES = 500, 100
MAX_WORK = 100_000_000
"""Rows times replicates: beyond 200,000 rows there are fewer replicates, and less for them to find out."""
MAX_UNITS = 4096
CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """The bounds of a metric at `LEVEL`."""

    low: float
    high: float


def of(rows: Scored, evaluation: Evaluation, point: Mapping[str, float], seed: int) -> dict[str, Interval]:
    """A percentile interval for each metric of the file. A replicate that has no rows for a metric is left out.

    Resampled are cards where the file names their column, else rows: the rows of one card go well or badly together, and taken
    for independent they give intervals that are too narrow. Not stratified by class: how many frauds a period has is chance, too.
    The weights are Poisson's of mean 1 (Hanley and MacGibbon 2006), which unlike a multinomial's are drawn in one go. A metric
    that is biased on resampled rows may lie outside of its percentiles; the interval is then widened to hold it.
    """
    rng = np.random.default_rng(seed)
    unit = _units(rows, rng)
    replicates = min(REPLICATES, max(FEWEST_REPLICATES, MAX_WORK // len(unit)))
    weights = rng.poisson(1.0, (int(unit.max()) + 1, replicates)).astype(float)
    return {name: _interval(values, point[name]) for name, values in estimates(rows, evaluation, unit, weights).items()}


def _interval(values: np.ndarray, point: float) -> Interval:
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(min(float(low), point), max(float(high), point))


def as_metrics(intervals: Mapping[str, Interval]) -> dict[str, float]:
    """`average_precision_low` and `average_precision_high`, which MLflow sorts behind `average_precision`."""
    lows = {f"{name}_low": found.low for name, found in intervals.items()}
    return lows | {f"{name}_high": found.high for name, found in intervals.items()}


def from_metrics(metrics: Mapping[str, float]) -> dict[str, Interval]:
    """What `as_metrics` has made of intervals."""
    names = [name for name in metrics if f"{name}_low" in metrics and f"{name}_high" in metrics]
    return {name: Interval(metrics[f"{name}_low"], metrics[f"{name}_high"]) for name in names}


def _units(rows: Scored, rng: np.random.Generator) -> np.ndarray:
    """The unit of each row, 0 to at most `MAX_UNITS` - 1. More cards or rows than that are thrown together at random:
    sums over random blocks vary as much as sums over their members do.
    """
    unit = np.arange(len(rows.target)) if rows.card is None else pd.factorize(rows.card, use_na_sentinel=False)[0]
    count = int(unit.max()) + 1
    return unit if count <= MAX_UNITS else (rng.permutation(count) % MAX_UNITS)[unit]


def estimates(rows: Scored, evaluation: Evaluation, unit: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of the file on each replicate, shape (replicates,); NaN where a replicate has no rows for it.

    `unit` has shape (rows,), `weights` (units, replicates): how often each unit is in each replicate. With weights of 1 the
    estimates are the metrics themselves.
    """
    sample = _Sample(rows, evaluation, unit, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: ESTIMATES[name](sample) for name in evaluation.metrics}


@dataclass(frozen=True)
class _Sample:
    rows: Scored
    evaluation: Evaluation
    unit: np.ndarray
    weights: np.ndarray

    def total(self, values: np.ndarray) -> np.ndarray:
        """The weighted sum of a value per row, shape (replicates,)."""
        return np.bincount(self.unit, values, len(self.weights)) @ self.weights

    @cached_property
    def size(self) -> np.ndarray:
        return self.total(np.ones(len(self.unit)))

    @cached_property
    def positives(self) -> np.ndarray:
        return self.total(self.rows.target)

    @cached_property
    def told(self) -> np.ndarray:
        """Weight of the rows that are called positive."""
        return self.total(self._is_told)

    @cached_property
    def found(self) -> np.ndarray:
        """Weight of the positive rows that are called so."""
        return self.total(self._is_told & (self.rows.target == 1))

    @property
    def _is_told(self) -> np.ndarray:
        return self.rows.score >= self.evaluation.threshold

    @cached_property
    def ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and area under the ROC curve, both from one walk down the scores."""
        matrices = _by_positive_score(self.rows, self.unit, len(self.weights))
        step = max(1, CHUNK_CELLS // (int(self.rows.target.sum()) + 1))
        starts = range(0, self.weights.shape[1], step)
        parts = [_walk(*(each @ self.weights[:, start : start + step] for each in matrices)) for start in starts]
        precision, area = zip(*parts, strict=True)
        return np.concatenate(precision), np.concatenate(area)


def _by_positive_score(rows: Scored, unit: np.ndarray, units: int):
    """Which units have positives, negatives, and negatives in a tie at each score that a positive has; highest score first.

    Three sparse matrices of shape (scores + 1, units). Between two scores of positives the order of negatives changes nothing, so
    each negative counts from the score at or next below it on; the last row holds those that are below all positives.
    """
    from scipy import sparse

    positive = rows.target == 1
    scores = np.unique(rows.score[positive])
    place = len(scores) - np.searchsorted(scores, rows.score, side="right")
    is_tied = ~positive & (place < len(scores)) & np.isin(rows.score, scores)

    def matrix(chosen: np.ndarray):
        cells = (np.ones(int(chosen.sum())), (place[chosen], unit[chosen]))
        return sparse.coo_array(cells, shape=(len(scores) + 1, units)).tocsr()

    return matrix(positive), matrix(~positive), matrix(is_tied)


def _walk(positive: np.ndarray, negative: np.ndarray, tied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From counts of shape (scores + 1, replicates) the two metrics, shape (replicates,), as scikit-learn defines them."""
    true, false = np.cumsum(positive, axis=0), np.cumsum(negative, axis=0)
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
    beaten = false[-1] - false + tied / 2
    return (positive * precision).sum(axis=0) / true[-1], (positive * beaten).sum(axis=0) / (true[-1] * false[-1])


def _card_precision(sample: _Sample) -> np.ndarray:
    """`evaluate.card_precision_at_k` with a card as often in the day's list as it is in the replicate."""
    rows, k = sample.rows, sample.evaluation.top_k
    frame = pd.DataFrame(
        {"day": rows.day, "card": rows.card, "score": rows.score, "fraud": rows.target, "unit": sample.unit}
    )
    cards = frame.groupby(["day", "card"], sort=True).max().reset_index()
    number = pd.factorize(cards["card"])[0]
    found = np.zeros((int(number.max()) + 1, sample.weights.shape[1]), dtype=bool)
    days = [np.flatnonzero(cards["day"] == day) for day in cards["day"].unique()]
    caught = np.zeros(sample.weights.shape[1])
    for before, today in enumerate(days):
        order = today[np.argsort(-cards["score"].to_numpy()[today], kind="stable")]
        # nobody looks further: k cards of mean weight 1, those found on earlier days, and room for chance
        order = order[: (before + 2) * k + 50]
        card, fraud = number[order], cards["fraud"].to_numpy()[order] == 1
        weight = np.where(found[card], 0.0, sample.weights[cards["unit"].to_numpy()[order]])
        looked_at = np.clip(k - (np.cumsum(weight, axis=0) - weight), 0.0, weight)[fraud]
        caught += looked_at.sum(axis=0) / k
        found[card[fraud]] |= looked_at > 0
    return caught / len(days)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """As scikit-learn with `zero_division=0`."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _log_loss(rows: Scored) -> np.ndarray:
    smallest = np.finfo(rows.score.dtype).eps
    score = np.clip(rows.score, smallest, 1 - smallest)
    return -np.log(np.where(rows.target == 1, score, 1 - score))


ESTIMATES: dict[str, Callable[[_Sample], np.ndarray]] = {
    "average_precision": lambda sample: sample.ranked[0],
    "roc_auc": lambda sample: sample.ranked[1],
    "precision": lambda sample: _share(sample.found, sample.told),
    "recall": lambda sample: sample.found / sample.positives,
    "f1": lambda sample: _share(2 * sample.found, sample.told + sample.positives),
    "log_loss": lambda sample: sample.total(_log_loss(sample.rows)) / sample.size,
    "brier_score": lambda sample: sample.total((sample.rows.score - sample.rows.target) ** 2) / sample.size,
    "card_precision_at_k": _card_precision,
}
