"""Types of model: how one is made, asked for probabilities, and stored without pickle."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import joblib
import numpy as np
import pandas as pd

from m3_trainer import encoding
from m3_trainer.config import ModelSpec
from m3_trainer.errors import InvalidSpec, TrainingFailed, UserCodeFailed

CLASSES = {
    "random_forest": "sklearn.ensemble:RandomForestClassifier",
    "decision_tree": "sklearn.tree:DecisionTreeClassifier",
    "logistic_regression": "sklearn.linear_model:LogisticRegression",
    "hist_gradient_boosting": "sklearn.ensemble:HistGradientBoostingClassifier",
    "xgboost": "xgboost:XGBClassifier",
    "lightgbm": "lightgbm:LGBMClassifier",
}

TRUSTED_TYPES = (
    "collections.OrderedDict",
    "functools.partial",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
)
"""Types that a stored model may hold beside those that skops trusts by itself. The list is ours, never the model's: MLflow
takes the trusted types from the model's own `MLmodel` file, which whoever stored it wrote. Histogram trees keep a partial of
scikit-learn's own `check_array` where they know of names; what a partial calls has to be on the list itself."""

LIBRARIES = ("sklearn.", "xgboost.", "lightgbm.")
CHUNK_ROWS = 8_192
PORTION_SECONDS = 10.0


def threads() -> int:
    """Threads to use: `M3_THREADS`, or what the process may have (joblib counts the CPU limit of its cgroup).

    More threads than that are not only useless: boosting was measured 70 times slower over-subscribed.
    """
    return int(os.environ.get("M3_THREADS") or joblib.cpu_count())


def build(spec: ModelSpec, categorical: Sequence[str] = ()) -> Any:
    """An unfitted estimator, behind what makes numbers of the categorical features.

    Raises `InvalidSpec` where its class is not there or refuses its hyperparameters.
    """
    cls = _load(CLASSES.get(spec.type, spec.type))
    try:
        estimator = cls(**spec.hyperparameters)
        jobs = (
            None if spec.type == "logistic_regression" else threads()
        )  # scikit-learn warns that it has no use for them
        fixed = {"random_state": spec.random_state, "n_jobs": jobs, "verbosity": _QUIET.get(spec.type)}
        known = {*estimator.get_params(), "verbosity"}  # lightgbm takes it, and does not say so
        estimator.set_params(**{name: value for name, value in fixed.items() if name in known and value is not None})
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidSpec(f"model.hyperparameters: {spec.type} must accept them: {error}") from error
    model = _scaled(estimator) if spec.type == "logistic_regression" else estimator
    return encoding.encoded(model, spec, categorical) if categorical else model


_QUIET = {"lightgbm": -1}


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidSpec(f"model.type: {path} must be importable where the job runs: {error}") from error
    if missing := [
        method for method in ("fit", "predict_proba", "get_params", "set_params") if not hasattr(cls, method)
    ]:
        raise InvalidSpec(f"model.type: {path} must have the method {missing[0]}, as scikit-learn's classifiers do")
    return cls


