"""Types of model: how one is made, asked for probabilities, and stored without pickle."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import joblib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from m3_trainer import early_stopping, encoding, external, own_class
from m3_trainer.config import EarlyStopping, ModelSpec
from m3_trainer.engine import Engine
from m3_trainer.errors import DataError, InvalidSpec

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
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
)
"""Types that a stored model may hold beside those that skops trusts by itself. The list is ours, never the model's: MLflow
takes the trusted types from the model's own `MLmodel` file, which whoever stored it wrote. Histogram trees keep a partial of
scikit-learn's own `check_array` where they know of names; what a partial calls has to be on the list itself."""

CHUNK_ROWS = 8_192
PORTION_SECONDS, SPREAD_PORTION_SECONDS = 10.0, 60.0
"""How long a portion of a forest grows, here and on many nodes, where each begins with the start of Python on them."""
MIN_TO_CALIBRATE = 10
"""Rows of each class: from fewer, a curve says nothing."""


def threads() -> int:
    """Threads to use: `M3_THREADS`, or what the process may have (joblib counts the CPU limit of its cgroup).

    More threads than that are not only useless: boosting was measured 70 times slower over-subscribed.
    """
    return int(os.environ.get("M3_THREADS") or joblib.cpu_count())


def build(spec: ModelSpec, categorical: Sequence[str] = ()) -> Any:
    """An unfitted estimator, behind what makes numbers of the categorical features.

    Raises `InvalidSpec` where its class is not there or refuses its hyperparameters, `UserCodeFailed` where importing or making
    it raises something else.
    """
    cls = own_class.import_class(CLASSES.get(spec.type, spec.type))
    _told_by_logging()
    if (spec.class_weight or spec.positive_weight) and not own_class.takes_weights(cls):
        named = "classWeight" if spec.class_weight else "positiveWeight"
        raise InvalidSpec(
            f"model.{named}: {spec.type}.fit must have the parameter `sample_weight`, or this be left out"
        )
    with own_class.told_apart(cls, f"model.hyperparameters: {spec.type} must accept them"):
        estimator = _made(cls, spec)
    model = _scaled(estimator) if spec.type == "logistic_regression" else estimator
    return encoding.encoded(model, spec, categorical) if categorical else model


