"""The table of hyperparameters, against the installed libraries."""

import importlib
from typing import Any

import pytest

from m3_trainer.hyperparameters import KNOWN
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
