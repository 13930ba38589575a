"""Names as numbers: how each type of model is given its categorical features.

What the numbers mean is learnt from the training rows alone and is part of the model that is stored, so that whoever scores sends
names. All of it is scikit-learn's, and so on the list of types that may be loaded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from m3_trainer.config import ModelSpec
from m3_trainer.errors import InvalidSpec

MAX_CATEGORIES = 255
"""Names of a column that are told apart, the most frequent: scikit-learn's histogram trees have room for no more."""
MAX_ONE_HOT = 50
"""The same where each is a column of its own."""
ENCODER, MODEL = "categories", "model"
"""Steps of the pipeline."""


def encoded(model: Any, spec: ModelSpec, categorical: Sequence[str]) -> Any:
    """The model behind an encoder of those columns; the others pass through. The encoded columns come first.

    One column for each name where a model adds its columns up; else a code for each, which boosting is told to take as a name
    (see `told`), and which a single split of a tree takes apart as if it were a size: several splits take any set of them out.
    Raises `InvalidSpec` where the hyperparameters say the same in the library's own way.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    if "categorical_features" in spec.hyperparameters:
        raise InvalidSpec(
            "model.hyperparameters: `categorical_features` must be left out where features.categorical is set"
        )
    encode = _one_hot() if spec.type == "logistic_regression" else _ordinal(spec)
    columns = ColumnTransformer(
        [(ENCODER, encode, list(categorical))], remainder="passthrough", verbose_feature_names_out=False
    )
    return Pipeline([(ENCODER, columns.set_output(transform="pandas")), (MODEL, model)])


def _one_hot() -> Any:
    """A name that training had not is none of them."""
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(max_categories=MAX_ONE_HOT, handle_unknown="infrequent_if_exist", sparse_output=False)


def _ordinal(spec: ModelSpec) -> Any:
    """A name that training had not is as good as none."""
    from sklearn.preprocessing import OrdinalEncoder

    return OrdinalEncoder(
        max_categories=min(MAX_CATEGORIES, spec.hyperparameters.get("max_bins", MAX_CATEGORIES)),
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        encoded_missing_value=np.nan,
    )


def is_pipeline(estimator: Any) -> bool:
    """Whether it is a pipeline of ours: a class of the user's own may have `steps`, too."""
    return type(estimator).__module__ == "sklearn.pipeline"


def is_encoded(estimator: Any) -> bool:
    return is_pipeline(estimator) and estimator.steps[0][0] == ENCODER


def fit(estimator: Any, features: pd.DataFrame) -> pd.DataFrame:
    """Learn the names of these rows; gives them as numbers."""
    return estimator.named_steps[ENCODER].fit_transform(features)


def coded(estimator: Any, features: pd.DataFrame) -> pd.DataFrame:
    """The names of these rows as numbers, as they have been learnt."""
    return estimator.named_steps[ENCODER].transform(features)


def told(estimator: Any, codes: pd.DataFrame) -> Any:
    """The model, told which of its columns are codes of names, where it has a use for that.

    xgboost's exact trees and its linear booster have none.
    """
    model, count = estimator.named_steps[MODEL], len(categorical_of(estimator))
    match type(model).__name__:
        case "HistGradientBoostingClassifier":
            model.set_params(categorical_features=list(range(count)))
        case "LGBMClassifier":
            model.set_params(categorical_column=list(range(count)))
        case "XGBClassifier" if model.tree_method != "exact" and model.booster != "gblinear":
            model.set_params(feature_types=["c"] * count + ["q"] * (codes.shape[1] - count), enable_categorical=True)
    return model


def joined(estimator: Any, model: Any) -> Any:
    """The encoder of the one with the fitted model."""
    estimator.steps[-1] = (MODEL, model)
    return estimator


def model_of(estimator: Any) -> Any:
    """The model itself, without what comes before it."""
    while is_pipeline(estimator):
        estimator = estimator.steps[-1][1]
    return estimator


def categorical_of(estimator: Any) -> list[str]:
    """Names of the features that are names themselves."""
    return list(estimator.named_steps[ENCODER].transformers[0][2]) if is_encoded(estimator) else []


def names_in(estimator: Any) -> list[str]:
    """Names of the columns that the model itself sees; none where it sees the features as they are."""
    return list(estimator.named_steps[ENCODER].get_feature_names_out()) if is_encoded(estimator) else []
