"""Hyperparameters of the built-in models: which there are, and of what type.

A table rather than the libraries' own signatures: the operator refuses a misspelt hyperparameter before it creates anything,
and its image has no scikit-learn. `tests/unit/trainer/test_hyperparameters.py` holds the table against the installed libraries.
null is allowed only where it is the library's own default: `kubectl apply` drops a null that it sends, and the same file would
mean one thing on a laptop and another in the cluster. `random_state` (said as `model.randomState`) and `n_jobs` are none.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from m3_trainer.schema import shown

_INT, _NUM, _TEXT, _BOOL = (int,), (int, float), (str,), (bool,)
_NONE = (type(None),)
_CLASS_WEIGHT = (*_TEXT, dict, *_NONE)

_TREE = {
    "criterion": _TEXT,
    "max_depth": _INT + _NONE,
    "min_samples_split": _NUM,
    "min_samples_leaf": _NUM,
    "min_weight_fraction_leaf": _NUM,
    "max_features": _NUM + _TEXT + _NONE,
    "max_leaf_nodes": _INT + _NONE,
    "min_impurity_decrease": _NUM,
    "class_weight": _CLASS_WEIGHT,
    "ccp_alpha": _NUM,
    "monotonic_cst": (list, *_NONE),
}

KNOWN: dict[str, dict[str, tuple[type, ...]]] = {
    "random_forest": _TREE
    | {
        "n_estimators": _INT,
        "max_features": _NUM + _TEXT,
        "bootstrap": _BOOL,
        "oob_score": _BOOL,
        "max_samples": _NUM + _NONE,
        "warm_start": _BOOL,
        "verbose": _INT,
    },
    "decision_tree": _TREE | {"splitter": _TEXT},
    "logistic_regression": {
        "C": _NUM,
        "class_weight": _CLASS_WEIGHT,
        "dual": _BOOL,
        "fit_intercept": _BOOL,
        "intercept_scaling": _NUM,
        "l1_ratio": _NUM,
        "max_iter": _INT,
        "penalty": _TEXT,
        "solver": _TEXT,
        "tol": _NUM,
        "verbose": _INT,
        "warm_start": _BOOL,
    },
    "hist_gradient_boosting": {
        "categorical_features": (str, list),
        "class_weight": _CLASS_WEIGHT,
        "early_stopping": _TEXT + _BOOL,
        "interaction_cst": (str, list, *_NONE),
        "l2_regularization": _NUM,
        "learning_rate": _NUM,
        "loss": _TEXT,
        "max_bins": _INT,
        "max_depth": _INT + _NONE,
        "max_features": _NUM,
        "max_iter": _INT,
        "max_leaf_nodes": _INT,
        "min_samples_leaf": _INT,
        "monotonic_cst": (list, dict, *_NONE),
        "n_iter_no_change": _INT,
        "scoring": _TEXT,
        "tol": _NUM,
        "validation_fraction": _NUM,
        "verbose": _INT,
        "warm_start": _BOOL,
    },
    "xgboost": {
        "base_score": _NUM + _NONE,
        "booster": _TEXT,
        "colsample_bylevel": _NUM,
        "colsample_bynode": _NUM,
        "colsample_bytree": _NUM,
        "gamma": _NUM,
        "grow_policy": _TEXT,
        "learning_rate": _NUM,
        "max_bin": _INT,
        "max_delta_step": _NUM,
        "max_depth": _INT + _NONE,
        "max_leaves": _INT,
        "min_child_weight": _NUM,
        "n_estimators": _INT,
        "num_parallel_tree": _INT,
        "objective": _TEXT,
        "reg_alpha": _NUM,
        "reg_lambda": _NUM,
        "sampling_method": _TEXT,
        "scale_pos_weight": _NUM,
        "subsample": _NUM,
        "tree_method": _TEXT,
    },
    "lightgbm": {
        "boosting_type": _TEXT,
        "class_weight": _CLASS_WEIGHT,
        "colsample_bytree": _NUM,
        "importance_type": _TEXT,
        "learning_rate": _NUM,
        "max_depth": _INT,
        "min_child_samples": _INT,
        "min_child_weight": _NUM,
        "min_split_gain": _NUM,
        "n_estimators": _INT,
        "num_leaves": _INT,
        "objective": _TEXT,
        "reg_alpha": _NUM,
        "reg_lambda": _NUM,
        "subsample": _NUM,
        "subsample_for_bin": _INT,
        "subsample_freq": _INT,
    },
}

BUILT_IN = tuple(KNOWN)
"""Names of the built-in types of model."""

_AMBIGUOUS = {
    "max_features": "hyperparameter `max_features` must not be 1: kubectl sends 1.0 (all of them) as 1 (one of them); for all, "
    "write how many columns there are",
    "max_samples": "hyperparameter `max_samples` must not be 1: kubectl sends 1.0 (all of them) as 1 (one of them); for all, "
    "leave it out",
}

LEAST = {"n_estimators": 1, "max_iter": 1, "max_leaf_nodes": 2, "max_bins": 2, "num_leaves": 2, "n_iter_no_change": 1}
LEAST_OF_SCIKIT_LEARN = LEAST | {"max_depth": 1}
"""xgboost and lightgbm know a depth of 0 or -1, which is none."""
MOST = 2**31 - 1
"""Of a whole number: the libraries keep it in 32 bits."""
POSITIVE = ("C", "learning_rate", "intercept_scaling")
CHOICES = {
    "criterion": ("gini", "entropy", "log_loss"),
    "splitter": ("best", "random"),
    "penalty": ("l1", "l2", "elasticnet"),
    "solver": ("lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"),
}

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def refusal(model_type: str, hyperparameters: Mapping[str, Any]) -> str | None:
    """What is wrong with the hyperparameters of a built-in model, in one sentence; None where nothing is."""
    known = KNOWN[model_type]
    faults = [_unknown(model_type, name) for name in hyperparameters if name not in known]
    faults += [
        f"hyperparameter `{name}` must be {_described(known[name])}, is {shown(value)}"
        for name, value in hyperparameters.items()
        if name in known and not _fits(value, known[name])
    ]
    faults += [
        f"hyperparameter `{name}` must be {bound}, is {shown(value)}"
        for name, value in hyperparameters.items()
        if name in known and _fits(value, known[name]) and (bound := _beyond(model_type, name, value))
    ]
    faults += [_AMBIGUOUS[name] for name, value in hyperparameters.items() if name in _AMBIGUOUS and value == 1]
    return "; ".join(faults) or None


_ELSEWHERE = {
    "random_state": "hyperparameter `random_state` must be left out: say it as `model.randomState`",
    "seed": "hyperparameter `seed` must be left out: say it as `model.randomState`",
    "n_jobs": "hyperparameter `n_jobs` must be left out: it is as many as the job has CPUs",
}


def _unknown(model_type: str, name: str) -> str:
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    close = difflib.get_close_matches(name, KNOWN[model_type], n=1)
    hint = f"; did you mean `{close[0]}`?" if close else f": {', '.join(sorted(KNOWN[model_type]))}"
    return f"hyperparameter `{name}` must be one that {model_type} has{hint}"


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    """bool is a subclass of int in Python, not in YAML."""
    return type(value) in types


def _beyond(model_type: str, name: str, value: Any) -> str | None:
    """What a value of the right type must be, where it is not; what is left, the library says when it learns."""
    least = (LEAST if model_type in ("xgboost", "lightgbm") else LEAST_OF_SCIKIT_LEARN).get(name)
    if isinstance(value, str):
        choices = CHOICES.get(name, (value,))
        return None if value in choices else f"one of {', '.join(choices)}"
    if not isinstance(value, int | float):
        return None
    if least is not None and value < least:
        return f"at least {least}"
    if float not in KNOWN[model_type][name] and value > MOST:
        return f"at most {MOST}"
    return "more than 0" if name in POSITIVE and value <= 0 else None


def _described(types: tuple[type, ...]) -> str:
    shown = [_WORDS[kind] for kind in types if kind in _WORDS and not (kind is int and float in types)]
    return " or ".join(shown + ["null"] * (type(None) in types))
