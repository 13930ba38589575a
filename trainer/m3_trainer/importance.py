"""What each feature is worth on the test rows: how much is lost when its values change places.

Breiman (2001), on average precision. Unlike the model's own measure it is taken on rows that the model has not seen, is there
for every type of model, and does not favour features of many values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

MAX_ROWS, FEWEST_ROWS = 5_000, 1_000
REPEATS = 3
MAX_SCORED = 200_000
"""Rows scored in all: with more features the sample is smaller, down to `FEWEST_ROWS`."""
CHUNK_CELLS = 5_000_000


@dataclass(frozen=True)
class Sample:
    """Some of the test rows: all positives, up to half of the sample, and negatives that count for as many as there are."""

    features: pd.DataFrame
    target: np.ndarray
    weight: np.ndarray

    def score(self, scores: np.ndarray) -> float:
        from sklearn.metrics import average_precision_score

        return float(average_precision_score(self.target, scores, sample_weight=self.weight))


@dataclass(frozen=True)
class Importances:
    """By feature, the highest first: average precision lost, mean over the repeats, and its standard deviation."""

    mean: dict[str, float]
    deviation: dict[str, float]
    rows: int
    """How many test rows were looked at."""


def sample(features: pd.DataFrame, target: np.ndarray, rng: np.random.Generator) -> Sample:
    size = max(FEWEST_ROWS, min(MAX_ROWS, MAX_SCORED // (REPEATS * features.shape[1])))
    positive, negative = np.flatnonzero(target == 1), np.flatnonzero(target != 1)
    wanted = max(size // 2, size - len(negative))
    parts = [_drawn(positive, wanted, rng), _drawn(negative, size - min(wanted, len(positive)), rng)]
    weights = [
        np.full(len(part), len(whole) / len(part)) for part, whole in zip(parts, (positive, negative), strict=True)
    ]
    chosen = np.concatenate(parts)
    return Sample(features.iloc[chosen], target[chosen], np.concatenate(weights))


def _drawn(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= size else np.sort(rng.choice(rows, size, replace=False))


def permutation(
    score: Callable[[pd.DataFrame], np.ndarray], features: pd.DataFrame, target: np.ndarray, seed: int
) -> Importances:
    """`score` gives the probability of class 1 of each row. All features are scored together: one call, not one for each."""
    rng = np.random.default_rng(seed)
    taken = sample(features, target, rng)
    whole = taken.score(score(taken.features))
    losses = [[whole - value for value in _shuffled(score, taken, rng)] for _ in range(REPEATS)]
    mean, deviation = np.mean(losses, axis=0), np.std(losses, axis=0)
    order = np.argsort(-mean, kind="stable")
    names = [str(name) for name in features.columns]
    return Importances(
        mean={names[place]: float(mean[place]) for place in order},
        deviation={names[place]: float(deviation[place]) for place in order},
        rows=len(taken.target),
    )


def _shuffled(score: Callable[[pd.DataFrame], np.ndarray], taken: Sample, rng: np.random.Generator) -> Iterator[float]:
    """The score of the sample with each of its features shuffled in turn."""
    rows, width = taken.features.shape
    at_once = max(1, CHUNK_CELLS // (rows * width))
    for start in range(0, width, at_once):
        frames = [_with_shuffled(taken.features, place, rng) for place in range(start, min(width, start + at_once))]
        scores = score(pd.concat(frames, ignore_index=True)).reshape(len(frames), rows)
        yield from map(taken.score, scores)


def _with_shuffled(features: pd.DataFrame, place: int, rng: np.random.Generator) -> pd.DataFrame:
    column = features.iloc[:, place]
    return features.assign(**{str(column.name): column.array[rng.permutation(len(column))]})
