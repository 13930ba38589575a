"""Which columns are features, what is computed beside them, and how names become numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from m3_trainer import encoding, features, models
from m3_trainer.config import ModelSpec, Workload
from m3_trainer.data import frame as frames
from m3_trainer.data import sample
from m3_trainer.errors import DataError, InvalidSpec


def workload(features: Any = None, **data: Any) -> Workload:
    return Workload.parse({"data": {"uri": "x.csv", "target": "y"} | data, "features": features or {}})


def matrix(job: Workload, frame: pd.DataFrame) -> pd.DataFrame:
    table = features.Table(job, frame, frames.time_of(job.data, frame), features.choose(job, frame))
    return table.matrix(np.arange(len(frame)))


FRAME = pd.DataFrame(
    {"a": [1.0], "b": [True], "word": ["x"], "gone": [1], "c": [3], "y": [0], "t": ["2018-04-07 06:59:00"]}
)


def test_features_are_the_numeric_columns_that_nothing_else_names() -> None:
    assert features.choose(workload({"exclude": ["gone"]}, customerColumn="c", timeColumn="t"), FRAME) == ["a", "b"]


def test_the_key_of_a_window_is_no_feature_but_what_it_is_of() -> None:
    job = workload({"exclude": ["gone", "b"], "windows": [{"key": "c", "of": "a", "days": [7]}]}, timeColumn="t")
    assert features.choose(job, FRAME) == ["a", "c_count_7d", "c_a_mean_7d"]


def test_names_come_first_then_numbers_then_what_is_computed() -> None:
    declared = {"include": ["b", "a"], "categorical": ["word", "c"], "dates": ["gone"], "calendar": ["night"]}
    assert features.choose(workload(declared, timeColumn="t"), FRAME) == ["word", "c", "b", "a", "gone", "t_night"]


REFUSED = {
    "text as a number": (
        {"include": ["word"]},
        "`word` must be numeric, holds str; or name it in features.categorical",
    ),
    "nothing": ({"exclude": ["a", "b", "gone", "c"]}, "at least one numeric column must be left as a feature, none is"),
    "a name that is taken": (
        {"calendar": ["hour"]},
        "the data must have no column `t_hour`: a computed feature has that name",
    ),
}


@pytest.mark.parametrize(("declared", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_features_that_cannot_be_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as raised:
        features.choose(workload(declared, timeColumn="t"), FRAME.assign(t_hour="x"))
    assert message in str(raised.value)


def test_a_column_that_a_feature_needs_must_be_there() -> None:
    job = workload({"windows": [{"key": "c", "of": "amuont"}]}, timeColumn="t")
    with pytest.raises(
        DataError, match=r"features.windows: column `amuont` must be in the data; did you mean `amount`\?"
    ):
        frames.check_columns(job, ["c", "amount", "y", "t"])


def test_with_include_only_what_is_named_is_read() -> None:
    declared = {"include": ["a"], "categorical": ["b"], "dates": ["d"], "windows": [{"key": "k", "of": "v"}]}
    wanted = frames.needed(workload(declared, timeColumn="t"))
    assert [name for name in "abcdkvty" if wanted(name)] == list("abdkvty")


def test_an_infinite_value_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="`a` must be finite in every row"):
        matrix(workload(), pd.DataFrame({"a": [1.0, np.inf], "y": [0, 1]}))


def test_a_missing_value_stays_missing_whatever_the_type() -> None:
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "word": ["x", None], "y": [0, 1]})
    found = matrix(workload({"categorical": ["word"]}), frame)
    assert found.isna().to_numpy().tolist() == [[False, False], [True, True]]
    assert (found["a"].dtype, found["word"][0]) == ("float64", "x")


def test_a_code_is_the_same_name_with_and_without_a_point() -> None:
    assert features.texts(pd.Series([5411, 5812])).tolist() == ["5411", "5812"]
    assert features.texts(pd.Series([5411.0, np.nan, 0.5])).tolist() == [
        "5411",
        pytest.approx(np.nan, nan_ok=True),
        "0.5",
    ]
    assert features.texts(pd.Series([True, "5411", 5411], dtype=object)).tolist() == ["True", "5411", "5411"]


def test_a_day_is_the_same_name_as_a_text_and_as_a_time() -> None:
    days = pd.Series(pd.to_datetime(["2018-04-01", None, "2018-04-01 12:30"], format="ISO8601"))
    assert features.texts(days).tolist() == ["2018-04-01", pytest.approx(np.nan, nan_ok=True), "2018-04-01 12:30:00"]


CALENDAR = {
    "2018-04-06 07:00:00": (0, 0, 7, 4, 6, 4),
    "2018-04-07 06:59:59": (1, 1, 6, 5, 7, 4),
    "2018-12-30 00:00:00": (1, 1, 0, 6, 30, 12),
}


@pytest.mark.parametrize(("time", "parts"), CALENDAR.items())
def test_the_calendar_is_that_of_the_row(time: str, parts: tuple[int, ...]) -> None:
    declared = {"include": ["a"], "calendar": ["weekend", "night", "hour", "dayOfWeek", "dayOfMonth", "month"]}
    found = matrix(workload(declared, timeColumn="t"), pd.DataFrame({"a": [1], "t": [time], "y": [0]}))
    assert tuple(found.iloc[0, 1:]) == parts


def test_a_date_is_as_many_days_before_the_row() -> None:
    frame = pd.DataFrame({"d": ["2018-04-01", None], "t": ["2018-04-02 12:00", "2018-04-03 00:00"], "y": [0, 1]})
    found = matrix(workload({"dates": ["d"]}, timeColumn="t"), frame)["d"]
    assert found.tolist() == [1.5, pytest.approx(np.nan, nan_ok=True)]
    since_1970 = matrix(workload({"dates": ["d"], "exclude": ["t"]}), frame)["d"]
    assert since_1970[0] == (pd.Timestamp("2018-04-01") - pd.Timestamp(0)).days


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"features\.dates: `d` must hold dates and times"):
        matrix(workload({"dates": ["d"]}), pd.DataFrame({"d": ["soon"], "y": [0]}))


RAW = ["TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"]
FRAUD = Workload.parse(
    {
        "data": {"uri": "x.csv", "target": "TX_FRAUD", "timeColumn": "TX_DATETIME"},
        "features": {
            "calendar": ["weekend", "night"],
            "windows": [
                {"key": "CUSTOMER_ID", "of": "TX_AMOUNT", "days": [1, 7], "statistics": ["count", "mean", "ratio"]},
                {"key": "TERMINAL_ID", "of": "TX_FRAUD", "days": [7], "delayDays": 7},
                {"key": "CUSTOMER_ID", "of": "TX_AMOUNT", "ownRow": False, "statistics": ["mean", "max"]},
            ],
        },
    }
)


def test_scoring_with_history_gives_what_training_has_seen() -> None:
    frame = sample.transactions(5_000)[RAW]
    trained = matrix(FRAUD, frame)
    rows = frame.iloc[4_900:].drop(columns="TX_FRAUD")
    scored = features.of(FRAUD, list(trained), rows, frame.iloc[:4_900])
    pd.testing.assert_frame_equal(scored, trained.iloc[4_900:])


def test_the_generators_window_columns_are_those_that_a_file_declares() -> None:
    frame = sample.transactions(5_000)
    found = matrix(FRAUD, frame[RAW])
    assert found["CUSTOMER_ID_count_7d"].tolist() == frame["CUSTOMER_ID_NB_TX_7DAY_WINDOW"].tolist()
    assert found["TERMINAL_ID_TX_FRAUD_risk_7d_delay7d"].tolist() == frame["TERMINAL_ID_RISK_7DAY_WINDOW"].tolist()


def test_a_row_to_score_without_what_its_features_need_is_refused() -> None:
    names = ["TX_AMOUNT", "CUSTOMER_ID_TX_AMOUNT_mean_7d"]
    with pytest.raises(DataError, match="`TX_DATETIME` must be given with each row, or with its history"):
        features.of(FRAUD, names, pd.DataFrame({"TX_AMOUNT": [1.0]}))
    with pytest.raises(DataError, match="column `CUSTOMER_ID` must be in the rows, and in their history"):
        features.of(FRAUD, names, pd.DataFrame({"TX_AMOUNT": [1.0], "TX_DATETIME": ["2018-04-01"]}))


# --- names as numbers -------------------------------------------------------------------------------------------------
TYPES = {
    "random_forest": {"n_estimators": 20},
    "decision_tree": {},
    "logistic_regression": {},
    "hist_gradient_boosting": {"max_iter": 20},
    "xgboost": {"n_estimators": 20},
    "lightgbm": {"n_estimators": 20},
}
RISKY = ("b", "d", "f")
"""Names whose rows are of class 1; as codes in order of the alphabet they lie between the others."""


def learnable(rows: int = 1_200) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(1)
    names = rng.choice(list("abcdef"), rows)
    frame = pd.DataFrame({"name": names.astype(object), "noise": rng.random(rows)})
    frame.loc[:9, "name"] = np.nan
    return frame, pd.Series(np.isin(names, RISKY).astype("int8"))


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_model_learns_from_names_and_is_stored_with_them(kind: str) -> None:
    frame, target = learnable()
    estimator = models.fit(models.build(ModelSpec(type=kind, hyperparameters=TYPES[kind]), ["name"]), frame, target)
    asked = pd.DataFrame({"name": [*"abcdef"], "noise": 0.5})
    score = models.probabilities(estimator, asked)
    assert (score > 0.5).tolist() == [name in RISKY for name in "abcdef"]
    again = models.loads(models.dumps(estimator))
    assert models.probabilities(again, asked).tolist() == score.tolist()
    assert encoding.categorical_of(again) == ["name"]
    assert [str(name) for name in again.feature_names_in_] == ["name", "noise"]


@pytest.mark.parametrize("kind", TYPES)
def test_a_name_that_training_had_not_can_be_scored(kind: str) -> None:
    frame, target = learnable()
    estimator = models.fit(models.build(ModelSpec(type=kind, hyperparameters=TYPES[kind]), ["name"]), frame, target)
    asked = pd.DataFrame({"name": np.array(["never seen", np.nan], dtype=object), "noise": 0.5})
    assert np.isfinite(models.probabilities(estimator, asked)).all()


def split_count(estimator: Any) -> int:
    """Splits of the first tree of boosting."""
    model = encoding.model_of(estimator)
    match type(model).__name__:
        case "XGBClassifier":
            return int((model.get_booster().trees_to_dataframe()["Feature"] != "Leaf").sum())
        case "LGBMClassifier":
            return len(model.booster_.trees_to_dataframe()["split_feature"].dropna())
    return int((model._predictors[0][0].nodes["is_leaf"] == 0).sum())


STUMPS = {
    "hist_gradient_boosting": {"max_iter": 1, "max_leaf_nodes": 2},
    "xgboost": {"n_estimators": 1, "max_depth": 1},
    "lightgbm": {"n_estimators": 1, "num_leaves": 2},
}


@pytest.mark.parametrize("kind", STUMPS)
def test_boosting_takes_any_set_of_names_apart_in_one_split(kind: str) -> None:
    """Which no split by size can: the names of the two classes alternate."""
    frame, target = learnable()
    estimator = models.build(ModelSpec(type=kind, hyperparameters=STUMPS[kind]), ["name"])
    known = frame["name"].notna()
    models.fit(estimator, frame[known], target[known])
    assert split_count(estimator) == 1
    score = models.probabilities(estimator, pd.DataFrame({"name": [*"abcdef"], "noise": 0.5}))
    assert len({round(value, 6) for value in score}) == 2
    assert (score > score.mean()).tolist() == [name in RISKY for name in "abcdef"]


def test_xgboosts_exact_trees_take_codes() -> None:
    frame, target = learnable()
    spec = ModelSpec(type="xgboost", hyperparameters={"n_estimators": 20, "tree_method": "exact"})
    estimator = models.fit(models.build(spec, ["name"]), frame, target)
    score = models.probabilities(estimator, pd.DataFrame({"name": [*"abcdef"], "noise": 0.5}))
    assert (score > 0.5).tolist() == [name in RISKY for name in "abcdef"]


@pytest.mark.parametrize("kind", TYPES)
def test_a_column_of_a_thousand_names_keeps_the_most_frequent(kind: str) -> None:
    rng = np.random.default_rng(1)
    number = rng.geometric(0.005, 4_000)
    frame = pd.DataFrame({"name": [f"n{each}" for each in number], "noise": rng.random(4_000)})
    spec = ModelSpec(type=kind, hyperparameters=TYPES[kind])
    estimator = models.fit(models.build(spec, ["name"]), frame, pd.Series((number % 2).astype("int8")))
    assert np.isfinite(models.probabilities(estimator, frame)).all()
    assert len(encoding.names_in(estimator)) == (51 if kind == "logistic_regression" else 2)


def test_a_forest_behind_names_grows_in_portions_as_one_without() -> None:
    frame, target = learnable()
    spec, told = ModelSpec(hyperparameters={"n_estimators": 20}), []
    grown = models.fit(models.build(spec, ["name"]), frame, target, told.append)
    at_once = models.fit(models.build(spec, ["name"]), frame, target)
    assert told[-1] == 1.0
    assert models.probabilities(grown, frame).tolist() == models.probabilities(at_once, frame).tolist()


def test_what_a_model_finds_important_is_said_by_the_features_names() -> None:
    frame, target = learnable()
    forest = models.fit(models.build(ModelSpec(), ["name"]), frame, target)
    assert list(models.importances(forest, ["name", "noise"])) == ["name", "noise"]
    linear = models.fit(models.build(ModelSpec(type="logistic_regression"), ["name"]), frame, target)
    assert {"name_a", "noise"} <= models.importances(linear, ["name", "noise"]).keys()


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "hist_gradient_boosting"])  # it refuses the rows
def test_a_feature_that_training_rows_have_no_value_of_is_no_mistake(kind: str) -> None:
    frame, target = learnable()
    frame = frame.assign(late=np.nan)
    estimator = models.fit(models.build(ModelSpec(type=kind, hyperparameters=TYPES[kind]), ["name"]), frame, target)
    assert np.isfinite(models.probabilities(estimator, frame.assign(late=1.0))).all()
    assert models.importances(estimator, list(frame)).get("late", 0.0) == 0.0


def test_names_must_not_be_said_in_the_librarys_way_as_well() -> None:
    spec = ModelSpec(type="hist_gradient_boosting", hyperparameters={"categorical_features": [0]})
    with pytest.raises(InvalidSpec, match="`categorical_features` must be left out where"):
        models.build(spec, ["name"])
