"""Ray, where a training has more than one node: the trees of a forest by joblib, boosting by Ray Train, folds as tasks.

The one module that trains on Ray; what goes where is decided in `nodes`. The cluster is looked for when there is enough to do
for it, not before: a training that is over in seconds does not wait for Ray.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from m3_trainer import nodes
from m3_trainer.errors import InvalidSpec, NodesUnavailable, last_line
from m3_trainer.nodes import Asked, Nodes

log = logging.getLogger(__name__)

LOSSES = 3
"""How often a node may be lost under one piece of work."""
WAIT_SECONDS, PAUSE_SECONDS = 120.0, 0.5
"""How long worker nodes are waited for; those that come later are used from the next portion of a forest on."""
LOOK_SECONDS = 10.0
TRIES = 3
SAME = ("m3-ml", "numpy", "pandas", "scikit-learn", "xgboost-cpu", "lightgbm")
"""Packages whose objects go from node to node: Ray itself sees to its own version, and to Python's."""

T = TypeVar("T")
R = TypeVar("R")


def of(environment: Mapping[str, str]) -> Engine | None:
    """The engine for the cluster that the environment names; None where one node is all there is. Raises `InvalidSpec`."""
    asked = nodes.asked(environment)
    return Engine(asked) if asked else None


class Engine:
    """A Ray cluster, connected to when it is first needed. Its methods raise `NodesUnavailable`, `InvalidSpec`."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._free: int | None = None
        self.used = 1
        """Nodes that have had a part in the training."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_connected:
            import ray

            ray.shutdown()

    @property
    def _is_connected(self) -> bool:
        return self._free is not None

    def places(self, seconds: float, here: int) -> int:
        """CPUs to do the work on that takes `seconds` with the `here` CPUs of this process: those, where it is not worth more."""
        if seconds <= self._asked.spread_seconds and not self._is_connected:
            return here
        return max(here, self._cpus())

    def boosts(self, model: Any, rows: int, features: int) -> bool:
        """Whether the model is to be boosted in parts."""
        if not nodes.boosts_in_parts(model) or nodes.cells(model, rows, features) <= self._asked.spread_cells:
            return False
        return len(self._nodes().cpus) > 1

    def _cpus(self) -> int:
        """Of a cluster that is shared, those that were free when it was first looked at."""
        found = self._nodes().total
        return found if self._asked.workers is not None or self._free is None else min(found, self._free)

    def _nodes(self) -> Nodes:
        """The nodes that are there now."""
        self._connect()
        import ray

        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        return Nodes(tuple(each for each in cpus if each))

    def _connect(self) -> None:
        if self._is_connected:
            return
        import ray

        with _reachable(self._asked.address):
            _look(self._asked.address)
            if not ray.is_initialized():
                _init(self._asked.address)
            if self._asked.workers is None:
                _same_versions(self._asked.address)
            else:
                _wait_for(self._asked.workers)
            self._free = int(ray.available_resources().get("CPU", 0))
        found = self._nodes()
        log.info("trains on %d nodes with %d CPUs", len(found.cpus), found.total)

    # --- the work -----------------------------------------------------------------------------------------------------
    def grow(self, forest: Any, features: pd.DataFrame, target: pd.Series, arguments: Mapping[str, Any]) -> None:
        """Fit a forest of scikit-learn, its trees on all nodes. Those that a lost node takes with it are grown again: each is
        seeded by its number, so they are the same."""
        import ray

        own = forest.n_jobs

        def fit() -> None:
            if not self._asked.address.startswith("ray://"):
                _grown(self._cpus(), forest, features, target, arguments)
                return
            # joblib's pool waits for ever on a cluster that it sees from outside: there it is made by a task
            task = ray.remote(num_cpus=0)(_grown)
            vars(forest).update(vars(_result(task.remote(self._cpus(), forest, features, target, arguments))))

        try:
            self._in_spite_of_losses(fit)
        finally:
            forest.set_params(n_jobs=own)

    def _in_spite_of_losses(self, work: Callable[[], R]) -> R:
        from ray.exceptions import RayError

        for left in reversed(range(LOSSES + 1)):
            try:
                self.used = max(self.used, len(self._nodes().cpus))
                return work()
            except RayError as lost:
                if not left:
                    raise _unavailable(self._asked.address, lost) from lost
                log.warning("a node was lost, and its part is done again: %s", _first_line(lost))
        raise AssertionError("returned or raised")

    def boost(self, model: Any, features: pd.DataFrame, target: pd.Series, arguments: Mapping[str, Any]) -> Any:
        """Fit an XGBClassifier by Ray Train, a share of the rows on each node; gives another object.

        Ray Train begins anew where a node is lost, with those that are left.
        """
        import ray

        found = self._nodes()
        self.used = max(self.used, len(found.cpus))
        weight = arguments.get("sample_weight")
        features = in_bins(model, features, weight)
        parts = [
            ray.put((features.iloc[rows], target.iloc[rows], None if weight is None else weight[rows]))
            for rows in nodes.shards(target.to_numpy(), len(found.cpus))
        ]
        others = {name: value for name, value in arguments.items() if name != "sample_weight"}
        told = {"parts": parts, "rest": ray.put((model, others)), "cpus": min(found.cpus)}
        # Ray Train is run by a task in the cluster: it cannot be from outside, which a process with ray://… is.
        return self._in_spite_of_losses(lambda: _result(ray.remote(num_cpus=0)(_boost).remote(told)))

    def map(self, function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
        """The function of each of `count` items, side by side, in their order. Only as many items are held as are worked on.

        Ray does the part of a lost node again. What the function raises is raised.
        """
        import ray
        from ray.exceptions import RayError

        found = self._nodes()
        self.used = max(self.used, len(found.cpus))
        cpus = found.cpus_each(count)
        task = ray.remote(num_cpus=cpus, max_retries=LOSSES, scheduling_strategy="SPREAD")(_with_threads)
        running: deque[Any] = deque()

        def first() -> R:
            try:
                return _result(running.popleft())
            except RayError as lost:
                raise _unavailable(self._asked.address, lost) from lost

        for item in items:
            if len(running) >= found.places(cpus):
                yield first()
            running.append(task.remote(cpus, function, item))
        while running:
            yield first()


def _grown(cpus: int, forest: Any, features: pd.DataFrame, target: pd.Series, arguments: Mapping[str, Any]) -> Any:
    """The forest, fitted on so many CPUs of the cluster."""
    import joblib
    from ray.util.joblib import register_ray

    register_ray()
    # its pool warns of what its own backend passes
    logging.getLogger("ray.util.multiprocessing.pool").setLevel(logging.ERROR)
    with joblib.parallel_config(backend="ray", ray_remote_args={"num_cpus": 1}):
        return forest.set_params(n_jobs=cpus).fit(features, target, **arguments)


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _with_threads(cpus: int, function: Callable[[T], R], item: T) -> R:
    """In a worker's process: as many threads as it has CPUs."""
    os.environ["M3_THREADS"] = str(cpus)
    return function(item)


def _result(reference: Any) -> Any:
    """What a task has given, or what it has raised, as if it had been called here."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def in_bins(model: Any, features: pd.DataFrame, weight: np.ndarray | None) -> pd.DataFrame:
    """The features, each value moved to the lower edge of the bin that xgboost puts it into when it sees all rows.

    From these every share of the rows leads to the same edges, which otherwise are merged from sketches of the shares: so the
    trees are those of one process but for the order in which gradients are added.
    """
    import xgboost

    whole = xgboost.QuantileDMatrix(
        features,
        weight=weight,
        max_bin=model.max_bin,
        feature_types=model.feature_types,
        enable_categorical=bool(model.enable_categorical),
    )
    starts, edges = whole.get_quantile_cut()
    moved = {}
    for number, name in enumerate(features):
        own, values = edges[starts[number] : starts[number + 1]], features[name].to_numpy(dtype="float32")
        is_size = model.feature_types is None or model.feature_types[number] == "q"
        if is_size and len(own) > 1:  # of a column without any value there are none
            below = np.searchsorted(own, values, side="right") - 1
            values = np.where(np.isnan(values), values, own[np.clip(below, 0, len(own) - 2)])
        moved[name] = values
    return pd.DataFrame(moved, index=features.index)


# --- in the cluster: boosting by Ray Train ----------------------------------------------------------------------------
def _boost(told: dict[str, Any]) -> Any:
    """The fitted model. Its workers are as many as there are parts, or as nodes are left."""
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.xgboost import XGBoostTrainer

    with tempfile.TemporaryDirectory() as folder:  # no checkpoints, so nothing that other nodes would have to see
        trainer = XGBoostTrainer(
            _boost_part,
            train_loop_config=told,
            scaling_config=ScalingConfig(
                num_workers=(1, len(told["parts"])),
                resources_per_worker={"CPU": told["cpus"]},
                placement_strategy="SPREAD",
            ),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=LOSSES)),
        )
        try:
            return trainer.fit().return_value
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {}).values()
            if failures and not any(isinstance(each, RayError) for each in failures):
                raise ValueError(last_line(error)) from None  # xgboost's own words
            raise NodesUnavailable(f"the nodes must be there while they boost: {last_line(error)}") from None


def _boost_part(told: dict[str, Any]) -> Any:
    """In a worker of Ray Train: fit on its parts of the rows; xgboost adds the gradients up with the other workers."""
    import ray.train

    context = ray.train.get_context()
    own = told["parts"][context.get_world_rank() :: context.get_world_size()]
    parts = list(zip(*map(_get, own), strict=True))
    model, arguments = _get(told["rest"])
    if parts[2][0] is not None:
        arguments = arguments | {"sample_weight": np.concatenate(parts[2])}
    model.set_params(n_jobs=told["cpus"])
    return model.fit(pd.concat(parts[0]), pd.concat(parts[1]), **arguments)


# --- the way to the cluster -------------------------------------------------------------------------------------------
@contextmanager
def _reachable(address: str) -> Iterator[None]:
    """What Ray says where there is no cluster, or none that would have us. Raises `NodesUnavailable`."""
    import ray.exceptions

    try:
        yield
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _unavailable(address, error) from error


def _look(address: str) -> None:
    """Whether anybody listens there: Ray itself finds out after half a minute. Raises OSError."""
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=LOOK_SECONDS).close()


def _init(address: str) -> None:
    """Raises what Ray raises.

    The server of `ray://` starts a process for each client, and that now and then hangs before it has begun (a fork beside
    threads of gRPC). Ray then refuses the client after 30 s, and the next try gets another process.
    """
    import ray

    for left in reversed(range(TRIES)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
            return
        except ConnectionAbortedError as error:
            if not left or not address.startswith("ray://"):
                raise
            log.warning("%s has not let this process in, and is asked again: %s", address, _first_line(error))


def _unavailable(address: str, error: BaseException) -> NodesUnavailable:
    token = (
        " (one with tokens wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)" if isinstance(error, ConnectionError) else ""
    )
    return NodesUnavailable(
        f"the Ray cluster at {address} must be there, and let this job in{token}: {_first_line(error)}"
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _wait_for(workers: int) -> None:
    """Until the worker nodes have joined, the head being there; after a time without those that have not."""
    import ray

    deadline, told = time.monotonic() + WAIT_SECONDS, -1
    while (joined := sum(node["Alive"] for node in ray.nodes()) - 1) < workers:
        if time.monotonic() > deadline:
            log.warning("%d of %d worker nodes have joined in %d s: goes on with those", joined, workers, WAIT_SECONDS)
            return
        if joined != told:
            log.info("waits for the worker nodes: %d of %d have joined", joined, workers)
        told = joined
        time.sleep(PAUSE_SECONDS)


def versions() -> dict[str, str]:
    """Of the packages whose objects go from node to node."""
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return {"Python": platform.python_version()} | {name: found.get(name, "missing") for name in SAME}


def _same_versions(address: str) -> None:
    """A cluster that is not of the job's own making may run anything. Raises `InvalidSpec`."""
    import ray

    try:
        theirs = ray.get(ray.remote(num_cpus=0)(versions).remote())
    except ray.exceptions.RayTaskError as error:
        raise InvalidSpec(
            f"RAY_ADDRESS: the nodes of {address} must have this version of M3 installed, as M3's trainer image has: "
            f"{_first_line(error.cause)}"
        ) from error
    ours = versions()
    if differ := [name for name in ours if ours[name] != theirs[name]]:
        name = differ[0]
        raise InvalidSpec(
            f"RAY_ADDRESS: the nodes of {address} must have the versions of this machine; {name} is {theirs[name]} there and "
            f"{ours[name]} here: use one image for both, or unset RAY_ADDRESS to train here"
        )
