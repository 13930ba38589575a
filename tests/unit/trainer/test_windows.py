"""Windows against a loop over all pairs of rows: ties, unsorted rows, missing keys and values, empty windows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_trainer.config import Window
from m3_trainer.data import windows
from m3_trainer.data.windows import Keyed, Past
from m3_trainer.errors import DataError

START = pd.Timestamp("2018-04-01")
ALL = ("count", "sum", "mean", "min", "max", "risk", "ratio")
HOUR = pd.Timedelta(hours=1)
unhurried = settings(deadline=None)  # the machine may have other work

hours = st.one_of(st.integers(0, 100), st.sampled_from([0, 24, 48, 72]))
values = st.one_of(st.none(), st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), st.just(0.0))
row = st.tuples(st.sampled_from(["a", "b", "c", None]), hours, values)
tables = st.lists(row, min_size=1, max_size=30).map(
    lambda rows: pd.DataFrame(
        {
            "key": pd.Series([key for key, _, _ in rows], dtype="object"),
            "time": pd.Series([START + hour * HOUR for _, hour, _ in rows]).astype("datetime64[us]"),
            "amount": pd.Series([value for _, _, value in rows], dtype="float64"),
        }
    )
)
declared = st.builds(
    Window,
    key=st.just("key"),
    of=st.just("amount"),
    days=st.one_of(st.none(), st.sets(st.integers(1, 3), min_size=1).map(tuple)),
    delay_days=st.sampled_from([0, 0, 1, 2]),
    own_row=st.booleans(),
    statistics=st.just(ALL),
)


def inside(frame: pd.DataFrame, row: int, window: Window, days: int | None) -> list[int]:
    """Rows in the window of a row, as the field descriptions say it."""
    end = frame["time"][row] - pd.Timedelta(days=window.delay_days)
    found = []
    for other in range(len(frame)):
        time = frame["time"][other]
        is_before = (time, other) < (frame["time"][row], row) or (window.own_row and other == row)
        is_in = time <= end if window.delay_days else is_before
        is_after = days is None or time > end - pd.Timedelta(days=days)
        if frame["key"][other] == frame["key"][row] and is_in and is_after:
            found.append(other)
    return found


def slowly(frame: pd.DataFrame, window: Window) -> Iterator[dict[str, float]]:
    for row in range(len(frame)):
        expected = {}
        for days in window.days or (None,):
            rows = inside(frame, row, window, days)
            known = frame["amount"][rows].dropna()
            mean = known.mean() if len(known) else np.nan
            own = frame["amount"][row]
            by_name = {
                "count": len(rows), "sum": known.sum(), "mean": mean, "min": known.min(), "max": known.max(),
                "risk": mean if len(known) else 0.0, "ratio": own / mean if mean else np.nan,
            }  # fmt: skip
            expected |= {(days, name): value for name, value in by_name.items()}
        yield expected if frame["key"][row] is not None else dict.fromkeys(expected, np.nan)


def computed(frame: pd.DataFrame, *declared: Window, history: pd.DataFrame | None = None) -> pd.DataFrame:
    return windows.features(declared, "fraud", history, frame, "time")


@unhurried
@given(tables, declared)
def test_windows_equal_a_loop_over_all_pairs_of_rows(frame: pd.DataFrame, window: Window) -> None:
    found = computed(frame, window)
    features = windows.declared_by([window], "fraud")
    for row, expected in enumerate(slowly(frame, window)):
        for name, feature in features.items():
            wanted = expected[feature.days, feature.statistic]
            if feature.statistic == "ratio" and abs(expected[feature.days, "sum"]) < 1e-9:
                continue  # ÷ 0 or ÷ what rounding has left of it
            assert found[name][row] == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True), (row, name)


@unhurried
@given(tables, declared, st.data())
def test_history_sent_along_gives_what_training_has_seen(frame: pd.DataFrame, window: Window, data: Any) -> None:
    """Whatever part of the rows is history, and in whatever order, but for rows of one instant."""
    cut = data.draw(st.integers(0, len(frame)))
    whole, rest = computed(frame, window), frame.iloc[cut:]
    pd.testing.assert_frame_equal(computed(rest, window, history=frame.iloc[:cut]), whole.iloc[cut:])


@unhurried
@given(tables, declared, st.data())
def test_any_rows_in_any_order_are_as_they_are_among_all(frame: pd.DataFrame, window: Window, data: Any) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(frame) - 1), unique=True)), dtype=int)
    past = Past([window], "fraud", frame, frame["time"].to_numpy())
    some, every = past.features(rows), past.features(np.arange(len(frame)))
    for name in every:
        np.testing.assert_array_equal(some[name], every[name][rows])


@unhurried
@given(tables, declared, st.data())
def test_nothing_that_comes_later_is_looked_at(frame: pd.DataFrame, window: Window, data: Any) -> None:
    """Later rows may be missing, and values of less than `delayDays` before may be anything."""
    row = data.draw(st.integers(0, len(frame) - 1))
    time, before = frame["time"][row], computed(frame, window).loc[row]
    is_later = (frame["time"] > time) | ((frame["time"] == time) & (frame.index > row))
    pd.testing.assert_series_equal(computed(frame[~is_later], window).loc[row], before)
    if window.delay_days:
        is_unknown = frame["time"] > time - pd.Timedelta(days=window.delay_days)
        other = frame.assign(amount=frame["amount"].mask(is_unknown, 777.0))
        same = [name for name in before.index if "_ratio_" not in name]
        pd.testing.assert_series_equal(computed(other, window).loc[row, same], before[same])


def test_the_names_say_what_a_feature_is() -> None:
    window = Window(key="C", of="A", days=(1, 30))
    assert list(windows.declared_by([window], "y")) == ["C_count_1d", "C_A_mean_1d", "C_count_30d", "C_A_mean_30d"]
    of_label = Window(key="T", of="y", days=(7,), delay_days=7)
    assert list(windows.declared_by([of_label], "y")) == ["T_count_7d_delay7d", "T_y_risk_7d_delay7d"]
    past = Window(key="C", of="A", own_row=False, statistics=("max", "ratio"))
    assert list(windows.declared_by([past], "y")) == ["C_A_max_past_before", "C_A_ratio_past_before"]


def test_rows_are_counted_once_however_many_windows_count_them() -> None:
    both = [Window(key="C", of="A", days=(7,)), Window(key="C", of="B", days=(7,))]
    assert list(windows.declared_by(both, "y")) == ["C_count_7d", "C_A_mean_7d", "C_B_mean_7d"]


def test_two_features_of_one_name_are_refused() -> None:
    both = [Window(key="C_A", of="B", days=(7,)), Window(key="C", of="A_B", days=(7,))]
    with pytest.raises(DataError, match="two different features must not have the same name `C_A_B_mean_7d`"):
        windows.declared_by(both, "y")


FRAME = pd.DataFrame(
    {"key": [1, 1, 2], "time": pd.date_range(START, periods=3), "amount": [1.0, np.inf, 3.0], "word": "x"}
)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("amount", "`amount` must be finite in every row; set infinite values to missing"),
        ("word", "`word` must be numeric, holds"),
        ("none", "column `none` must be in the rows, and in their history"),
    ],
)
def test_a_column_that_has_no_statistics_is_refused(of: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        computed(FRAME, Window(key="key", of=of, days=(1,)))


def test_no_rows_have_no_windows() -> None:
    found = computed(FRAME.iloc[:0], Window(key="key", days=(1,)))
    assert found.shape == (0, 1)


def test_no_row_has_a_key() -> None:
    found = computed(FRAME.assign(key=np.nan), Window(key="key", days=(1,)))
    assert found["key_count_1d"].isna().all()


def test_a_huge_value_spoils_no_later_window() -> None:
    amounts = np.array([1e13, 0.1, 0.2, 0.3, 0.7])
    frame = pd.DataFrame({"key": 1, "time": pd.date_range(START, periods=5), "amount": amounts})
    found = computed(frame, Window(key="key", of="amount", days=(1,), statistics=("sum",)))
    assert found["key_amount_sum_1d"].to_numpy() == pytest.approx(amounts, rel=0, abs=1e-12)


def test_more_keys_than_64_bits_have_room_for() -> None:
    """700 keys over 250 years in microseconds: as each key's rows alone."""
    rng = np.random.default_rng(1)
    second = rng.integers(0, 250 * 365 * 86_400, 2_100) * 1_000_000 + 1
    time = pd.Series(np.datetime64("1900-01-01") + second.astype("timedelta64[us]"))
    frame = pd.DataFrame({"key": np.arange(2_100) % 700, "time": time, "amount": rng.random(2_100)})
    window = Window(key="key", of="amount", days=(3650,), delay_days=1, statistics=("count", "sum"))
    assert Keyed.of(frame["key"], second, 86_400_000_000).stamp.dtype == complex
    whole = computed(frame, window)
    assert whole["key_count_3650d_delay1d"].max() > 0
    for _, rows in frame.groupby("key"):
        pd.testing.assert_frame_equal(computed(rows, window), whole.loc[rows.index], rtol=1e-12)


@pytest.mark.parametrize("keys", [70_000, 300])
def test_rows_are_sorted_by_key_time_and_place(keys: int) -> None:
    rng = np.random.default_rng(2)
    key, time = rng.integers(0, keys, 200_000), rng.integers(0, 1_000, 200_000)
    code, _ = pd.factorize(key)
    np.testing.assert_array_equal(
        Keyed.of(pd.Series(key), time, 10).order, np.lexsort((np.arange(len(key)), time, code))
    )
