"""A workload from its rows to a registered model. Read `train` from top to bottom."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from m3_trainer import (
    challenge,
    checkpoint,
    engine,
    evaluate,
    external,
    features,
    folds,
    importance,
    intervals,
    models,
    registry,
    segments,
    tracking,
)
from m3_trainer import learn as learning
from m3_trainer import split as splitting
from m3_trainer.account import Account
from m3_trainer.config import Workload
from m3_trainer.data import frame as frames
from m3_trainer.data import sources, stores
from m3_trainer.engine import Engine
from m3_trainer.folds import COUNTS, Fold, Judged
from m3_trainer.intervals import Interval
from m3_trainer.lineage import Code, Lineage
from m3_trainer.origin import Origin
from m3_trainer.progress import Lines, Progress, Watch
from m3_trainer.tracking import Run, Tracker

log = logging.getLogger(__name__)

VALIDATION_COUNTS = ("validation_rows", "validation_positives")


@dataclass(frozen=True, kw_only=True)
class Prepared(Fold):
    """What a model learns from and what it is judged on, and what is known of all the rows."""

    digest: str
    rows: int
    dtypes: dict[str, str]
    names: list[str]
    categorical: list[str]
    segments: pd.DataFrame
    """The columns of `evaluation.segments`, of the test rows."""
    folds: tuple[Callable[[], Fold], ...] = ()
    """The folds by time, each divided off when it is its turn: together they may be many times the data."""
    validation: models.Rows | None = None
    """Cut from the training rows, where something is chosen on them."""

    def counts(self) -> dict[str, int]:
        if self.validation is None:
            return super().counts()
        figures = len(self.validation.target), self.validation.target.sum()
        return super().counts() | {name: int(figure) for name, figure in zip(VALIDATION_COUNTS, figures, strict=True)}

    @property
    def seen(self) -> models.Rows:
        """All rows that have a part in the model."""
        own = models.Rows(self.train, self.train_target)
        if self.validation is None:
            return own
        pairs = ((own.features, self.validation.features), (own.target, self.validation.target))
        return models.Rows(*(pd.concat(pair) for pair in pairs))

    def scored_by(self, estimator: Any) -> evaluate.Scored:
        """The test rows with the estimator's probabilities."""
        return self.scored(models.probabilities(estimator, self.test))


