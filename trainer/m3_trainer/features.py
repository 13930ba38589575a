"""Which columns are features, and the matrix that a model sees."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from m3_trainer.config import Workload
from m3_trainer.errors import DataError

log = logging.getLogger(__name__)


def choose(workload: Workload, frame: pd.DataFrame) -> list[str]:
    """Names of the features, in the order of the data (of the file, with `features.include`). Raises `DataError`."""
    if workload.features.include is not None:
        return _included(workload, frame)
    data, split = workload.data, workload.training.split
    reserved = {data.target, data.time_column, data.customer_column, split and split.exclude_known}
    candidates = [str(name) for name in frame if name not in reserved and name not in (workload.features.exclude or ())]
    chosen = [name for name in candidates if _numeric(frame[name])]
    if left_out := [name for name in candidates if name not in chosen]:
        log.info("not numeric, so not used as features: %s", ", ".join(left_out))
    if not chosen:
        raise DataError("features: at least one numeric column must be left as a feature, none is")
    return chosen


def _included(workload: Workload, frame: pd.DataFrame) -> list[str]:
    names = list(dict.fromkeys(workload.features.include or ()))
    if wrong := [name for name in names if not _numeric(frame[name])]:
        raise DataError(f"features.include: `{wrong[0]}` must be numeric, holds {frame[wrong[0]].dtype}")
    return names


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def matrix(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The features as float64, a missing value as NaN. Raises `DataError` on an infinite one."""
    features = frame[names].astype("float64")
    for name in names:
        if np.isinf(features[name].to_numpy()).any():
            raise DataError(
                f"features: `{name}` must be finite in every row; set infinite values to missing or exclude it"
            )
    return features