def _made(cls: Any, spec: ModelSpec) -> Any:
    try:
        estimator = cls(**_by_class(spec.hyperparameters))
        # scikit-learn warns that a linear model has no use for threads
        jobs = None if spec.type == "logistic_regression" else threads()
        fixed = {"random_state": spec.random_state, "n_jobs": jobs, "verbosity": _QUIET.get(spec.type)}
        known = {*estimator.get_params(), "verbosity"}  # lightgbm takes it, and does not say so
        return estimator.set_params(
            **{name: each for name, each in fixed.items() if name in known and each is not None}
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidSpec(f"model.hyperparameters: {spec.type} must accept them: {error}") from error


_QUIET = {"lightgbm": -1}


def _told_by_logging() -> None:
    """lightgbm prints to standard output, which scripts read, and partly before it looks at its `verbosity`."""
    if library := sys.modules.get("lightgbm"):
        library.register_logger(logging.getLogger("lightgbm"))


def _by_class(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Class weights by number: the keys of a mapping in JSON are texts."""
    weights = hyperparameters.get("class_weight")
    if not isinstance(weights, dict):
        return dict(hyperparameters)
    return hyperparameters | {
        "class_weight": {int(name) if name in ("0", "1") else name: w for name, w in weights.items()}
    }


def _scaled(estimator: Any) -> Any:
    """A linear model needs its features on one scale and without gaps; trees need neither."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), estimator)


@dataclass(frozen=True)
class Rows:
    """Rows with their class: features of shape (n, m), target of shape (n,)."""

    features: pd.DataFrame
    target: pd.Series


def weights(spec: ModelSpec, target: pd.Series) -> np.ndarray | None:
    """What each row counts, shape (n,); None where all count the same.

    Weights of rows rather than the libraries' own parameters: all of them take these, xgboost has no `balanced`, and a forest
    that grows warns of it. `balanced` is n / (2 · rows of the class) (King and Zeng 2001, as scikit-learn has it).
    """
    from sklearn.utils.class_weight import compute_sample_weight

    if spec.class_weight:
        return compute_sample_weight(spec.class_weight, target)
    return np.where(target == 1, spec.positive_weight, 1.0) if spec.positive_weight else None


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
    *,
    weights: np.ndarray | None = None,
    stopping: EarlyStopping | None = None,
    validation: Rows | None = None,
    engine: Engine | None = None,
) -> Any:
    """The estimator, fitted in this process or, where it is worth that, on the nodes of `engine`.

    `report` is told the share that is done, where the model can say. What makes numbers of names is fitted on these rows, too,
    and stays with the estimator. A forest goes on from its checkpoint, and is then another object than the one given, as is what
    was boosted on nodes. With `stopping`, boosting ends when `validation` says so.

    Raises `TrainingFailed` with the library's own words, `UserCodeFailed` with the user's.
    """
    if encoding.is_encoded(estimator):
        codes = encoding.fit(estimator, features)
        model = fit(
            encoding.told(estimator, codes),
            codes,
            target,
            report,
            checkpoint,
            weights=weights,
            stopping=stopping,
            validation=validation and Rows(encoding.coded(estimator, validation.features), validation.target),
            engine=engine,
        )
        return encoding.joined(estimator, model)
    cls = type(estimator)
    arguments = _weighted(estimator, weights)
    if stopping and validation:
        arguments |= early_stopping.arguments(estimator, stopping, validation.features, validation.target)
    with own_class.told_apart(cls, f"{cls.__name__} must be able to learn from the data"), threadpool_limits(threads()):
        if report and _grows(estimator):
            return _grow(estimator, features, target, arguments, report, checkpoint, engine)
        if isinstance(features, external.Batches):
            return external.fit(estimator, features, target, weights)
        if engine and engine.boosts(estimator, *features.shape):
            return engine.boost(estimator, features, target, arguments)
        estimator.fit(features, target, **arguments)
        if own_class.is_of_a_library(cls):
            return early_stopping.over(estimator)
        return own_class.named(estimator, list(features.columns))


def _weighted(estimator: Any, weights: np.ndarray | None) -> dict[str, Any]:
    if weights is None:
        return {}
    step = f"{estimator.steps[-1][0]}__" if encoding.is_pipeline(estimator) else ""
    return {f"{step}sample_weight": weights}


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
    arguments: dict[str, Any],
    report: Callable[[float], None],
    checkpoint: Checkpoint | None = None,
    engine: Engine | None = None,
) -> Any:
    """The very trees of one `fit`, some at a time: scikit-learn seeds each by its number.

    A portion is a multiple of the threads, so that none idles, and lasts seconds, because each begins by converting the
    features. A forest that is done in seconds grows in two portions: the first tells how long a tree takes, and so whether the
    others are worth going to other nodes for, where a portion begins with the start of Python.
    """
    total, portion, places, seconds = forest.n_estimators, threads(), threads(), PORTION_SECONDS
    forest, grown = _planted(forest, checkpoint)
    report(grown / total)
    while grown < total:
        start = time.perf_counter()
        grown_before, grown = grown, min(total, grown + portion)
        forest.set_params(n_estimators=grown)
        if engine and places > threads():
            engine.grow(forest, features, target, arguments)
        else:
            forest.fit(features, target, **arguments)
        report(grown / total)
        tree_seconds = (time.perf_counter() - start) / (grown - grown_before)
        if engine and grown < total:
            places = engine.places((total - grown) * tree_seconds, threads())
            seconds = SPREAD_PORTION_SECONDS if places > threads() else PORTION_SECONDS
        most = min(seconds, checkpoint.every) if checkpoint else seconds
        portion = places * max(1, math.ceil(most / tree_seconds / places))
        if checkpoint and grown < total:
            checkpoint.save(forest)
    return forest.set_params(warm_start=False)


def _planted(forest: Any, checkpoint: Checkpoint | None) -> tuple[Any, int]:
    """The forest to begin with, and its number of trees. The threads are those of this attempt."""
    jobs = forest.n_jobs
    if checkpoint and (kept := checkpoint.load()) is not None:
        return kept.set_params(warm_start=True, n_jobs=jobs), len(kept.estimators_)
    return forest.set_params(warm_start=True), 0


