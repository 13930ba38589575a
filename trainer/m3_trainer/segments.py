"""The metrics by part of the rows: how good a model is for whom."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from m3_trainer import evaluate, intervals
from m3_trainer.config import Evaluation
from m3_trainer.data.frame import as_name
from m3_trainer.evaluate import Scored
from m3_trainer.intervals import Interval

MAX_VALUES = 10
"""The most frequent values are segments of their own, all others together one more."""
BINS = 5
OTHERS, MISSING = "(other values)", "(missing)"
MAX_METRIC_NAME = 250


@dataclass(frozen=True)
class Segment:
    """The test rows with one value of one column. `metrics` is empty where the rows are all of one class."""

    column: str
    value: str
    rows: int
    positives: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]

    def document(self) -> dict[str, Any]:
        return asdict(self)


def of(columns: pd.DataFrame, rows: Scored, evaluation: Evaluation, seed: int) -> list[Segment]:
    """The segments of each column, in the order of their values; `columns` are those of the test rows."""
    found = []
    for name in columns:
        names, place = labels(columns[name])
        found += [
            _measured(str(name), value, rows.at(place == number), evaluation, seed)
            for number, value in enumerate(names)
        ]
    return found


def _measured(column: str, value: str, rows: Scored, evaluation: Evaluation, seed: int) -> Segment:
    positives = int(rows.target.sum())
    if positives in (0, len(rows.target)):
        return Segment(column, value, len(rows.target), positives, {}, {})
    metrics = evaluate.measure(rows, evaluation)
    bounds = intervals.of(rows, evaluation, metrics, seed)
    return Segment(column, value, len(rows.target), positives, metrics, bounds)


def labels(column: pd.Series) -> tuple[list[str], np.ndarray]:
    """Names of the segments, and for each row the place of its own among them.

    Numbers and times with more than ten values are cut into five bins of equally many rows.
    """
    is_ordered = pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column)
    if is_ordered and not pd.api.types.is_bool_dtype(column) and column.nunique() > MAX_VALUES:
        named = _binned(column)
    else:
        named = _named(column)
    place, names = named.cat.codes.to_numpy(), [str(name) for name in named.cat.categories]
    if (place < 0).any():
        place = np.where(place < 0, len(names), place)
        names.append(MISSING)
    present = np.flatnonzero(np.bincount(place, minlength=len(names)))
    return [names[number] for number in present], np.searchsorted(present, place)


def _binned(column: pd.Series) -> pd.Series:
    bins = pd.qcut(column, BINS, duplicates="drop")
    edges = enumerate(bins.cat.categories, start=1)
    # the number first: MLflow sorts by name, and 10 to 20 would come before 5 to 10
    return bins.cat.rename_categories(
        [f"q{number} {_shown(each.left)} to {_shown(each.right)}" for number, each in edges]
    )


def _shown(edge: Any) -> str:
    return str(edge)[:19] if isinstance(edge, pd.Timestamp) else f"{edge:.4g}"


def _named(column: pd.Series) -> pd.Series:
    text = column.astype("object").map(as_name, na_action="ignore")
    counts = text.value_counts()
    common = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:MAX_VALUES])
    others = [OTHERS] if len(counts) > len(common) else []
    known = text.where(text.isna() | text.isin(common), OTHERS) if others else text
    return pd.Series(pd.Categorical(known, categories=[*common, *others]), index=column.index)


def as_metrics(segments: Iterable[Segment]) -> dict[str, float]:
    """`segments/COLUMN/VALUE/METRIC`: MLflow makes a group of each prefix. Without intervals, which the table has."""
    found: dict[str, float] = {}
    for segment in segments:
        figures = {"rows": segment.rows, "positives": segment.positives} | segment.metrics
        for metric, figure in figures.items():
            found[_unused(f"segments/{_part(segment.column)}/{_part(segment.value)}", metric, found)] = float(figure)
    return found


def _part(text: str) -> str:
    """What MLflow takes in the name of a metric, and what makes no path of it."""
    return re.sub(r"[^\w. -]", "_", text)[:80].strip(" .") or "_"


def _unused(prefix: str, metric: str, taken: dict[str, float]) -> str:
    """Two values may differ only in what a name cannot hold."""
    name, number = f"{prefix}/{metric}", 2
    while name in taken:
        name, number = f"{prefix} {number}/{metric}", number + 1
    return name[:MAX_METRIC_NAME]
