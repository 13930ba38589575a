"""Boosting that ends when the validation rows say so, in the way of each library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from m3_trainer.config import EarlyStopping

METRIC_NAMES = {
    "average_precision": ("aucpr", "average_precision", "average_precision"),
    "roc_auc": ("auc", "auc", "roc_auc"),
    "log_loss": ("logloss", "binary_logloss", "loss"),
}
"""As xgboost, lightgbm and scikit-learn call them."""


def arguments(estimator: Any, how: EarlyStopping, features: pd.DataFrame, target: pd.Series) -> dict[str, Any]:
    """Tell the estimator when to stop on these validation rows; gives the arguments for its `fit`."""
    xgboost_name, lightgbm_name, sklearn_name = METRIC_NAMES[how.metric]
    match type(estimator).__name__:
        case "XGBClassifier":
            estimator.set_params(early_stopping_rounds=how.rounds, eval_metric=xgboost_name)
            return {"eval_set": [(features, target)], "verbose": False}
        case "LGBMClassifier":
            from lightgbm import early_stopping

            estimator.set_params(metric=lightgbm_name)  # `eval_metric` of fit would be a second one, beside the loss
            return {
                "eval_X": features,
                "eval_y": target,
                "callbacks": [early_stopping(how.rounds, verbose=False)],
            }
        case _:
            estimator.set_params(early_stopping=True, n_iter_no_change=how.rounds, scoring=sklearn_name)
            return {"X_val": features, "y_val": target}


def over(estimator: Any) -> Any:
    """The fitted estimator without what it only needed to stop: HistGradientBoosting keeps a method of its own, and in that
    skops goes round in a circle."""
    if vars(estimator).pop("_raw_predict", None):
        estimator._scorer = None
    return estimator


def best_iteration(estimator: Any) -> int | None:
    """Rounds after which the validation metric was best, counted from 1; None without early stopping.

    xgboost and lightgbm score with the best rounds; scikit-learn keeps those that came after, too.
    """
    match type(estimator).__name__:
        case "XGBClassifier" if estimator.early_stopping_rounds:
            return estimator.best_iteration + 1
        case "LGBMClassifier" if estimator.best_iteration_:
            return estimator.best_iteration_
        case "HistGradientBoostingClassifier" if estimator.early_stopping is True:
            return int(np.argmax(estimator.validation_score_))
    return None