@dataclass(frozen=True)
class Result:
    """What a run brought; `seconds` by step."""

    metrics: dict[str, float]
    rows: dict[str, int]
    features: list[str]
    run: dict[str, Any]
    model: dict[str, str]
    lineage: dict[str, Any]
    intervals: dict[str, Interval] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    """What the validation rows have decided."""
    promotion: dict[str, str] | None = None
    """Whether the version has got the alias; in the cluster the operator says so."""
    seconds: dict[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def told_by(cls, run: Run) -> Result:
        """The result of a run that ended earlier, as far as MLflow keeps it."""
        data = run.client.get_run(run.id).data
        known = (*COUNTS, *VALIDATION_COUNTS)
        counts = {name: int(value) for name, value in data.metrics.items() if name in known}
        bounds = intervals.from_metrics(data.metrics)
        others = {*known, *intervals.as_metrics(bounds)}
        version = registry.Version(data.tags["m3.model.name"], data.tags["m3.model.version"])
        return cls(
            metrics={name: value for name, value in data.metrics.items() if name not in others and "/" not in name},
            rows=counts,
            features=data.params["features"].split(","),
            run=run.document(),
            model=version.document(),
            lineage=Lineage.from_tags(data.tags).document(),
            intervals=bounds,
        )


def train(workload: Workload, tracker: Tracker, origin: Origin | None = None, watch: Watch | None = None) -> Result:
    """Run a workload to its registered model. Raises the errors of `m3_trainer.errors`.

    A user's mistake is final and a server may come back: where both are wrong, the mistake is what is reported.
    """
    clock, cluster = Clock(watch or Lines()), engine.of(os.environ)
    with clock.step("find MLflow"):
        unavailable = tracker.probe()
    if unavailable:
        models.build(workload.model, workload.features.categorical or ())
        prepare(workload)
        raise unavailable
    origin, experiment = origin or Origin(), workload.tracking.experiment_name
    with clock.step("import MLflow"):
        tracker.client()
    if earlier := tracking.registered_before(tracker, experiment, origin):
        log.info("attempt %d has registered its model already (run %s): nothing to do", origin.attempt, earlier.id)
        return Result.told_by(earlier)
    with tracking.open_run(tracker, experiment, origin) as run, tracking.system_metrics(run), cluster or nullcontext():
        return _train(workload, run, clock, cluster)


def _train(workload: Workload, run: Run, clock: Clock, cluster: Engine | None = None) -> Result:
    progress = Progress(run.report, watch=clock.watch)
    estimator = models.build(workload.model, workload.features.categorical or ())
    with clock.step("read the data"):
        prepared = prepare(workload)
    lineage = Lineage(prepared.digest, prepared.rows, workload.digest(), Code.around(os.environ))
    params = params_of(workload, prepared, estimator)
    with clock.step("log what is asked"):
        run.log(params=params, tags=lineage.tags() | {"m3.phase": "training"})
        run.log_dataset(workload.data, prepared.digest, prepared.dtypes, prepared.rows)
    with clock.step("fit"):
        kept = checkpoint.of(run.origin, workload.digest(), prepared.digest)
        training = models.Rows(prepared.train, prepared.train_target)
        told = progress.part(0.1, 0.9)
        learnt = learning.learn(workload, estimator, training, prepared.validation, told, kept, cluster)
        estimator = learnt.estimator
    with clock.step("evaluate"):
        test = challenge.Test(prepared.test, prepared.scored_by(estimator), learnt.evaluation, _module(workload))
        account = account_of(workload, prepared, estimator, test, lineage, params | learnt.chosen, run)
    if workload.training.cv_folds or workload.training.folds:
        with clock.step("train the folds"):
            account = _with_folds(account, _judged(account, prepared, cluster, clock.seconds["fit"]), run)
    with clock.step("log what came out"):
        run.log(params=learnt.chosen, metrics=logged(account))
        rows = challenge.rows_file(prepared.seen.features, prepared.seen.target)
        if cluster:
            run.log(tags={"m3.nodes": str(cluster.used)})
        run.log_files(account.files() | rows | {registry.WORKLOAD_FILE: workload.to_json().encode()})
    with clock.step("store the model"):
        model_uri = registry.store(run, estimator, prepared.test, learnt.evaluation.threshold)
    with clock.step("register"):
        version = registry.register(run, model_uri, workload.registry.model_name, account.card(), lineage.tags())
        verdict = _promote(workload, run, test, version)
        run.log(tags={"m3.model.name": version.name, "m3.model.version": version.version, "m3.phase": "registered"})
        run.report(1.0, 0)
    if kept:
        kept.delete()
    return Result(
        metrics=account.metrics,
        rows=prepared.counts(),
        features=prepared.names,
        run=run.document(),
        model=version.document() | ({"module": module} if (module := _module(workload)) else {}),
        lineage=lineage.document(),
        intervals=account.intervals,
        chosen=learnt.chosen,
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
    decision = challenge.settle(run, wish, version, test, evidence)
    return {
        "alias": wish.alias,
        "decision": decision.verdict,
        "reason": decision.reason,
        "message": decision.message,
    }


def _module(workload: Workload) -> str | None:
    """The module of the file's own class: it runs here anyway, so a holder of the alias that is of it may run, too."""
    module, _, name = workload.model.type.partition(":")
    return module if name else None


def prepare(workload: Workload) -> Prepared:
    """Read, check, divide and choose: all that can go wrong with the data goes wrong here. Raises `DataError`."""
    if files := external.needed(workload):
        return _prepare_from_disk(workload, files)
    source = sources.read(workload.data, frames.needed(workload))
    frame = source.frame
    frames.check_columns(workload, frame.columns)
    target, times = frames.target_of(workload.data, frame), frames.time_of(workload.data, frame)
    table = features.Table(workload, frame, times, features.choose(workload, frame))
    kept = _sample(workload, len(frame))
    rows, frame, target = np.arange(len(frame))[kept], frame.iloc[kept], target.iloc[kept]
    times = times.iloc[kept] if times is not None else None
    parts = splitting.split(workload, frame, target, times)
    others = splitting.folds(workload, frame, target, times)
    divide = _Division(frame, target, times, table, rows, workload.data.customer_column)
    return Prepared(
        **vars(divide(parts)),
        digest=source.digest,
        rows=len(rows),
        dtypes={str(name): str(dtype) for name, dtype in frame.dtypes.items()},
        names=table.names,
        categorical=table.categorical,
        segments=frame.loc[:, list(dict.fromkeys(workload.evaluation.segments or ()))].iloc[parts.test],
        folds=tuple(partial(divide, part, f"training from {split.train_start}") for split, part in others),
        validation=divide.rows_at(parts.validation) if len(parts.validation) else None,
    )


def _prepare_from_disk(workload: Workload, files: external.Files) -> Prepared:
    """The same, of training rows that stay on disk."""
    divided = external.divide(workload, files)
    digest = files.digest()
    sources.check_digest(workload.data, digest)
    train, test, card = divided.train, divided.test, workload.data.customer_column
    return Prepared(
        name="",
        train=external.batches(workload, divided),
        train_target=divided.target.iloc[train],
        test=pd.concat(external.matrices(workload, divided, test)),
        test_target=divided.target.iloc[test],
        day=_day(divided.times, test),
        card=divided.frame[card].iloc[test].to_numpy() if card else None,
        digest=digest,
        rows=len(divided.frame),
        dtypes=divided.dtypes,
        names=divided.names,
        categorical=[],
        segments=divided.frame.loc[:, list(dict.fromkeys(workload.evaluation.segments or ()))].iloc[test],
    )


def _day(times: pd.Series | None, rows: np.ndarray) -> np.ndarray | None:
    return times.iloc[rows].to_numpy().astype("datetime64[D]") if times is not None else None


@dataclass(frozen=True)
class _Division:
    """Divides the frame's rows, which are `rows` of the table."""

    frame: pd.DataFrame
    target: pd.Series
    times: pd.Series | None
    table: features.Table
    rows: np.ndarray
    card: str | None

    def rows_at(self, places: np.ndarray) -> models.Rows:
        return models.Rows(self.table.matrix(self.rows[places]), self.target.iloc[places])

    def __call__(self, parts: splitting.Parts, name: str = "") -> Fold:
        train, test = parts.train, parts.test
        return Fold(
            name,
            self.table.matrix(self.rows[train]),
            self.target.iloc[train],
            self.table.matrix(self.rows[test]),
            self.target.iloc[test],
            _day(self.times, test),
            self.frame[self.card].iloc[test].to_numpy() if self.card else None,
        )


def _sample(workload: Workload, rows: int) -> slice | np.ndarray:
    """`sampleSize` rows in their old order, so that a split by time stays one. Windows still look back at all rows."""
    size = workload.data.sample_size
    if size is None or size >= rows:
        return slice(None)
    return np.sort(np.random.default_rng(workload.model.random_state).choice(rows, size, replace=False))


def account_of(
    workload: Workload,
    prepared: Prepared,
    estimator: Any,
    test: challenge.Test,
    lineage: Lineage,
    params: dict[str, Any],
    run: Run,
) -> Account:
    """What the run has to tell, but for its folds. Everything random has the model's seed."""
    asked, scored, seed = test.evaluation, test.scored, workload.model.random_state
    metrics = evaluate.measure(scored, asked)
    return Account(
        workload=workload,
        evaluation=asked,
        scored=scored,
        counts=prepared.counts(),
        metrics=metrics,
        intervals=intervals.of(scored, asked, metrics, seed),
        features=prepared.names,
        importances=importance.permutation(
            partial(models.probabilities, estimator), prepared.test, scored.target, seed
        ),
        own_importances=models.importances(estimator, prepared.names),
        lineage={"data": stores.shown(workload.data.uri)} | lineage.told(),
        run=run.told(),
        params=params,
        segments=segments.of(prepared.segments, scored, asked, seed),
    )


def logged(account: Account) -> dict[str, float]:
    """Every metric of the run by the name that it has in MLflow."""
    bounds, parts = intervals.as_metrics(account.intervals), segments.as_metrics(account.segments)
    return account.metrics | bounds | account.counts | parts


def _with_folds(account: Account, results: Iterable[Judged], run: Run) -> Account:
    """A child run for each fold, and the means and deviations beside the run's own metrics."""
    judged = []
    for fold in results:
        tags = {"m3.fold": str(fold.number), "m3.fold.name": fold.name}
        name = f"{run.origin.name or 'run'}-fold-{fold.number}"
        run.log_child(name, fold.start, fold.end, tags, fold.counts | fold.metrics)
        judged.append(fold)
    rows = [fold.row() for fold in judged]
    return replace(account, metrics=account.metrics | folds.summary(judged), folds=rows)


def _judged(account: Account, prepared: Prepared, cluster: Engine | None, seconds: float) -> Iterator[Judged]:
    """Train on each fold, side by side where `cluster` has the places and the `seconds` of the one fit say that it is worth it.

    The rows of a fold are held while it is worked on. A class of the user's own need not be there on other nodes.
    """
    workload, asked = account.workload, account.evaluation
    numbered = enumerate(_folds(workload, prepared), start=1)
    if workload.training.folds:  # the first is the split itself, whose model is there
        yield folds.judge(lambda _: account.scored.score, asked, next(numbered))
    judge = partial(folds.judge, partial(learning.scores, workload.model, prepared.categorical), asked)
    count = workload.training.cv_folds or len(prepared.folds) - 1
    here = models.threads()
    if cluster and not _module(workload) and cluster.places(count * seconds, here) > here:
        yield from cluster.map(judge, numbered, count)
    else:
        yield from map(judge, numbered)


def _folds(workload: Workload, prepared: Prepared) -> Iterator[Fold]:
    if count := workload.training.cv_folds:
        return folds.shuffled(prepared.train, prepared.train_target, count, workload.model.random_state)
    return (part() for part in prepared.folds)


def params_of(workload: Workload, prepared: Prepared, estimator: Any) -> dict[str, Any]:
    """Every hyperparameter by the library's own name, defaults included, and what in the file bears on the metrics."""
    last = models.model_of(estimator)
    model, training = workload.model, workload.training
    chosen = {
        "model_type": model.type,
        "random_state": model.random_state,
        "features": ",".join(prepared.names),
        "target": workload.data.target,
        "threshold": None if workload.evaluation.threshold_for else workload.evaluation.threshold,
        "threshold_for": workload.evaluation.threshold_for and json.dumps(workload.evaluation.threshold_for.dump()),
        "class_weighting": model.class_weight or model.positive_weight,
        "calibration": model.calibration,
        "early_stopping": model.early_stopping and json.dumps(model.early_stopping.dump()),
        "split": json.dumps(training.split.dump()) if training.split else f"test_size={splitting.test_size(training)}",
    }
    if training.folds or training.cv_folds:
        chosen["folds"] = json.dumps(training.folds.dump()) if training.folds else f"cv_folds={training.cv_folds}"
    chosen = {name: value for name, value in chosen.items() if value is not None}
    own = {name: value for name, value in last.get_params().items() if name not in ("n_jobs", *learning.CHOSEN)}
    return own | chosen


class Clock:
    """Says each step as it begins to end, and keeps how long it took."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.watch.step(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        log.info("%-20s %6.2f s", name, self.seconds[name])
