"""The table of hyperparameters, against the installed libraries."""

import importlib
from typing import Any

import pytest

from m3_trainer.hyperparameters import CHOICES, KNOWN, LEAST_OF_SCIKIT_LEARN, POSITIVE, refusal
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
AT_BOUNDS = (
    [(name, value) for name, least in LEAST_OF_SCIKIT_LEARN.items() for value in (least - 1, least)]
    + [(name, value) for name in POSITIVE for value in (0, 0.5)]
    + [(name, value) for name, choices in CHOICES.items() for value in (*choices, "nonsense")]
)
STRICTER = {("logistic_regression", "max_iter", 0)}
"""scikit-learn takes it, and learns nothing."""


@pytest.mark.parametrize(
    ("model_type", "name", "value"),
    [(model_type, *pair) for model_type in SCIKIT_LEARN for pair in AT_BOUNDS if pair[0] in KNOWN[model_type]],
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
