"""More than one node: Ray's own test cluster, two real raylets of one CPU each, and a head as `ray start` makes it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import unused_port
from sklearn.metrics import average_precision_score
from support import Ended, wait_until

from m3_trainer import models, nodes, own_class
from m3_trainer.config import ModelSpec
from m3_trainer.data import sample
from m3_trainer.engine import Engine
from m3_trainer.errors import InvalidSpec, NodesUnavailable
from m3_trainer.models import Rows

pytestmark = pytest.mark.timeout(240)
STORE_BYTES = 150 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    found = Cluster()
    for _ in range(2):
        found.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    found.wait_for_nodes()
    yield found
    found.shutdown()


@pytest.fixture
def engine(cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The cluster, worth going to for any work."""
    monkeypatch.setenv("M3_THREADS", "1")
    with Engine(nodes.Asked(cluster.address, 1, spread_seconds=0, spread_cells=0)) as found:
        yield found


@pytest.fixture(scope="module")
def rows() -> tuple[Rows, Rows]:
    """Rows to learn from, and later ones to judge by."""
    frame = sample.transactions(rows=120_000)
    features = frame.filter(regex="AMOUNT|DURING|WINDOW").astype("float64")
    cut = 90_000
    return Rows(features[:cut], frame[sample.TARGET][:cut]), Rows(features[cut:], frame[sample.TARGET][cut:])


def fitted(spec: ModelSpec, rows: Rows, engine: Engine | None = None, **options: Any) -> Any:
    return models.fit(models.build(spec), rows.features, rows.target, lambda _: None, engine=engine, **options)


def of(kind: str, **hyperparameters: Any) -> ModelSpec:
    return ModelSpec.parse({"type": kind, "hyperparameters": hyperparameters})


def test_a_forest_on_two_nodes_is_that_of_one_process(engine, rows):
    spec, (learn, judge) = of("random_forest", n_estimators=12, max_depth=12), rows
    here, there = fitted(spec, learn), fitted(spec, learn, engine)
    assert engine.used == 2
    scores = [models.probabilities(each, judge.features) for each in (here, there)]
    assert np.abs(scores[0] - scores[1]).max() <= 1e-9
    assert (there.n_jobs, there.warm_start) == (here.n_jobs, here.warm_start)


def test_a_forest_whose_node_dies_loses_no_tree(engine, cluster, rows):
    import ray

    spec, (learn, judge) = of("random_forest", n_estimators=30, max_depth=12), rows
    here = models.probabilities(fitted(spec, learn), judge.features)
    engine.places(1, 1)
    doomed = cluster.list_all_nodes()[1]

    def kill() -> None:
        wait_until(lambda: ray.available_resources().get("CPU", 0) == 0, 60)  # the trees are being grown
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        there = models.probabilities(fitted(spec, learn, engine), judge.features)
    finally:
        killer.join()
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
    assert np.abs(here - there).max() <= 1e-9


@pytest.mark.parametrize("weight", [None, 20.0])
def test_boosting_on_two_nodes_is_as_good_as_in_one_process(engine, rows, weight):
    learn, judge = rows
    spec = of("xgboost", n_estimators=60, max_depth=3, learning_rate=0.1)
    weights = None if weight is None else np.where(learn.target == 1, weight, 1.0)
    here, there = (fitted(spec, learn, each, weights=weights) for each in (None, engine))
    assert engine.used == 2
    scores = [models.probabilities(each, judge.features) for each in (here, there)]
    precision = [average_precision_score(judge.target, score) for score in scores]
    assert precision[0] > 0.3
    assert precision[1] == pytest.approx(precision[0], abs=0.002)
    assert np.array_equal(models.probabilities(models.loads(models.dumps(there)), judge.features), scores[1])


def test_boosting_on_two_nodes_takes_names_gaps_and_validation_rows(engine, rows):
    learn, judge = ((each.features.copy(), each.target) for each in rows)
    for features, _ in (learn, judge):
        features["terminal"] = (features["TX_AMOUNT"] * 100 % 37).astype(int).astype(str)
        features.loc[features.index % 5 == 0, "TX_AMOUNT"] = np.nan
    spec = ModelSpec.parse(
        {"type": "xgboost", "earlyStopping": {"rounds": 5}, "hyperparameters": {"n_estimators": 60, "max_depth": 4}}
    )
    found = []
    for each in (None, engine):
        model = models.fit(
            models.build(spec, ["terminal"]), *learn, engine=each, stopping=spec.early_stopping, validation=Rows(*judge)
        )
        found.append((models.model_of(model).best_iteration, models.probabilities(model, judge[0])))
    assert found[0][0] == found[1][0] < 59
    assert average_precision_score(judge[1], found[1][1]) == pytest.approx(
        average_precision_score(judge[1], found[0][1]), abs=0.002
    )


def test_exact_trees_stay_in_the_process(engine, rows):
    spec, (learn, judge) = of("xgboost", n_estimators=3, max_depth=3, tree_method="exact"), rows
    scores = [models.probabilities(fitted(spec, learn, each), judge.features) for each in (None, engine)]
    assert engine.used == 1
    assert np.array_equal(*scores)