def _scaled(estimator: Any) -> Any:
    """A linear model needs its features on one scale and without gaps; trees need neither."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), estimator)


class Checkpoint(Protocol):
    """Keeps a forest that grows, every so many seconds."""

    every: float

    def load(self) -> Any | None: ...
    def save(self, forest: Any) -> None: ...


def fit(
    estimator: Any,
    features: pd.DataFrame,
    target: pd.Series,
    report: Callable[[float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Any:
    """The estimator, fitted in this process; `report` is told the share that is done, where the model can say.

    What makes numbers of names is fitted on these rows, too, and stays with the estimator. A forest goes on from its checkpoint,
    and is then another object than the one given.

    Raises `TrainingFailed` with the library's own words, `UserCodeFailed` with the user's.
    """
    if encoding.is_encoded(estimator):
        codes = encoding.fit(estimator, features)
        return encoding.joined(estimator, fit(encoding.told(estimator, codes), codes, target, report, checkpoint))
    try:
        if report and _grows(estimator):
            return _grow(estimator, features, target, report, checkpoint)
        return estimator.fit(features, target)
    except Exception as error:
        if not type(estimator).__module__.startswith(LIBRARIES):
            raise UserCodeFailed(error) from error
        if not isinstance(error, (ValueError, TypeError)):
            raise
        raise TrainingFailed(f"{type(estimator).__name__} must be able to learn from the data: {error}") from error


def _grows(estimator: Any) -> bool:
    """A forest whose trees do not depend on how many are asked for at a time; class weights from the data would warn."""
    from sklearn.ensemble import RandomForestClassifier

    if type(estimator) is not RandomForestClassifier:
        return False
    asked = estimator.get_params()
    return not (asked["warm_start"] or asked["oob_score"] or isinstance(asked["class_weight"], str))


def _grow(
    forest: Any,
    features: pd.DataFrame,
    target: pd.Series,
    report: Callable[[float], None],
    checkpoint: Checkpoint | None = None,
) -> Any:
    """The very trees of one `fit`, some at a time: scikit-learn seeds each by its number.

    A portion is a multiple of the threads, so that none idles, and lasts seconds, because each begins by converting the
    features. A forest that is done in seconds grows in two portions: the first tells how long a tree takes.
    """
    total, portion = forest.n_estimators, threads()
    seconds = min(PORTION_SECONDS, checkpoint.every) if checkpoint else PORTION_SECONDS
    forest, grown = _planted(forest, checkpoint)
    report(grown / total)
    while grown < total:
        start = time.perf_counter()
        grown_before, grown = grown, min(total, grown + portion)
        forest.set_params(n_estimators=grown).fit(features, target)
        report(grown / total)
        tree_seconds = (time.perf_counter() - start) / (grown - grown_before)
        portion = threads() * max(1, math.ceil(seconds / tree_seconds / threads()))
        if checkpoint and grown < total:
            checkpoint.save(forest)
    return forest.set_params(warm_start=False)


def _planted(forest: Any, checkpoint: Checkpoint | None) -> tuple[Any, int]:
    """The forest to begin with, and its number of trees. The threads are those of this attempt."""
    jobs = forest.n_jobs
    if checkpoint and (kept := checkpoint.load()) is not None:
        return kept.set_params(warm_start=True, n_jobs=jobs), len(kept.estimators_)
    return forest.set_params(warm_start=True), 0


def probabilities(estimator: Any, features: pd.DataFrame) -> np.ndarray:
    """Probability of class 1 for each row, shape (n,), the same to the last bit on any number of threads.

    A forest with n_jobs > 1 adds up its trees in the order in which they finish, so the last bits, and with them the ranking
    of ties, differ from run to run. Here threads share the rows, and each row's trees are added in their own order.
    """
    alone = serial(estimator)
    chunks = [features.iloc[start : start + CHUNK_ROWS] for start in range(0, len(features), CHUNK_ROWS)]
    with ThreadPoolExecutor(threads()) as pool:
        return np.concatenate(list(pool.map(lambda chunk: alone.predict_proba(chunk)[:, 1], chunks)))


def serial(estimator: Any) -> Any:
    """The estimator with one thread: also what is stored, because one row scored by many threads takes milliseconds."""
    model = encoding.model_of(estimator)
    if "n_jobs" in model.get_params():
        model.set_params(n_jobs=1)
    return estimator


def importances(estimator: Any, names: list[str]) -> dict[str, float]:
    """What each feature contributes by the model's own measure, as shares of 1, highest first; empty where it has none."""
    last, names = encoding.model_of(estimator), encoding.names_in(estimator) or names
    values = getattr(last, "feature_importances_", None)
    if values is None and hasattr(last, "coef_"):
        values = np.abs(last.coef_[0])
    if values is None:
        return {}
    shares = np.asarray(values, dtype=float) / (np.sum(values) or 1.0)
    return dict(sorted(zip(names, shares.tolist(), strict=True), key=lambda pair: -pair[1]))


def untrusted_types(data: bytes) -> list[str]:
    """Types in a stored model that are not on our list."""
    import skops.io

    return sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))


def dumps(estimator: Any) -> bytes:
    """The estimator in skops' format. Raises `InvalidSpec` where it holds types that we would refuse to load again."""
    return dumps_trusted(serial(estimator))


def dumps_trusted(holder: Any) -> bytes:
    """Anything that holds estimators, likewise."""
    import skops.io

    data = skops.io.dumps(holder)
    if unknown := untrusted_types(data):
        raise InvalidSpec(
            f"model.type: a registered model must be loadable without pickle; it holds {_listed(unknown)}"
        )
    return data


def loads(data: bytes) -> Any:
    """The estimator stored by `dumps`. Raises `InvalidSpec` where it holds a type that is not on our list."""
    import skops.io

    if unknown := untrusted_types(data):
        raise InvalidSpec(
            f"the stored model must hold trusted types only; it holds {_listed(unknown)}, and was not loaded"
        )
    return skops.io.loads(data, trusted=list(TRUSTED_TYPES))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
