"""A fitted model into MLflow and its registry: ours against what MLflow does by default.

Each figure is of a process of its own, which has made rows, fitted the sample job's forest and made MLflow's database before the
clock starts; imports of the flavour that logs are part of it. All log the same: parameters, metrics, the data set, the model
with signature and input example, and a registered version. `whole` is `m3` with all that it leaves beside that: intervals,
importances, seven pictures, report and card. `autolog` is what one line of MLflow adds to a fit.

Usage: python benchmarks/log_and_register.py [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import SAMPLE, machine, timed, write

GOAL_RATIO = 0.1
SEED_FIT = {"n_estimators": 100, "max_depth": 10, "random_state": 42, "n_jobs": -1}


def prepared() -> Any:
    """Rows, a fitted forest and its metrics, as both sides get them."""
    from m3_trainer import evaluate, files, models, train

    workload = files.read_job(str(SAMPLE)).workload
    found = train.prepare(workload)
    estimator = models.fit(models.build(workload.model), found.train, found.train_target)
    scored = found.scored_by(estimator)
    return workload, found, estimator, scored, evaluate.measure(scored, workload.evaluation)


def ours(home: Path, with_report: bool) -> float:
    from m3_trainer import challenge, registry, tracking, train
    from m3_trainer.lineage import Code, Lineage
    from m3_trainer.origin import Origin

    workload, found, estimator, scored, metrics = prepared()
    tracker = tracking.Tracker.choose(None, home)
    tracker.client()
    with tracking.open_run(tracker, "benchmark", Origin()) as run:
        start = time.perf_counter()
        lineage = Lineage(
            found.digest, found.rows, workload.digest(), Code.around(os.environ) if with_report else Code()
        )
        params = train.params_of(workload, found, estimator)
        run.log(params=params, tags=lineage.tags())
        run.log_dataset(workload.data, found.digest, found.dtypes, found.rows)
        card = ""
        if with_report:
            test = challenge.Test(found.test, scored, workload.evaluation)
            account = train.account_of(workload, found, estimator, test, lineage, params, run)
            metrics, card = train.logged(account), account.card()
            run.log_files(account.files() | challenge.rows_file(found.train, found.train_target))
        run.log(metrics=metrics)
        uri = registry.store(run, estimator, found.test, workload.evaluation.threshold)
        registry.register(run, uri, "benchmark", card)
        return time.perf_counter() - start


def by_calls(home: Path) -> float:
    """MLflow's own calls with their defaults, as its documentation shows them. A forest needs its type to be named."""
    import mlflow

    _, found, estimator, _, metrics = prepared()
    _empty(home)
    with mlflow.start_run():
        start = time.perf_counter()
        mlflow.log_params(estimator.get_params())
        mlflow.log_metrics(metrics)
        from mlflow.data.pandas_dataset import from_pandas

        mlflow.log_input(
            from_pandas(found.train.assign(target=found.train_target), targets="target"), context="training"
        )
        import mlflow.sklearn as mlflow_sklearn

        mlflow_sklearn.log_model(
            estimator,
            name="model",
            input_example=found.test.head(),
            registered_model_name="benchmark",
            skops_trusted_types=["sklearn.tree._tree.Tree"],
        )
        return time.perf_counter() - start


def by_autolog(home: Path) -> float:
    """What `mlflow.sklearn.autolog()` adds to a fit."""
    import mlflow
    import mlflow.sklearn as mlflow_sklearn
    from sklearn.ensemble import RandomForestClassifier

    _, found, *_ = prepared()
    _empty(home)

    def fit() -> float:
        start = time.perf_counter()
        RandomForestClassifier(**SEED_FIT).fit(found.train, found.train_target)
        return time.perf_counter() - start

    bare = fit()
    mlflow_sklearn.autolog(registered_model_name="benchmark", log_input_examples=True)
    with mlflow.start_run():
        return fit() - bare


def _empty(home: Path) -> None:
    """The database, as ours has it made before the clock starts."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    mlflow.create_experiment("benchmark", artifact_location=(home / "artifacts").as_uri())
    mlflow.set_experiment("benchmark")


SIDES: dict[str, Callable[[Path], float]] = {
    "ours": lambda home: ours(home, with_report=False),
    "whole": lambda home: ours(home, with_report=True),
    "calls": by_calls,
    "autolog": by_autolog,
}


def measured(side: str) -> float:
    with tempfile.TemporaryDirectory() as home:
        return timed([sys.executable, __file__, "--side", side, "--home", home])["output"]["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds, after one that warms the disk's cache")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        seconds = SIDES[asked.side](asked.home)
        print(json.dumps({"seconds": round(seconds, 3)}))
        return
    rounds = [{side: measured(side) for side in SIDES} for _ in range(asked.runs + 1)][1:]
    seconds = {side: [one[side] for one in rounds] for side in SIDES}
    median = {side: statistics.median(values) for side, values in seconds.items()}
    found = {
        "ratio": round(statistics.median(one["ours"] / one["calls"] for one in rounds), 3),
        "goal_ratio": GOAL_RATIO,
        "ratio_to_autolog": round(statistics.median(one["ours"] / one["autolog"] for one in rounds), 3),
        "ratio_of_whole": round(statistics.median(one["whole"] / one["calls"] for one in rounds), 3),
        "median_seconds": {side: round(value, 3) for side, value in median.items()},
        "seconds": seconds,
    }
    command = f"make bench-logging (--runs {asked.runs})"
    write("logging", {"command": command, "date": time.strftime("%Y-%m-%d")} | machine() | found)


if __name__ == "__main__":
    main()
