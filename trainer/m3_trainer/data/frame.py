"""What a frame must be before anything is learnt from it. Every check names the field of the file that asked for it."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from m3_trainer.config import Data, Workload
from m3_trainer.errors import DataError


def needed(workload: Workload):
    """A predicate over column names: with `features.include` exactly the columns that the file names are read."""
    named = {name for name, _ in _named(workload)}
    features = workload.features
    if features.include is not None:
        return named.__contains__
    excluded = set(features.exclude or ()) - named
    return lambda name: name not in excluded


def check_columns(workload: Workload, columns: Iterable[str]) -> None:
    """Every column that the file names must be there. Raises `DataError`."""
    known = list(columns)
    for name, field in _named(workload):
        if name not in known:
            raise DataError(f"{field}: column `{name}` must be in the data{_nearest(name, known)}")


def _named(workload: Workload) -> list[tuple[str, str]]:
    data, split, features = workload.data, workload.training.split, workload.features
    fields = [
        (data.target, "data.target"),
        (data.time_column, "data.timeColumn"),
        (data.customer_column, "data.customerColumn"),
        (split and split.exclude_known, "training.split.excludeKnown"),
        *((name, "features.include") for name in features.include or ()),
        *((name, "features.categorical") for name in features.categorical or ()),
        *((name, "features.dates") for name in features.dates or ()),
        *((name, "features.windows") for window in features.windows or () for name in (window.key, window.of)),
    ]
    segments = [(name, "evaluation.segments") for name in workload.evaluation.segments or ()]
    return [(name, field) for name, field in [*fields, *segments] if name]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return f"; did you mean `{close[0]}`?" if close else f"; it has {shown}"


def target_of(data: Data, frame: pd.DataFrame) -> pd.Series:
    """The target as int8 of 0 and 1, same index. Raises `DataError`."""
    column = frame[data.target]
    if missing := int(column.isna().sum()):
        first = int(np.argmax(column.isna().to_numpy()))
        raise DataError(
            f"data.target: `{data.target}` must have a value in every row; {missing:,} of {len(frame):,} rows have none, "
            f"the first is row {first + 1}"
        )
    values = sorted(column.unique().tolist(), key=str)
    if len(values) == 1:
        raise DataError(f"data.target: `{data.target}` must have both classes, 0 and 1; every row has {values[0]!r}")
    if not set(values) <= {0, 1}:
        raise DataError(f"data.target: `{data.target}` must be 0 or 1 in every row, has {_few(values)}")
    return column.astype("int8")


def _few(values: list[object]) -> str:
    shown = ", ".join(repr(value) for value in values[:5])
    return shown + (f" and {len(values) - 5:,} more values" if len(values) > 5 else "")


def time_of(data: Data, frame: pd.DataFrame) -> pd.Series | None:
    """The time column as datetime64, or None where the file names none. Raises `DataError`."""
    if data.time_column is None:
        return None
    times = as_times(frame[data.time_column], f"data.timeColumn: `{data.time_column}`")
    if times.isna().any():
        raise DataError(f"data.timeColumn: `{data.time_column}` must have a value in every row")
    return times


def as_name(value: Any) -> str:
    """A value as the name that it is, however it was read: 5411 for 5411.0, which it becomes in a column with a gap, and
    2018-04-01 for the midnight that Arrow and databases make of it."""
    match value:
        case float() if value.is_integer():
            return str(int(value))
        case datetime():
            return str(value).removesuffix(" 00:00:00")
        case _:
            return str(value)


def as_times(column: pd.Series, named: str) -> pd.Series:
    """A column as datetime64, in UTC where it has a zone. Raises `DataError`, with the name of its field and its own."""
    if pd.api.types.is_numeric_dtype(column):
        raise DataError(f"{named} must hold dates and times, holds numbers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # that it has to look at each value: for texts that are no dates, too
            times = pd.to_datetime(column, errors="raise", utc=False)
    except (ValueError, TypeError) as error:
        raise DataError(f"{named} must hold dates and times: {str(error).splitlines()[0]}") from error
    return times.dt.tz_convert(None) if times.dt.tz is not None else times


def finite(column: pd.Series, field: str, cure: str) -> np.ndarray:
    """A column of numbers as float64 of shape (n,), a missing value as NaN. Raises `DataError` on an infinite one."""
    values = column.to_numpy(dtype="float64", na_value=np.nan)
    if np.isinf(values).any():
        raise DataError(f"{field}: `{column.name}` must be finite in every row; {cure}")
    return values
