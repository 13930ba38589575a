"""Hyperparameters of the built-in models: which there are, and of what type.

A table rather than the libraries' own signatures: the operator refuses a misspelt hyperparameter before it creates anything,
and its image has no scikit-learn. `tests/unit/trainer/test_hyperparameters.py` holds the table against the installed libraries.
null is allowed only where it is the library's own default: `kubectl apply` drops a null that it sends, and the same file would
mean one thing on a laptop and another in the cluster. `random_state` (said as `model.randomState`) and `n_jobs` are none.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
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
BOOSTED = ("hist_gradient_boosting", "xgboost", "lightgbm")
"""Those that add tree after tree, and can stop."""
WEIGHTS = ("class_weight", "scale_pos_weight")
STOPPING = ("early_stopping", "n_iter_no_change", "scoring", "validation_fraction")
"""The libraries' own names for what `model.classWeight` and `model.earlyStopping` say of each type."""

_AMBIGUOUS = {
    "max_features": "hyperparameter `max_features` must not be 1: kubectl sends 1.0 (all of them) as 1 (one of them); for all, "
    "write how many columns there are",
    "max_samples": "hyperparameter `max_samples` must not be 1: kubectl sends 1.0 (all of them) as 1 (one of them); for all, "
    "leave it out",
}

MOST = 2**31 - 1
"""Of a whole number: the libraries keep it in 32 bits."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `above` and `below` take the ends themselves out."""

    low: float = 0
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"{'more than' if self.above else 'at least'} {self.low:g}"
        high = f"{'less than' if self.below else 'at most'} {self.high:.12g}"
        return low if self.high == math.inf else f"{low} and {high}"


_AT_LEAST_0, _AT_LEAST_1, _AT_LEAST_2 = Range(0), Range(1), Range(2)
_POSITIVE, _SHARE, _INNER_SHARE = Range(0, above=True), Range(0, 1, above=True), Range(0, 1, above=True, below=True)

_TREE_WHOLE = {
    "max_depth": _AT_LEAST_1,
    "min_samples_split": _AT_LEAST_2,
    "min_samples_leaf": _AT_LEAST_1,
    "max_features": _AT_LEAST_1,
    "max_leaf_nodes": _AT_LEAST_2,
}
_TREE_FRACTIONS = {"min_samples_split": _SHARE, "min_samples_leaf": _INNER_SHARE, "max_features": _SHARE}
_TREE_NUMBERS = {
    "min_weight_fraction_leaf": Range(0, 0.5),
    "min_impurity_decrease": _AT_LEAST_0,
    "ccp_alpha": _AT_LEAST_0,
}
_VERBOSE = {"verbose": _AT_LEAST_0}

