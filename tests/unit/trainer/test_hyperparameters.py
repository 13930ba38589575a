"""The table of hyperparameters, against the installed libraries."""

import importlib
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from m3_trainer import models
from m3_trainer.config import ModelSpec
from m3_trainer.hyperparameters import CHOICES, FRACTIONS, KNOWN, MOST, NUMBERS, WHOLE, Range, refusal
from m3_trainer.models import CLASSES


def defaults(model_type: str) -> dict[str, Any]:
    module, _, name = CLASSES[model_type].partition(":")
    return getattr(importlib.import_module(module), name)().get_params()


@pytest.mark.parametrize("model_type", KNOWN)
def test_every_hyperparameter_of_the_table_is_one_of_the_library(model_type: str) -> None:
    assert KNOWN[model_type].keys() <= defaults(model_type).keys()


@pytest.mark.parametrize(
    "model_type", ["random_forest", "decision_tree", "logistic_regression", "hist_gradient_boosting"]
)
def test_every_hyperparameter_of_scikit_learn_is_in_the_table(model_type: str) -> None:
    assert defaults(model_type).keys() - {"random_state", "n_jobs"} == KNOWN[model_type].keys()


@pytest.mark.parametrize("model_type", KNOWN)
def test_null_is_allowed_only_where_it_is_the_default(model_type: str) -> None:
    values = defaults(model_type)
    nullable = [name for name, types in KNOWN[model_type].items() if type(None) in types]
    assert [name for name in nullable if values[name] is not None] == []


SCIKIT_LEARN = ("random_forest", "decision_tree", "logistic_regression", "hist_gradient_boosting")
STEP = 2**-10


def around(allowed: Range, types: tuple[type, ...]) -> Iterator[float]:
    """Values at the ends of a range and just beyond, of the types that the table has."""
    ends = [end for end in (allowed.low, allowed.high) if end < MOST]
    if int in types:
        yield from (int(end) + step for end in ends for step in (-1, 0, 1))
    if float in types:
        yield from (end + step for end in ends for step in (-STEP, STEP))


def at_bounds(model_type: str) -> Iterator[tuple[str, Any]]:
    for table, kinds in ((NUMBERS, (int, float)), (WHOLE, (int,)), (FRACTIONS, (float,))):
        for name, allowed in table.get(model_type, {}).items():
            types = tuple(set(kinds) & set(KNOWN[model_type][name]))
            yield from ((name, value) for value in around(allowed, types))
    yield from ((name, word) for name in CHOICES if name in KNOWN[model_type] for word in (*CHOICES[name], "nonsense"))
    if "class_weight" in KNOWN[model_type]:
        yield from (("class_weight", word) for word in ("balanced", "balanced_subsample", "nonsense"))


STRICTER = {("logistic_regression", "max_iter", 0)}
"""scikit-learn takes it, and learns nothing."""
MEANS_ALL = {"max_features", "max_samples"}
"""1 is refused for another reason."""


@pytest.mark.parametrize(
    ("model_type", "name", "value"),
    [
        (model_type, name, value)
        for model_type in SCIKIT_LEARN
        for name, value in at_bounds(model_type)
        if not (name in MEANS_ALL and value == 1)
    ],
)
def test_a_value_is_refused_where_the_library_refuses_it(model_type: str, name: str, value: Any) -> None:
    module, _, cls = CLASSES[model_type].partition(":")
    estimator = getattr(importlib.import_module(module), cls)(**{name: value})
    try:
        estimator._validate_params()
    except ValueError:
        refused = True
    else:
        refused = (model_type, name, value) in STRICTER
    assert bool(refusal(model_type, {name: value})) is refused


@pytest.mark.parametrize(
    ("model_type", "name", "value"),
    [(model_type, *pair) for model_type in ("xgboost", "lightgbm") for pair in at_bounds(model_type)],
)
def test_boosting_learns_from_what_is_accepted(model_type: str, name: str, value: Any) -> None:
    """What it would refuse, or take for another thing, it is not given: of that it tells only when it learns, or never."""
    if refusal(model_type, {name: value}):
        return
    beside = {"n_estimators": 2} | ({"subsample": 0.5, "subsample_freq": 1} if value == "rf" else {})
    spec = ModelSpec.parse({"type": model_type, "hyperparameters": beside | {name: value}})
    features = pd.DataFrame({"a": range(40), "b": [0, 1] * 20})
    models.fit(models.build(spec), features, pd.Series([0, 1, 1, 0] * 10))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("equal", 'must be balanced, or a weight for each class as {0: 1, 1: 50}, is "equal"'),
        ({"0": 1, "2": 5}, "must be a number above 0 for each of the classes 0 and 1, as {0: 1, 1: 50}"),
        ({"1": 5}, "must be a number above 0 for each of the classes 0 and 1, as {0: 1, 1: 50}"),
        ({"0": 1, "1": -5}, "must be a number above 0 for each of the classes 0 and 1, as {0: 1, 1: 50}"),
    ],
)
def test_a_class_weight_of_another_class_is_refused(value: Any, message: str) -> None:
    assert f"hyperparameter `class_weight` {message}" in (refusal("decision_tree", {"class_weight": value}) or "")


@pytest.mark.parametrize("model_type", KNOWN)
def test_the_librarys_own_defaults_are_accepted(model_type: str) -> None:
    values = {
        name: value for name, value in defaults(model_type).items() if name in KNOWN[model_type] and value is not None
    }
    values.pop("max_features", None)  # of hist_gradient_boosting, 1.0: refused, because kubectl sends 1
    assert refusal(model_type, {name: value for name, value in values.items() if value != "deprecated"}) is None


def test_a_number_that_may_have_a_point_may_be_as_large_as_it_likes() -> None:
    assert refusal("logistic_regression", {"C": 10**12}) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "must be at least 1, is 0"), (2**63, "must be at most 2147483647, is 9223372036854775808")],
)
def test_a_value_out_of_bounds_is_told(value: int, message: str) -> None:
    assert refusal("xgboost", {"n_estimators": value}) == f"hyperparameter `n_estimators` {message}"