def test_folds_side_by_side_are_those_of_one_process(cluster, m3, job_file, monkeypatch):
    monkeypatch.setenv("M3_SPREAD_SECONDS", "0")
    monkeypatch.setenv("M3_THREADS", "1")
    asked = job_file(training={"testSize": 0.2, "cvFolds": 3})
    here = result(m3("run", "-f", asked, "--output", "json"))
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    there = result(m3("run", "-f", asked, "--output", "json"))
    assert {"cv_average_precision_mean", "cv_average_precision_std"} <= here["metrics"].keys()
    assert there["metrics"] == {name: pytest.approx(value, abs=1e-9) for name, value in here["metrics"].items()}
    assert tag(there, "m3.nodes") == "2"


def test_what_a_fold_raises_is_raised_as_in_one_process(engine):
    with pytest.raises(InvalidSpec, match=r"^model.type: m3_trainer.models:Rows must have the method fit"):
        list(engine.map(own_class.import_class, ["m3_trainer.models:Rows"], 1))


def result(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def tag(told: dict[str, Any], name: str) -> str:
    import mlflow

    return mlflow.MlflowClient(told["run"]["trackingUri"]).get_run(told["run"]["runId"]).data.tags[name]


# --- RAY_ADDRESS ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head of its own, as `ray start` makes it, with a token: what a process needs in its environment to use it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests-that-is-long-enough"}
    folder, (port, client) = tmp_path_factory.mktemp("head"), (unused_port(), unused_port())
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
        f"--ray-client-server-port={client}", "--include-dashboard=false", "--disable-usage-stats",
        f"--object-store-memory={STORE_BYTES}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        own = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_")
        }  # not the other cluster's
        process = subprocess.Popen(command, stdout=log, stderr=log, env=own | token)
    try:
        wait_until(lambda: "Ray runtime started" in (folder / "log").read_text(), 60, (folder / "log").read_text)
        yield token | {"RAY_ADDRESS": f"ray://127.0.0.1:{client}", "M3_SPREAD_SECONDS": "0", "M3_THREADS": "1"}
    finally:
        process.terminate()
        process.wait(30)


def test_a_cluster_that_is_there_is_used_from_outside(head, m3_process: Callable[..., Ended], job_file):
    asked = job_file(training={"testSize": 0.2, "cvFolds": 2})
    here = result(m3_process("run", "-f", asked, "--output", "json"))
    there = result(m3_process("run", "-f", asked, "--output", "json", **head))
    assert there["metrics"] == {name: pytest.approx(value, abs=1e-9) for name, value in here["metrics"].items()}
    assert tag(there, "m3.nodes") == "1"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "127.0.0.1", "ray://", "somewhere", "ray://user:pw@host:1"]
)
def test_an_address_that_is_none_is_refused_before_anything_is_read(m3, job_file, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    ended = m3("run", "-f", job_file(data={"uri": "no-such-file.csv"}))
    assert ended.code == 2
    assert (
        "RAY_ADDRESS must be ray://HOST:PORT (a cluster's client server, mostly port 10001), HOST:PORT of a cluster"
        in ended.err
    )
    assert f"is '{address}'" in ended.err
    assert "Traceback" not in ended.err


def test_a_cluster_that_is_not_there_is_said(m3, job_file, monkeypatch):
    address = f"ray://127.0.0.1:{unused_port()}"
    for name, value in (("RAY_ADDRESS", address), ("M3_SPREAD_SECONDS", "0"), ("M3_THREADS", "1")):
        monkeypatch.setenv(name, value)
    ended = m3("run", "-f", job_file())
    assert ended.code == 16
    told = f"the Ray cluster at {address} must be there, and let this job in (one with tokens wants RAY_AUTH_MODE=token and"
    assert told in ended.err
    assert "Connection refused" in ended.err
    assert "Traceback" not in ended.err


def test_a_small_training_does_not_wait_for_ray(m3, job_file, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{unused_port()}")  # nobody listens there
    told = result(m3("run", "-f", job_file(), "--output", "json"))
    assert tag(told, "m3.nodes") == "1"


def test_a_cluster_of_other_versions_is_refused(engine, monkeypatch):
    from m3_trainer import engine as module

    real = module.versions()
    monkeypatch.setattr(module, "SAME", ("numpy",))
    engine.places(1, 1)
    monkeypatch.setattr(module.platform, "python_version", lambda: "3.99.1")
    with pytest.raises(InvalidSpec) as refused:
        module._same_versions("ray://there:10001")
    assert str(refused.value) == (
        "RAY_ADDRESS: the nodes of ray://there:10001 must have the versions of this machine; Python is "
        f"{real['Python']} there and 3.99.1 here: use one image for both, or unset RAY_ADDRESS to train here"
    )


def test_worker_nodes_that_do_not_come_are_not_waited_for_for_ever(cluster, monkeypatch, caplog):
    from m3_trainer import engine as module

    monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    with caplog.at_level("INFO"), Engine(nodes.Asked(cluster.address, 5)) as found:
        assert found.places(100, 1) == 2
    assert "waits for the worker nodes: 1 of 5 have joined" in caplog.text
    assert "1 of 5 worker nodes have joined in 0 s: goes on with those" in caplog.text


def test_a_node_that_is_lost_again_and_again_ends_the_attempt(engine):
    from ray.exceptions import NodeDiedError

    def lose() -> None:
        raise NodeDiedError("its machine is gone")

    with pytest.raises(
        NodesUnavailable, match=r"^the Ray cluster at .* must be there, and let this job in: its machine is gone"
    ):
        engine._in_spite_of_losses(lose)