WHOLE: dict[str, dict[str, Range]] = {
    "random_forest": _TREE_WHOLE | _VERBOSE | {"n_estimators": _AT_LEAST_1, "max_samples": _AT_LEAST_1},
    "decision_tree": _TREE_WHOLE,
    "hist_gradient_boosting": {"validation_fraction": _AT_LEAST_1},
}
"""Ranges of what is a number of something as a whole number, and a share as a fraction: as a whole number."""
FRACTIONS: dict[str, dict[str, Range]] = {
    "random_forest": _TREE_FRACTIONS | {"max_samples": _POSITIVE},
    "decision_tree": _TREE_FRACTIONS,
    "hist_gradient_boosting": {"validation_fraction": _INNER_SHARE},
}
"""The same as a fraction."""
NUMBERS: dict[str, dict[str, Range]] = {
    "random_forest": _TREE_NUMBERS,
    "decision_tree": _TREE_NUMBERS,
    "logistic_regression": _VERBOSE
    | {
        "C": _POSITIVE,
        "intercept_scaling": _POSITIVE,
        "l1_ratio": Range(0, 1),
        "max_iter": _AT_LEAST_1,
        "tol": _AT_LEAST_0,
    },
    "hist_gradient_boosting": _VERBOSE
    | {
        "l2_regularization": _AT_LEAST_0,
        "learning_rate": _POSITIVE,
        "max_bins": Range(2, 255),
        "max_depth": _AT_LEAST_1,
        "max_features": _SHARE,
        "max_iter": _AT_LEAST_1,
        "max_leaf_nodes": _AT_LEAST_2,
        "min_samples_leaf": _AT_LEAST_1,
        "n_iter_no_change": _AT_LEAST_1,
        "tol": _AT_LEAST_0,
    },
    "xgboost": {
        "base_score": _INNER_SHARE,
        "colsample_bylevel": _SHARE,
        "colsample_bynode": _SHARE,
        "colsample_bytree": _SHARE,
        "gamma": _AT_LEAST_0,
        "learning_rate": _POSITIVE,
        "max_bin": _AT_LEAST_2,
        "max_delta_step": _AT_LEAST_0,
        "max_depth": _AT_LEAST_0,
        "max_leaves": _AT_LEAST_0,
        "min_child_weight": _AT_LEAST_0,
        "n_estimators": _AT_LEAST_1,
        "num_parallel_tree": _AT_LEAST_1,
        "reg_alpha": _AT_LEAST_0,
        "reg_lambda": _AT_LEAST_0,
        "scale_pos_weight": _POSITIVE,
        "subsample": _SHARE,
    },
    "lightgbm": {
        "colsample_bytree": _SHARE,
        "learning_rate": _POSITIVE,
        "min_child_samples": _AT_LEAST_0,
        "min_child_weight": _AT_LEAST_0,
        "min_split_gain": _AT_LEAST_0,
        "n_estimators": _AT_LEAST_1,
        "num_leaves": Range(2, 131_072),
        "reg_alpha": _AT_LEAST_0,
        "reg_lambda": _AT_LEAST_0,
        "subsample": _SHARE,
        "subsample_for_bin": _AT_LEAST_1,
    },
}
"""Ranges of what means the same with and without a point. A depth of 0 or -1 is none to lightgbm, one of 0 to xgboost."""
CHOICES = {
    "boosting_type": ("gbdt", "dart", "rf"),
    "booster": ("gbtree", "gblinear", "dart"),
    "criterion": ("gini", "entropy", "log_loss"),
    "grow_policy": ("depthwise", "lossguide"),
    "loss": ("log_loss",),
    "max_features": ("sqrt", "log2"),
    "penalty": ("l1", "l2", "elasticnet"),
    "sampling_method": ("uniform", "gradient_based"),
    "solver": ("lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"),
    "splitter": ("best", "random"),
    "tree_method": ("auto", "exact", "approx", "hist"),
}
CLASS_WEIGHTS = {"random_forest": ("balanced", "balanced_subsample")}
OTHER_CLASS_WEIGHTS = ("balanced",)
TARGET_CLASSES = ("0", "1")
"""As keys of a mapping in JSON, which has no others than texts."""

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


_EARLY = "must be left out: say it as `model.earlyStopping`"
_ELSEWHERE = {
    "random_state": "hyperparameter `random_state` must be left out: say it as `model.randomState`",
    "seed": "hyperparameter `seed` must be left out: say it as `model.randomState`",
    "n_jobs": "hyperparameter `n_jobs` must be left out: it is as many as the job has CPUs",
    "early_stopping_rounds": f"hyperparameter `early_stopping_rounds` {_EARLY}",
    "early_stopping_round": f"hyperparameter `early_stopping_round` {_EARLY}",
    "eval_metric": "hyperparameter `eval_metric` must be left out: say it as `model.earlyStopping.metric`",
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
    if name == "class_weight":
        return _class_weight(model_type, value)
    if isinstance(value, str):
        choices = CHOICES.get(name, (value,))
        return None if value in choices else f"one of {', '.join(choices)}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    kind = WHOLE if isinstance(value, int) else FRACTIONS
    allowed = NUMBERS.get(model_type, {}).get(name) or kind.get(model_type, {}).get(name)
    if allowed is not None and value not in allowed:
        return str(allowed)
    return f"at most {MOST}" if float not in KNOWN[model_type][name] and value > MOST else None


def _class_weight(model_type: str, value: Any) -> str | None:
    if isinstance(value, str):
        words = CLASS_WEIGHTS.get(model_type, OTHER_CLASS_WEIGHTS)
        return None if value in words else f"{' or '.join(words)}, or a weight for each class as {{0: 1, 1: 50}}"
    if not isinstance(value, dict):
        return None
    right = value.keys() == set(TARGET_CLASSES) and all(_fits(weight, _NUM) and weight > 0 for weight in value.values())
    return None if right else "a number above 0 for each of the classes 0 and 1, as {0: 1, 1: 50}"


def _described(types: tuple[type, ...]) -> str:
    shown = [_WORDS[kind] for kind in types if kind in _WORDS and not (kind is int and float in types)]
    return " or ".join(shown + ["null"] * (type(None) in types))
