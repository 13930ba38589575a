"""What the training rows make of a file: a fitted model, calibrated, with its threshold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m3_trainer import early_stopping, models, threshold
from m3_trainer.config import Evaluation, ModelSpec, Workload
from m3_trainer.engine import Engine
from m3_trainer.folds import Fold
from m3_trainer.models import Checkpoint, Rows

log = logging.getLogger(__name__)


CHOSEN = ("best_iteration", "threshold")
"""Params that are known only afterwards. MLflow takes a param once, so a hyperparameter of that name is not logged."""


@dataclass(frozen=True)
class Learnt:
    """`evaluation` is the file's, with the threshold that was chosen."""

    estimator: Any
    evaluation: Evaluation
    chosen: dict[str, Any] = field(default_factory=dict)
    """What the validation rows have decided, by the names of params."""


def learn(
    workload: Workload,
    estimator: Any,
    training: Rows,
    validation: Rows | None,
    report: Callable[[float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    engine: Engine | None = None,
) -> Learnt:
    """Fit, calibrate and choose the threshold, as the file says. Raises `TrainingFailed`, `UserCodeFailed`, `DataError`.

    The model is not fitted again on all rows afterwards: threshold, curve and number of rounds belong to this one.
    """
    spec, evaluation, chosen = workload.model, workload.evaluation, {}
    estimator = fit(spec, estimator, training, validation, report, checkpoint, engine)
    if best := early_stopping.best_iteration(models.model_of(estimator)):
        chosen["best_iteration"] = best
    if validation and spec.calibration:
        estimator = models.calibrated(estimator, spec.calibration, validation)
    if validation and evaluation.threshold_for:
        score = models.probabilities(estimator, validation.features)
        found = threshold.choose(validation.target.to_numpy(), score, evaluation.threshold_for)
        told = "threshold %.4f: precision %.3f and recall %.3f on the validation rows"
        log.info(told, found.value, found.precision, found.recall)
        chosen["threshold"] = found.value
        evaluation = evaluation.model_copy(update={"threshold": found.value, "threshold_for": None})
    return Learnt(estimator, evaluation, chosen)


def fit(
    spec: ModelSpec,
    estimator: Any,
    training: Rows,
    validation: Rows | None = None,
    report: Callable[[float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    engine: Engine | None = None,
) -> Any:
    """The estimator, fitted with the class weights of the file and, where there are validation rows, early stopping."""
    return models.fit(
        estimator,
        training.features,
        training.target,
        report,
        checkpoint,
        weights=models.weights(spec, training.target),
        stopping=spec.early_stopping,
        validation=validation,
        engine=engine,
    )


def scores(spec: ModelSpec, categorical: Sequence[str], fold: Fold) -> np.ndarray:
    """Scores of the fold's test rows by a model of its training rows, fitted as the file says."""
    estimator = fit(spec, models.build(spec, categorical), Rows(fold.train, fold.train_target))
    return models.probabilities(estimator, fold.test)
