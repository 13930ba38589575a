"""A fitted model into MLflow and its registry: ours against what MLflow does by default, in a database file and on a server.

Each figure is of a process of its own, which has made rows and fitted the sample job's forest before the clock starts; both have
imported MLflow by then, and `m3` also what it imports beside the fit. All log the same: parameters, metrics, the data set, the
model with signature and input example, and a registered version. `whole` is `m3` with all that it leaves beside that: intervals,
importances, seven pictures, report and card.

`ratio`, which has the goal, is of the steps alone: the second to fourth model of a process, when all is imported on both sides.
`ratio_of_first` is of the first model; `added_seconds` is by how much the whole process, imports of MLflow and its
database included, takes longer than one that fits and logs nothing. Usage: python benchmarks/log_and_register.py [--runs 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import SAMPLE, machine, timed, unused_port, write

GOAL_RATIO = 0.1
MODELS = 4
Step = Callable[[], None]


def prepared() -> Any:
    """Rows, a fitted forest and its metrics, as both sides get them."""
    from m3_trainer import evaluate, files, models, train

    workload = files.read_job(str(SAMPLE)).workload
    found = train.prepare(workload)
    estimator = models.fit(models.build(workload.model), found.train, found.train_target)
    scored = found.scored_by(estimator)
    return workload, found, estimator, scored, evaluate.measure(scored, workload.evaluation)


def nothing(_: str | None, __: Path) -> Step:
    prepared()
    return lambda: None


def ours(uri: str | None, home: Path, with_report: bool = False) -> Step:
    from m3_trainer import challenge, registry, tracking, train
    from m3_trainer.lineage import Code, Lineage
    from m3_trainer.origin import Origin

    tracker = tracking.Tracker.choose(uri, home)
    tracker.client()
    workload, found, estimator, scored, metrics = prepared()

    def step() -> None:
        with tracking.open_run(tracker, "benchmark", Origin()) as run:
            code = Code.around(os.environ) if with_report else Code()
            lineage = Lineage(found.digest, found.rows, workload.digest(), code)
            params = train.params_of(workload, found, estimator)
            run.log(params=params, tags=lineage.tags())
            run.log_dataset(workload.data, found.digest, found.dtypes, found.rows)
            card, told = "", metrics
            if with_report:
                test = challenge.Test(found.test, scored, workload.evaluation)
                account = train.account_of(workload, found, estimator, test, lineage, params, run)
                told, card = train.logged(account), account.card()
                run.log_files(account.files() | challenge.rows_file(found.train, found.train_target))
            run.log(metrics=told)
            model = registry.store(run, estimator, found.test, workload.evaluation.threshold)
            registry.register(run, model, "benchmark", card)

    return step


def whole(uri: str | None, home: Path) -> Step:
    return ours(uri, home, with_report=True)


def calls(uri: str | None, home: Path) -> Step:
    """MLflow's own calls with their defaults, as its documentation shows them. A forest needs its type to be named."""
    import mlflow
    import mlflow.sklearn as mlflow_sklearn
    from mlflow.data.pandas_dataset import from_pandas

    _empty(uri, home)
    _, found, estimator, _, metrics = prepared()

    def step() -> None:
        with mlflow.start_run():
            mlflow.log_params(estimator.get_params())
            mlflow.log_metrics(metrics)
            rows = found.train.assign(target=found.train_target)
            mlflow.log_input(from_pandas(rows, targets="target"), context="training")
            mlflow_sklearn.log_model(
                estimator,
                name="model",
                input_example=found.test.head(),
                registered_model_name="benchmark",
                skops_trusted_types=["sklearn.tree._tree.Tree"],
            )

    return step


def _empty(uri: str | None, home: Path) -> None:
    """The database, as ours has it made before the clock starts."""
    import mlflow

    mlflow.set_tracking_uri(uri or f"sqlite:///{home / 'mlflow.db'}")
    if uri is None:
        mlflow.create_experiment("benchmark", artifact_location=(home / "artifacts").as_uri())
    mlflow.set_experiment("benchmark")


SIDES: dict[str, Callable[[str | None, Path], Step]] = {each.__name__: each for each in (nothing, ours, whole, calls)}
STORES = {"file": ("ours", "whole", "calls", "nothing"), "server": ("ours", "whole", "calls")}


@contextlib.contextmanager
def server(home: Path) -> Iterator[str]:
    """MLflow's own server on this machine, which answers."""
    port = unused_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    stores = [f"--backend-store-uri=sqlite:///{home / 'server.db'}", f"--artifacts-destination={home / 'server'}"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "server.log").open("wb") as log:
        running = subprocess.Popen([*command, *stores], env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"{uri}/health", running)
        yield uri
    finally:
        running.terminate()
        running.wait()


def _wait_for(address: str, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    raise SystemExit(f"MLflow's server must answer at {address}")


def measured(side: str, uri: str | None) -> dict[str, Any]:
    """Seconds of the whole process, of its first model, and of the median of the others."""
    with tempfile.TemporaryDirectory() as home:
        done = timed([sys.executable, __file__, "--side", side, "--home", home, *(["--uri", uri] if uri else [])])
    first, *others = done["output"]["seconds"]
    return {
        "process": round(done["wall_seconds"] - sum(others), 3),
        "first": first,
        "steps": round(statistics.median(others), 3),
    }


def seconds_of(side: str, uri: str | None, home: Path) -> list[float]:
    step, seconds = SIDES[side](uri, home), []
    for _ in range(MODELS):
        start = time.perf_counter()
        step()
        seconds.append(round(time.perf_counter() - start, 3))
    return seconds


def figures(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Ratios are medians over the rounds, ours ÷ theirs in seconds."""

    def median(of: Callable[[dict[str, dict[str, Any]]], float]) -> float:
        return round(statistics.median(of(one) for one in rounds), 3)

    def ratio(store: str, ours: str, what: str) -> float:
        return median(lambda one: one[f"{ours}/{store}"][what] / one[f"calls/{store}"][what])

    sides = list(rounds[0])
    return {
        "ratio": max(ratio(store, "ours", "steps") for store in STORES),
        "goal_ratio": GOAL_RATIO,
        "ratio_by_store": {store: ratio(store, "ours", "steps") for store in STORES},
        "ratio_of_first": {store: ratio(store, "ours", "first") for store in STORES},
        "ratio_of_whole": {store: ratio(store, "whole", "steps") for store in STORES},
        "added_seconds": {
            side: median(lambda one, side=side: one[side]["process"] - one["nothing/file"]["process"])
            for side in sides
            if side.startswith(("ours", "whole", "calls"))
        },
        "median_seconds": {
            what: {side: median(lambda one, side=side, what=what: one[side][what]) for side in sides}
            for what in ("steps", "first", "process")
        },
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="rounds, after a process that warms the disk's cache")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps({"seconds": seconds_of(asked.side, asked.uri, asked.home)}))
        return
    with tempfile.TemporaryDirectory() as home, server(Path(home)) as uri:
        uris = {"file": None, "server": uri}
        measured("whole", uri)
        rounds = [
            {f"{side}/{store}": measured(side, uris[store]) for store, sides in STORES.items() for side in sides}
            for _ in range(asked.runs)
        ]
    command = f"make bench-logging (--runs {asked.runs})"
    write("logging", {"command": command, "date": time.strftime("%Y-%m-%d")} | machine() | figures(rounds))


if __name__ == "__main__":
    main()
