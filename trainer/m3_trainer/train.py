"""A workload from its rows to a registered model. Read `train` from top to bottom."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from m3_trainer import challenge, checkpoint, errors, evaluate, features, models, registry, tracking
from m3_trainer import split as splitting
from m3_trainer.config import Workload
from m3_trainer.data import frame as frames
from m3_trainer.data import sources
from m3_trainer.origin import Origin
from m3_trainer.progress import Progress
from m3_trainer.tracking import Run, Tracker

log = logging.getLogger(__name__)

COUNTS = ("train_rows", "train_positives", "test_rows", "test_positives")


@dataclass(frozen=True)
class Prepared:
    """What a model learns from and what it is judged on; `day` and `card` belong to the test rows."""

    digest: str
    rows: int
    dtypes: dict[str, str]
    names: list[str]
    train: pd.DataFrame
    train_target: pd.Series
    test: pd.DataFrame
    test_target: pd.Series
    day: np.ndarray | None
    card: np.ndarray | None

    def counts(self) -> dict[str, int]:
        figures = len(self.train), self.train_target.sum(), len(self.test), self.test_target.sum()
        return {name: int(figure) for name, figure in zip(COUNTS, figures, strict=True)}

    def scored_by(self, estimator: Any) -> evaluate.Scored:
        """The test rows with the estimator's probabilities."""
        score = models.probabilities(estimator, self.test)
        return evaluate.Scored(self.test_target.to_numpy(), score, self.day, self.card)


