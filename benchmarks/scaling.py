"""A forest, folds and a boosting on 1 to 4 nodes of Ray's own test cluster, each node of one CPU, beside one process.

Up to as many nodes as the machine has cores it is a scaling curve; beyond that the same cores do the same work, and what it
takes more is the overhead of a node. Each cluster is one of real raylets; the start of Python on the nodes is counted, that of
the cluster is not. The model of every side is asked for its scores: those of forest and folds are the same.
Usage: python benchmarks/scaling.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from harness import machine, timed, write
from sklearn.metrics import average_precision_score

from m3_trainer import folds, learn, models, nodes
from m3_trainer.config import Evaluation, ModelSpec
from m3_trainer.data import sample
from m3_trainer.engine import Engine
from m3_trainer.models import Rows

NODES = (1, 2, 4)
ROWS, TEST_ROWS, FOLDS = 200_000, 40_000, 4
STORE_BYTES = 200 * 2**20
FOREST = ModelSpec.parse({"type": "random_forest", "hyperparameters": {"n_estimators": 60}})
FOREST_OF_A_FOLD = ModelSpec.parse({"type": "random_forest", "hyperparameters": {"n_estimators": 12}})
BOOSTING = ModelSpec.parse({"type": "xgboost", "hyperparameters": {"n_estimators": 600, "max_depth": 6}})
ASKED = Evaluation.parse({"metrics": ["average_precision"]})


def rows() -> tuple[Rows, Rows]:
    frame = sample.transactions(rows=ROWS)
    features, target = frame.filter(regex="AMOUNT|DURING|WINDOW").astype("float64"), frame[sample.TARGET]
    cut = ROWS - TEST_ROWS
    return Rows(features[:cut], target[:cut]), Rows(features[cut:], target[cut:])


@contextmanager
def cluster(count: int) -> Iterator[Engine | None]:
    """So many nodes; none is this process alone."""
    if not count:
        yield None
        return
    from ray.cluster_utils import Cluster

    found = Cluster()
    for _ in range(count):
        found.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    found.wait_for_nodes()
    with Engine(nodes.Asked(found.address, count - 1, spread_seconds=0, spread_cells=0)) as engine:
        engine.places(1, 1)
        yield engine
    found.shutdown()


def one_side(count: int, threads: int) -> dict[str, Any]:
    """What the process of one side prints."""
    os.environ["M3_THREADS"] = str(threads)
    learned, judged = rows()
    found = {}
    with cluster(count) as engine:
        for name, spec in (("forest", FOREST), ("boosting", BOOSTING)):
            start = time.perf_counter()
            model = _forest(spec, learned, engine) if name == "forest" else _boosting(spec, learned, engine)
            seconds = time.perf_counter() - start
            score = models.probabilities(model, judged.features)
            precision = average_precision_score(judged.target, score)
            found[name] = {"seconds": round(seconds, 2), "average_precision": round(float(precision), 6)}
        start = time.perf_counter()
        mean = np.mean([each.metrics["average_precision"] for each in _folds(learned, engine)])
        found["folds"] = {"seconds": round(time.perf_counter() - start, 2), "average_precision": round(float(mean), 6)}
    return found


def _forest(spec: ModelSpec, learned: Rows, engine: Engine | None) -> Any:
    model = models.build(spec)
    if engine is None:
        return model.fit(learned.features, learned.target)
    engine.grow(model, learned.features, learned.target, {})
    return model


def _boosting(spec: ModelSpec, learned: Rows, engine: Engine | None) -> Any:
    model = models.build(spec)
    return (
        engine.boost(model, learned.features, learned.target, {})
        if engine
        else model.fit(learned.features, learned.target)
    )


def _folds(learned: Rows, engine: Engine | None) -> list[folds.Judged]:
    numbered = enumerate(folds.shuffled(learned.features, learned.target, FOLDS, seed=1), start=1)
    judge = partial(folds.judge, partial(learn.scores, FOREST_OF_A_FOLD, ()), ASKED)
    return list(engine.map(judge, numbered, FOLDS) if engine else map(judge, numbered))


def measured(count: int, threads: int) -> dict[str, Any]:
    return timed([sys.executable, __file__, "--nodes", str(count), "--threads", str(threads)])["output"]


def curve(kind: str, alone: dict[str, Any], spread: dict[int, dict[str, Any]]) -> dict[str, Any]:
    seconds = {count: side[kind]["seconds"] for count, side in spread.items()}
    return {
        "seconds_on_nodes": {str(count): value for count, value in seconds.items()},
        "speedup_of_2_nodes": round(seconds[1] / seconds[2], 2),
        "seconds_more_for_a_node_beyond_the_cores": round((seconds[NODES[-1]] - seconds[2]) / (NODES[-1] - 2), 2),
        "ratio_2_nodes_to_1_process_of_2_threads": round(seconds[2] / alone[kind]["seconds"], 2),
        "average_precision": {"one process": alone[kind]["average_precision"]}
        | {str(count): side[kind]["average_precision"] for count, side in spread.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, help="one side alone; 0 is one process")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    if asked.nodes is not None:
        print(json.dumps(one_side(asked.nodes, asked.threads)))
        return
    alone = measured(0, 2)
    spread = {count: measured(count, 1) for count in NODES}
    found = {kind: curve(kind, alone, spread) for kind in alone}
    result = {
        "command": "make bench-scaling",
        "date": time.strftime("%Y-%m-%d"),
        "ratio": found["forest"]["ratio_2_nodes_to_1_process_of_2_threads"],
        **machine(),
        "rows": ROWS - TEST_ROWS,
        "one_process_of_2_threads": alone,
        **found,
    }
    write("scaling", result)


if __name__ == "__main__":
    main()
