"""Which rows are learnt from and which judge: at random, by time, or by periods of days with a delay for labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import pandas as pd

from m3_trainer.config import Split, Training, Workload
from m3_trainer.errors import DataError

DEFAULT_TEST_SIZE = 0.2
DEFAULT_VALIDATION_SIZE = 0.2
DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Parts:
    """Positions of the training, test and validation rows in the frame, each in the order that the model sees them."""

    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray = field(default_factory=lambda: np.array([], dtype=int))
    """Cut from the training rows where something is chosen on them; else empty."""


def split(workload: Workload, frame: pd.DataFrame, target: pd.Series, times: pd.Series | None) -> Parts:
    """Divide the rows as `training` says. Raises `DataError` where a part would be empty or of one class only."""
    training = workload.training
    known = frame[training.split.exclude_known] if training.split and training.split.exclude_known else None
    if training.split is not None:
        assert times is not None  # a rule of the schema
        parts = by_periods(training.split, times, target, known)
    elif times is not None:
        parts = by_time(times, test_size(training))
    else:
        parts = at_random(target, test_size(training), workload.model.random_state)
    _check("training", parts.train, target)
    _check("test", parts.test, target)
    return _with_validation(workload, parts, target, times, known) if validates(workload) else parts


def validates(workload: Workload) -> bool:
    """Whether some of the training rows are kept to validate on."""
    training = workload.training
    wanted = training.validation_size or (training.split and training.split.validation_days)
    return bool(wanted) or workload.needs_validation


def _with_validation(
    workload: Workload, parts: Parts, target: pd.Series, times: pd.Series | None, known: pd.Series | None
) -> Parts:
    """The end of the training rows, or, where they have no times, rows drawn from them with equal share of the classes."""
    training = workload.training
    size = training.validation_size or DEFAULT_VALIDATION_SIZE
    if training.split is not None:
        assert times is not None  # a rule of the schema
        inner = by_periods(_inner(training.split), times, target, known)
        train, validation = inner.train, inner.test
    elif times is not None:
        border = len(parts.train) - round(len(parts.train) * size)
        train, validation = parts.train[:border], parts.train[border:]
    else:
        inner = at_random(target.iloc[parts.train], size, workload.model.random_state, "validationSize")
        train, validation = parts.train[inner.train], parts.train[inner.test]
    _check("training", train, target)
    _check("validation", validation, target)
    return Parts(train, parts.test, validation)


def _inner(split: Split) -> Split:
    """The same protocol inside the training period: its last days are the test, with the same delay before them."""
    assert split.validation_days is not None  # a rule of the schema
    days = split.train_days - split.delay_days - split.validation_days
    return split.model_copy(update={"train_days": days, "test_days": split.validation_days})


def folds(
    workload: Workload, frame: pd.DataFrame, target: pd.Series, times: pd.Series | None
) -> list[tuple[Split, Parts]]:
    """The split itself and those before it, `training.folds` in number, the latest first; none where the file asks for none.

    Raises `DataError` where a part of one would be empty or of one class only.
    """
    asked, split = workload.training.folds, workload.training.split
    if asked is None or split is None:
        return []
    assert times is not None  # a rule of the schema
    known = frame[split.exclude_known] if split.exclude_known else None
    starts = [split.train_start - timedelta(days=number * asked.step_days) for number in range(asked.count)]
    moved = [split.model_copy(update={"train_start": start}) for start in starts]
    found = [(each, by_periods(each, times, target, known)) for each in moved]
    for each, parts in found:
        fold = f" of the fold that starts on {each.train_start}"
        _check("training", parts.train, target, fold)
        _check("test", parts.test, target, fold)
    return found


def test_size(training: Training) -> float:
    """Share of the rows to test on."""
    return training.test_size if training.test_size is not None else DEFAULT_TEST_SIZE


def at_random(target: pd.Series, test_size: float, seed: int, said_as: str = "testSize") -> Parts:
    """Drawn at random, with equal share of the classes in both parts."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(target))
    if target.value_counts().min() < 2:
        raise DataError("data.target: each class must have at least 2 rows, one for training and one for the test")
    try:
        train, test = train_test_split(rows, test_size=test_size, random_state=seed, stratify=target)
    except ValueError as error:
        raise DataError(f"training.{said_as}: both parts must get rows of both classes: {error}") from error
    return Parts(train, test)


def by_time(times: pd.Series, test_size: float) -> Parts:
    """The latest rows are the test; rows of one instant stay in the data's order."""
    order = np.argsort(times.to_numpy(), kind="stable")
    border = len(order) - round(len(order) * test_size)
    return Parts(order[:border], order[border:])


def by_periods(split: Split, times: pd.Series, target: pd.Series, card: pd.Series | None) -> Parts:
    """Train on `trainDays`, wait `delayDays`, test on `testDays`; drop cards from the test whose fraud is known by then.

    The protocol is that of the Fraud Detection Handbook, chapter 3: on the d-th test day a card is known when it has a fraud
    in the training rows or on any later day up to the one `delayDays` + 1 days before.
    """
    day = (times.to_numpy().astype("datetime64[D]") - np.datetime64(split.train_start)) // DAY
    first_test = split.train_days + split.delay_days
    train = np.flatnonzero((day >= 0) & (day < split.train_days))
    test = np.flatnonzero((day >= first_test) & (day < first_test + split.test_days))
    if card is not None and len(test):
        test = test[~_known(split, day, target.to_numpy(), card.to_numpy(), test)]
    return Parts(train, test)


def _known(split: Split, day: np.ndarray, target: np.ndarray, card: np.ndarray, test: np.ndarray) -> np.ndarray:
    """For each test row, whether its card's first known fraud came early enough."""
    frauds = np.flatnonzero((target == 1) & (day >= 0))
    first_fraud = pd.Series(day[frauds], index=card[frauds]).groupby(level=0).min()
    first = pd.Series(card[test]).map(first_fraud).to_numpy(dtype=float, na_value=np.inf)
    return (first < split.train_days) | (first <= day[test] - split.delay_days - 1)


def _check(part: str, rows: np.ndarray, target: pd.Series, fold: str = "") -> None:
    positives = int(target.to_numpy()[rows].sum())
    if len(rows) == 0:
        raise DataError(
            f"training: the {part} part{fold} must hold rows, holds none; check the dates of `training.split`"
        )
    if positives in (0, len(rows)):
        raise DataError(
            f"training: the {part} part{fold} must hold rows of both classes; "
            f"{positives:,} of its {len(rows):,} rows are positive"
        )