@dataclass(frozen=True)
class Result:
    """What a run brought; `seconds` by step."""

    metrics: dict[str, float]
    rows: dict[str, int]
    features: list[str]
    run: dict[str, Any]
    model: dict[str, str]
    lineage: dict[str, Any]
    promotion: dict[str, str] | None = None
    """Whether the version has got the alias; in the cluster the operator says so."""
    seconds: dict[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def told_by(cls, run: Run) -> Result:
        """The result of a run that ended earlier, as far as MLflow keeps it."""
        data = run.client.get_run(run.id).data
        counts = {name: int(value) for name, value in data.metrics.items() if name in COUNTS}
        version = registry.Version(data.tags["m3.model.name"], data.tags["m3.model.version"])
        return cls(
            metrics={name: value for name, value in data.metrics.items() if name not in COUNTS},
            rows=counts,
            features=data.params["features"].split(","),
            run=run.document(),
            model=version.document(),
            lineage={
                "dataDigest": data.tags["m3.data.digest"],
                "rows": int(data.tags["m3.data.rows"]),
                "specHash": data.tags["m3.spec.hash"],
            },
        )


def train(workload: Workload, tracker: Tracker, origin: Origin | None = None) -> Result:
    """Run a workload to its registered model. Raises the errors of `m3_trainer.errors`.

    A user's mistake is final and a server may come back: where both are wrong, the mistake is what is reported.
    """
    clock = Clock()
    with clock.step("find MLflow"):
        unavailable = tracker.probe()
    if unavailable:
        prepare(workload)
        raise unavailable
    origin, experiment = origin or Origin(), workload.tracking.experiment_name
    with clock.step("import MLflow"):
        tracker.client()
    if earlier := tracking.registered_before(tracker, experiment, origin):
        log.info("attempt %d has registered its model already (run %s): nothing to do", origin.attempt, earlier.id)
        return Result.told_by(earlier)
    with tracking.open_run(tracker, experiment, origin) as run:
        return _train(workload, run, clock)


def _train(workload: Workload, run: Run, clock: Clock) -> Result:
    progress = Progress(run.report)
    with clock.step("read the data"):
        prepared = prepare(workload)
    lineage = {"dataDigest": prepared.digest, "rows": prepared.rows, "specHash": workload.digest()}
    estimator = models.build(workload.model)
    with clock.step("log what is asked"):
        _log_inputs(workload, prepared, estimator, lineage, run)
    with clock.step("fit"):
        kept = checkpoint.of(run.origin, workload.digest(), prepared.digest)
        estimator = models.fit(estimator, prepared.train, prepared.train_target, progress.part(0.1, 0.9), kept)
    with clock.step("evaluate"):
        test = challenge.Test(prepared.test, prepared.scored_by(estimator), workload.evaluation)
        metrics = _evaluate(workload, prepared, test.scored)
    with clock.step("log what came out"):
        run.log(metrics=metrics | prepared.counts())
        _log_pictures(prepared, estimator, run)
        challenge.leave_rows(run, prepared.train, prepared.train_target)
    with clock.step("store the model"):
        model_uri = registry.store(run, estimator, prepared.test)
    with clock.step("register"):
        version = registry.register(run, model_uri, workload.registry.model_name)
        verdict = _promote(workload, run, test, version)
        run.log(tags={"m3.model.name": version.name, "m3.model.version": version.version, "m3.phase": "registered"})
        run.report(1.0, 0)
    if kept:
        kept.delete()
    return Result(
        metrics=metrics,
        rows=prepared.counts(),
        features=prepared.names,
        run=run.document(),
        model=version.document(),
        lineage=lineage,
        promotion=verdict,
        seconds=clock.seconds,
    )


def _promote(workload: Workload, run: Run, test: challenge.Test, version: registry.Version) -> dict[str, str] | None:
    """Tell what speaks for the alias; where there is no operator to move it, move it."""
    wish = workload.registry.promotion
    if wish is None:
        return None
    evidence = challenge.look(run, wish, version.name, test)
    run.log(tags=challenge.tags(evidence, test))
    if run.origin.uid:
        return None
    decision = challenge.settle(run, wish, version, evidence)
    return {
        "alias": wish.alias,
        "decision": decision.verdict,
        "reason": decision.reason,
        "message": decision.message,
    }


def prepare(workload: Workload) -> Prepared:
    """Read, check, divide and choose: all that can go wrong with the data goes wrong here. Raises `DataError`."""
    source = sources.read(workload.data, frames.needed(workload))
    frame = _sampled(workload, source.frame)
    frames.check_columns(workload, frame.columns)
    target, times = frames.target_of(workload.data, frame), frames.time_of(workload.data, frame)
    names = features.choose(workload, frame)
    parts = splitting.split(workload, frame, target, times)
    card = workload.data.customer_column
    return Prepared(
        digest=source.digest,
        rows=len(frame),
        dtypes={str(name): str(dtype) for name, dtype in frame.dtypes.items()},
        names=names,
        train=features.matrix(frame.iloc[parts.train], names),
        train_target=target.iloc[parts.train],
        test=features.matrix(frame.iloc[parts.test], names),
        test_target=target.iloc[parts.test],
        day=times.iloc[parts.test].to_numpy().astype("datetime64[D]") if times is not None else None,
        card=frame[card].iloc[parts.test].to_numpy() if card else None,
    )


def _sampled(workload: Workload, frame: pd.DataFrame) -> pd.DataFrame:
    """`sampleSize` rows in their old order, so that a split by time stays one."""
    size = workload.data.sample_size
    if size is None or size >= len(frame):
        return frame
    rows = np.random.default_rng(workload.model.random_state).choice(len(frame), size, replace=False)
    return frame.iloc[np.sort(rows)]


def _evaluate(workload: Workload, prepared: Prepared, scored: evaluate.Scored) -> dict[str, float]:
    metrics = evaluate.measure(scored, workload.evaluation)
    if folds := workload.training.cv_folds:
        metrics |= _cross_validate(workload, prepared, folds)
    return metrics


def _cross_validate(workload: Workload, prepared: Prepared, folds: int) -> dict[str, float]:
    """Average precision over stratified folds of the training rows."""
    from sklearn.model_selection import StratifiedKFold

    if prepared.train_target.value_counts().min() < folds:
        raise errors.DataError(f"training.cvFolds: each class must have at least {folds} training rows, one per fold")
    divide = StratifiedKFold(folds, shuffle=True, random_state=workload.model.random_state)
    scores = []
    for train_rows, test_rows in divide.split(prepared.train, prepared.train_target):
        estimator = models.build(workload.model)
        models.fit(estimator, prepared.train.iloc[train_rows], prepared.train_target.iloc[train_rows])
        score = models.probabilities(estimator, prepared.train.iloc[test_rows])
        rows = evaluate.Scored(prepared.train_target.iloc[test_rows].to_numpy(), score)
        scores.append(evaluate.METRICS["average_precision"](rows, workload.evaluation))
    return {"cv_average_precision_mean": float(np.mean(scores)), "cv_average_precision_std": float(np.std(scores))}


def _log_inputs(workload: Workload, prepared: Prepared, estimator: Any, lineage: dict[str, Any], run: Run) -> None:
    tags = {"m3.data.digest": prepared.digest, "m3.data.rows": str(prepared.rows), "m3.spec.hash": lineage["specHash"]}
    run.log(params=_params(workload, prepared, estimator), tags=tags | {"m3.phase": "training"})
    run.log_dataset(workload.data.uri, prepared.digest, prepared.dtypes, prepared.rows)


def _params(workload: Workload, prepared: Prepared, estimator: Any) -> dict[str, Any]:
    """Every hyperparameter by the library's own name, defaults included, and what in the file bears on the metrics."""
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    training = workload.training
    chosen = {
        "model_type": workload.model.type,
        "random_state": workload.model.random_state,
        "features": ",".join(prepared.names),
        "target": workload.data.target,
        "threshold": workload.evaluation.threshold,
        "split": json.dumps(training.split.dump()) if training.split else f"test_size={splitting.test_size(training)}",
    }
    return {name: value for name, value in last.get_params().items() if name != "n_jobs"} | chosen


def _log_pictures(prepared: Prepared, estimator: Any, run: Run) -> None:
    if shares := models.importances(estimator, prepared.names):
        run.log_figure(evaluate.importance_figure(shares), "feature_importance.png")


class Clock:
    """Says each step as it begins to end, and keeps how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        log.info("%-20s %6.2f s", name, self.seconds[name])