def calibrated(estimator: Any, method: str, validation: Rows) -> Any:
    """The fitted estimator behind a curve that maps its scores to the probabilities that the validation rows have.

    Raises `DataError` where those are too few of a class.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    if (least := int(validation.target.value_counts().reindex([0, 1], fill_value=0).min())) < MIN_TO_CALIBRATE:
        raise DataError(
            f"model.calibration: the validation rows must hold at least {MIN_TO_CALIBRATE} of each class, hold {least}: take "
            "more of them (`training.validationSize`, `training.split.validationDays`) or leave the calibration out"
        )
    curve = CalibratedClassifierCV(FrozenEstimator(serial(estimator)), method=method)
    with own_class.told_apart(
        type(model_of(estimator)), "model.calibration: the scores must be such that a curve fits them"
    ):
        return curve.fit(validation.features, validation.target)


def uncalibrated(estimator: Any) -> Any:
    """The estimator without the curve that `calibrated` has put before it."""
    if type(estimator).__name__ == "CalibratedClassifierCV" and type(estimator.estimator).__name__ == "FrozenEstimator":
        return estimator.estimator.estimator
    return estimator


def model_of(estimator: Any) -> Any:
    """The model itself, without its calibration, without what scales its features and makes numbers of names."""
    return encoding.model_of(uncalibrated(estimator))


def probabilities(estimator: Any, features: pd.DataFrame) -> np.ndarray:
    """Probability of class 1 for each row, shape (n,), the same to the last bit on any number of threads.

    A forest with n_jobs > 1 adds up its trees in the order in which they finish, so the last bits, and with them the ranking
    of ties, differ from run to run. Here threads share the rows, and each row's trees are added in their own order. A class of
    the user's own, which need not be safe for that, is asked once, and what it gives is looked at.

    Raises `UserCodeFailed`.
    """
    alone, cls = serial(estimator), type(model_of(estimator))
    with own_class.told_apart(cls, f"{cls.__name__} must be able to score the rows"):
        if not own_class.is_of_a_library(cls):
            return own_class.checked(alone.predict_proba(features), len(features), cls)
        chunks = [features.iloc[start : start + CHUNK_ROWS] for start in range(0, len(features), CHUNK_ROWS)]
        with ThreadPoolExecutor(threads(), initializer=_one_openmp_thread) as pool:
            return np.concatenate(list(pool.map(lambda chunk: alone.predict_proba(chunk)[:, 1], chunks)))


def _one_openmp_thread() -> None:
    """Else each thread of the pool would start as many of its own: OpenMP counts them by the thread that asks."""
    threadpool_limits(1, user_api="openmp")


def serial(estimator: Any) -> Any:
    """The estimator with one thread: also what is stored, because one row scored by many threads takes milliseconds."""
    model = model_of(estimator)
    if "n_jobs" in model.get_params():
        model.set_params(n_jobs=1)
    return estimator


def importances(estimator: Any, names: list[str]) -> dict[str, float]:
    """What each feature contributes by the model's own measure, as shares of 1, highest first; empty where it has none."""
    last, names = model_of(estimator), encoding.names_in(uncalibrated(estimator)) or names
    values = getattr(last, "feature_importances_", None)
    if values is None and hasattr(last, "coef_"):
        values = np.abs(last.coef_[0])
    if values is None or np.shape(values) != (len(names),):  # what a class of the user's own calls so may be anything
        return {}
    shares = np.asarray(values, dtype=float) / (np.sum(values) or 1.0)
    return dict(sorted(zip(names, shares.tolist(), strict=True), key=lambda pair: -pair[1]))


def untrusted_types(data: bytes) -> list[str]:
    """Types in a stored model that are not on our list."""
    import skops.io

    found = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
    _told_by_logging()
    return found


def dumps_around(estimator: Any) -> bytes:
    """What is around a model that stores itself, without it: its calibration, and what makes numbers of names."""
    model = model_of(estimator)
    try:
        return dumps_trusted(_around(estimator, None))
    finally:
        _around(estimator, model)


def loads_around(data: bytes, model: Any) -> Any:
    """What `dumps_around` has stored, around its model again."""
    return _around(loads(data), model)


def _around(estimator: Any, model: Any) -> Any:
    """The estimator with another model in its midst."""
    within = uncalibrated(estimator)
    whole = encoding.joined(within, model) if encoding.is_encoded(within) else model
    if within is estimator:
        return whole
    estimator.estimator.estimator = whole
    estimator.calibrated_classifiers_[0].estimator = estimator.estimator
    return estimator


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
