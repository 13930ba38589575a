"""Statistics over trailing windows of time, per key: what the customer or the terminal of a row had done before it.

The same function serves training, where all rows are also the history of each other, and scoring, where history is sent along.
Sorted once per key, a window is two places in that order, so no cost depends on how many rows are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from m3_trainer.config import Window
from m3_trainer.data.frame import finite
from m3_trainer.errors import DataError

MICROSECONDS = 1_000_000
"""In a second: the finest times that are told apart."""
DAY = 86_400
"""In seconds."""


def features(
    declared: Sequence[Window], target: str, history: pd.DataFrame | None, rows: pd.DataFrame, time_column: str
) -> pd.DataFrame:
    """The windows' features of `rows`, with their index; a float64 column each, NaN for what is not known.

    A row sees those of its key that are earlier, in `history` and in `rows`; of the same instant those that stand before it.
    `history` and `rows` hold the windows' columns and `time_column` as datetime64. Raises `DataError`.
    """
    both = rows if history is None else pd.concat([history, rows], ignore_index=True)
    past = Past(declared, target, both, both[time_column].to_numpy())
    found = past.features(np.arange(len(both) - len(rows), len(both)))
    return pd.DataFrame(found, index=rows.index, copy=False)


@dataclass(frozen=True)
class Feature:
    """One statistic over one length of a window; two of the same name are the same."""

    window: Window
    days: int | None
    statistic: str

    @property
    def name(self) -> str:
        """As CUSTOMER_ID_count_7d, CUSTOMER_ID_TX_AMOUNT_max_past_before, TERMINAL_ID_TX_FRAUD_risk_7d_delay7d."""
        window = self.window
        length = "past" if self.days is None else f"{self.days}d"
        end = [f"delay{window.delay_days}d"] if window.delay_days else [] if window.own_row else ["before"]
        return "_".join([*self.columns, self.statistic, length, *end])

    @property
    def columns(self) -> list[str]:
        """The columns that it is made of: rows are counted whatever they hold."""
        of = None if self.statistic == "count" else self.window.of
        return [self.window.key, of] if of else [self.window.key]


def declared_by(windows: Sequence[Window], target: str) -> dict[str, Feature]:
    """The features that the windows declare, by name, in the file's order. Raises `DataError` where two of a name differ."""
    found: dict[str, Feature] = {}
    for feature in (each for window in windows for each in _features(window, target)):
        if found.setdefault(feature.name, feature).columns != feature.columns:
            raise DataError(f"features.windows: two different features must not have the same name `{feature.name}`")
    return found


def _features(window: Window, target: str) -> Iterator[Feature]:
    usual = ("count",) if window.of is None else ("count", "risk" if window.of == target else "mean")
    for days in window.days or (None,):
        for statistic in window.statistics or usual:
            yield Feature(window, days, statistic)


