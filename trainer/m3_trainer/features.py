"""Which columns are features, what is computed beside them, and the matrix that a model sees."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from m3_trainer.config import Workload
from m3_trainer.data import frame as frames
from m3_trainer.data import windows
from m3_trainer.errors import DataError

log = logging.getLogger(__name__)

NIGHT_ENDS = 7
"""The Fraud Detection Handbook's night: hours 0 to 6."""
CALENDAR: dict[str, Callable[[pd.DatetimeIndex], Any]] = {
    "weekend": lambda time: time.day_of_week >= 5,
    "night": lambda time: time.hour < NIGHT_ENDS,
    "hour": lambda time: time.hour,
    "dayOfWeek": lambda time: time.day_of_week,
    "dayOfMonth": lambda time: time.day,
    "month": lambda time: time.month,
}
DAY = np.timedelta64(1, "D")


def choose(workload: Workload, frame: pd.DataFrame) -> list[str]:
    """Names of the features: those whose values are names, the numbers in the order of the data (of the file, with
    `features.include`), then what is computed. Raises `DataError`."""
    declared = workload.features
    categorical, dates = list(declared.categorical or ()), list(declared.dates or ())
    computed = _computed(workload)
    if taken := [name for name in computed if name in frame]:
        raise DataError(f"features: the data must have no column `{taken[0]}`: a computed feature has that name")
    names = list(dict.fromkeys([*categorical, *_numeric_columns(workload, frame), *dates, *computed]))
    if not names:
        raise DataError("features: at least one numeric column must be left as a feature, none is")
    return names


def _computed(workload: Workload) -> list[str]:
    declared, time = workload.features, workload.data.time_column
    parts = [f"{time}_{part}" for part in declared.calendar or ()]
    return [*parts, *windows.declared_by(declared.windows or (), workload.data.target)]


def _numeric_columns(workload: Workload, frame: pd.DataFrame) -> list[str]:
    declared, data, split = workload.features, workload.data, workload.training.split
    otherwise = {*(declared.categorical or ()), *(declared.dates or ())}
    if declared.include is not None:
        return _included([name for name in declared.include if name not in otherwise], frame)
    keys = {window.key for window in declared.windows or ()}
    reserved = {data.target, data.time_column, data.customer_column, split and split.exclude_known, *keys}
    candidates = [str(name) for name in frame if name not in {*reserved, *(declared.exclude or ()), *otherwise}]
    chosen = [name for name in candidates if _is_numeric(frame[name])]
    if left_out := [name for name in candidates if name not in chosen]:
        told = (
            "not numeric, so not used as features: %s; name them in features.categorical or features.dates to use them"
        )
        log.info(told, ", ".join(left_out))
    return chosen


def _included(names: list[str], frame: pd.DataFrame) -> list[str]:
    if wrong := [name for name in names if not _is_numeric(frame[name])]:
        raise DataError(
            f"features.include: `{wrong[0]}` must be numeric, holds {frame[wrong[0]].dtype}; or name it in "
            "features.categorical or features.dates"
        )
    return names


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


class Table:
    """All rows of the data, of which any can be seen as the model sees them.

    Windows look back at rows whichever part they belong to: test rows have the training rows as their past.
    """

    def __init__(self, workload: Workload, frame: pd.DataFrame, times: pd.Series | None, names: Sequence[str]) -> None:
        """`times` of shape (n,), one for each row of `frame`, or None where the file names no time column."""
        declared, target = workload.features, workload.data.target
        self.names = list(names)
        self.categorical = [name for name in declared.categorical or () if name in names]
        self._dates, self._calendar = declared.dates or (), declared.calendar or ()
        self._frame, self._times, self._time_column = frame, times, workload.data.time_column
        self._past = None
        if declared.windows:
            assert times is not None  # a rule of the schema
            self._past = windows.Past(declared.windows, target, frame, times.to_numpy())

    def matrix(self, rows: np.ndarray) -> pd.DataFrame:
        """The features of the rows at these positions: float64, a missing value as NaN, names as texts. Raises `DataError`."""
        computed = self._calendar_of(rows) | (self._past.features(rows) if self._past else {})
        columns = {
            name: computed[name] if name in computed else self._column(name, self._frame[name].iloc[rows], rows)
            for name in self.names
        }
        return pd.DataFrame(columns, index=self._frame.index[rows], copy=False)

    def _calendar_of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        if not self._calendar:
            return {}
        assert self._times is not None  # a rule of the schema
        times = pd.DatetimeIndex(self._times.iloc[rows])
        return {
            f"{self._time_column}_{part}": np.asarray(CALENDAR[part](times), dtype=float) for part in self._calendar
        }

    def _column(self, name: str, column: pd.Series, rows: np.ndarray) -> np.ndarray:
        if name in self.categorical:
            return texts(column)
        if name in self._dates:
            return self._days_since(name, column, rows)
        return frames.finite(column, "features", "set infinite values to missing or exclude it")

    def _days_since(self, name: str, column: pd.Series, rows: np.ndarray) -> np.ndarray:
        dates = frames.as_times(column, f"features.dates: `{name}`").to_numpy()
        if self._times is None:
            return (dates - np.datetime64(0, "s")) / DAY
        return (self._times.iloc[rows].to_numpy() - dates) / DAY


def texts(column: pd.Series) -> np.ndarray:
    """A column of names as texts, of shape (n,), a missing value as NaN."""
    codes, found = pd.factorize(column)
    return np.array([*map(frames.as_name, found), np.nan], dtype=object)[codes]


def of(
    workload: Workload, names: Sequence[str], rows: pd.DataFrame, history: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The features of rows to be scored, as training has seen them: `names` in their order, index of `rows`.

    Windows count the rows of `history` and, as training does, the earlier ones of `rows`. Raises `DataError`.
    """
    both = rows if history is None else pd.concat([history, rows], ignore_index=True)
    if missing := [name for name in _needed(workload, names) if name not in both]:
        raise DataError(f"features: `{missing[0]}` must be given with each row, or with its history")
    table = Table(workload, both, frames.time_of(workload.data, both), names)
    return table.matrix(np.arange(len(both) - len(rows), len(both))).set_axis(rows.index)


def _needed(workload: Workload, names: Sequence[str]) -> list[str]:
    declared = workload.features
    time = [workload.data.time_column] if workload.data.time_column and (declared.windows or declared.calendar) else []
    return [name for name in [*time, *names] if name not in _computed(workload)]