class Past:
    """The rows that windows look back at. What is sorted and summed up for one window serves all of its key and column."""

    def __init__(self, declared: Sequence[Window], target: str, frame: pd.DataFrame, times: np.ndarray) -> None:
        """`times` of shape (n,) as datetime64, one for each row of `frame`. Raises `DataError`."""
        self._features, self._frame = declared_by(declared, target), frame
        for name in (name for feature in self._features.values() for name in feature.columns):
            if name not in frame:
                raise DataError(f"features.windows: column `{name}` must be in the rows, and in their history")
        self._time, self._day = _numbered(times)
        self._by_key: dict[str, Keyed] = {}
        self._values: dict[tuple[str, str], Values] = {}

    def features(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The features of the rows at these positions, each of the shape of `rows`."""
        return {name: values for key in self._keys() for name, values in self._of_key(key, rows)}

    def _keys(self) -> list[str]:
        return list(dict.fromkeys(feature.window.key for feature in self._features.values()))

    def _of_key(self, key: str, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        keyed = self._keyed(key)
        places, found_at = keyed.places(rows, len(self._frame))
        bounds: dict[tuple[int | None, int, bool], Bounds] = {}
        for name, feature in self._features.items():
            window = feature.window
            if window.key == key:
                which = (feature.days, window.delay_days, window.own_row)
                if which not in bounds:
                    bounds[which] = keyed.bounds(places, *which)
                yield name, np.append(self._compute(feature, places, bounds[which]), np.nan)[found_at]

    def _compute(self, feature: Feature, places: np.ndarray, bounds: Bounds) -> np.ndarray:
        if feature.statistic == "count":
            return bounds.length.astype(float)
        assert feature.window.of is not None  # a rule of the schema
        return STATISTICS[feature.statistic](self._values_of(feature.window.key, feature.window.of), places, bounds)

    def _keyed(self, key: str) -> Keyed:
        if key not in self._by_key:
            self._by_key[key] = Keyed.of(self._frame[key], self._time, self._day)
        return self._by_key[key]

    def _values_of(self, key: str, of: str) -> Values:
        if (key, of) not in self._values:
            self._values[key, of] = Values(_numbers(self._frame[of])[self._keyed(key).order])
        return self._values[key, of]


def _numbered(times: np.ndarray) -> tuple[np.ndarray, int]:
    """The times as int64, and how long a day is in them: in seconds where all are whole, which leaves room for more keys."""
    time = times.astype("datetime64[us]").astype(np.int64)
    seconds, rest = np.divmod(time, MICROSECONDS)
    return (time, DAY * MICROSECONDS) if rest.any() else (seconds, DAY)


def _numbers(column: pd.Series) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(f"features.windows: `{column.name}` must be numeric, holds {column.dtype}")
    return finite(column, "features.windows", "set infinite values to missing")


@dataclass(frozen=True)
class Bounds:
    """Windows, as the places of their first row and of the one after their last; both of shape (k,)."""

    start: np.ndarray
    end: np.ndarray

    @property
    def length(self) -> np.ndarray:
        return self.end - self.start


@dataclass(frozen=True)
class Keyed:
    """Rows in the order of their key, within a key of their time, within an instant of the data; those without a key are none.

    `order`: the row at each place; `stamp`: its time, ascending over all places; `first`: the place of its key's first row; all
    of shape (m,). `day`: a day in units of the stamp. `reach`: no window has to reach back further; the stamps of two keys are
    more than that apart, so a window that begins before its key's first row begins with it.
    """

    order: np.ndarray
    stamp: np.ndarray
    first: np.ndarray
    day: int
    reach: int

    @classmethod
    def of(cls, key: pd.Series, time: np.ndarray, day: int) -> Keyed:
        """`key` and `time` of shape (n,), the time as whole numbers of which `day` are a day."""
        code, _ = pd.factorize(key)
        order = _sorted_by(code, time)[int((code < 0).sum()) :]
        code, time = code[order], time[order]
        begins = np.flatnonzero(np.diff(code, prepend=-1))
        first = np.repeat(begins.astype(order.dtype), np.diff(begins, append=len(code)))
        since = time - time.min(initial=np.iinfo(np.int64).max)
        reach = int(since.max(initial=0)) + 1
        return cls(order, _stamps(code, since, 2 * reach), first, day, reach)

    def places(self, rows: np.ndarray, of: int) -> tuple[np.ndarray, np.ndarray]:
        """The places of some of the `of` rows, and for each row where in them it is found, -1 without a key.

        The places ascend: what is searched for in order is found in a fraction of the time.
        """
        asked, found_at = np.zeros(of, dtype=bool), np.full(of, -1)
        asked[rows] = True
        places = np.flatnonzero(asked[self.order])
        found_at[self.order[places]] = np.arange(len(places))
        return places, found_at[rows]

    def bounds(self, places: np.ndarray, days: int | None, delay_days: int, own_row: bool) -> Bounds:
        """The window `(t - delayDays - days, t - delayDays]` of the row at each place; without a delay it ends with that row."""
        end = self._after(places, delay_days) if delay_days else places + own_row
        return Bounds(self.first[places] if days is None else self._after(places, delay_days + days), end)

    def _after(self, places: np.ndarray, days: int) -> np.ndarray:
        """The place after the last row of the key that is at least so many days older."""
        ago = min(days * self.day, self.reach) * (1j if self.stamp.dtype.kind == "c" else 1)
        return np.searchsorted(self.stamp, self.stamp[places] - ago, side="right")


def _sorted_by(code: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Rows by code, by time, by position. Numbers of 16 bits are sorted by radix, in a tenth of the time of larger ones."""
    # kept as long as the data is: positions of half the size where they are enough
    position = np.int32 if len(code) < 2**31 else np.int64
    is_sorted = (time[1:] >= time[:-1]).all()
    order = np.arange(len(code), dtype=position) if is_sorted else np.argsort(time, kind="stable").astype(position)
    for shift in range(0, int(code.max(initial=-1) + 1).bit_length(), 16):
        digit = ((code + 1) >> shift).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def _stamps(code: np.ndarray, since: np.ndarray, apart: int) -> np.ndarray:
    """One ascending number for key and time. Where 64 bits have no room for both, a complex number: these are ordered by the
    real, then by the imaginary part, and searched in twice the time."""
    if (int(code.max(initial=0)) + 1) * apart < 2**63:
        return code * np.int64(apart) + since
    return code + 1j * since


class Values:
    """A column in the order of a key, of shape (m,), NaN where it has no value."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        missing = np.isnan(values)
        self._known = np.append(0, np.cumsum(~missing)) if missing.any() else None
        self._total, self._lost = _running(np.where(missing, 0.0, values) if missing.any() else values)

    def count(self, bounds: Bounds) -> np.ndarray:
        """Rows with a value."""
        return bounds.length if self._known is None else self._known[bounds.end] - self._known[bounds.start]

    def sum(self, bounds: Bounds) -> np.ndarray:
        """0 over no value."""
        total, lost = self._total, self._lost
        found = total[bounds.end] - total[bounds.start]
        return found if lost is None else found + (lost[bounds.end] - lost[bounds.start])

    def mean(self, bounds: Bounds) -> np.ndarray:
        return _ratio(self.sum(bounds), self.count(bounds))

    def extreme(self, better: Callable[..., np.ndarray], bounds: Bounds) -> np.ndarray:
        """The largest or smallest value, by `np.fmax` or `np.fmin`; NaN over none.

        Spans of 1, 2, 4, … rows, of which two cover a window (sparse table; Bender and Farach-Colton, 2000).
        """
        result, length, span, width = np.full(len(bounds.start), np.nan), bounds.length, self.values, 1
        while width <= length.max(initial=0):
            here = (length >= width) & (length < 2 * width)
            result[here] = better(span[bounds.start[here]], span[bounds.end[here] - width])
            span, width = better(span[:-width], span[width:]), 2 * width
        return result


def _running(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Sums of the first 0, 1, … m values, and what rounding has taken from each (TwoSum; Ogita, Rump and Oishi, 2005): None
    where that is nothing, as of counts.

    Without the second a sum of some rows, as the difference of two over millions, would be right to eight digits only.
    """
    total, lost = np.zeros(len(values) + 1), np.zeros(len(values) + 1)
    np.cumsum(values, out=total[1:])
    before, after = total[:-1], total[1:]
    added = after - before
    rest = after - added
    np.subtract(before, rest, out=rest)
    np.subtract(values, added, out=added)
    np.cumsum(np.add(rest, added, out=rest), out=lost[1:])
    return total, lost if lost.any() else None


def _ratio(number: np.ndarray, by: np.ndarray) -> np.ndarray:
    """NaN where it would be divided by 0."""
    return np.divide(number, by, out=np.full(len(number), np.nan), where=by != 0)


STATISTICS: dict[str, Callable[[Values, np.ndarray, Bounds], np.ndarray]] = {
    "sum": lambda of, _, bounds: of.sum(bounds),
    "mean": lambda of, _, bounds: of.mean(bounds),
    "min": lambda of, _, bounds: of.extreme(np.fmin, bounds),
    "max": lambda of, _, bounds: of.extreme(np.fmax, bounds),
    "risk": lambda of, _, bounds: np.nan_to_num(of.mean(bounds)),
    "ratio": lambda of, places, bounds: _ratio(of.values[places], of.mean(bounds)),
}
