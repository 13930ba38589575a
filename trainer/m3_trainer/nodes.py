"""What runs where, once there is more than one node to use. Decided here; `engine` does it by Ray.

What is spread gives the model of one process: a forest and folds to the last bit, boosting but for the order in which gradients
are added. So boosting is decided by figures that are the same on every run; a forest and folds may go by the clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3_trainer.errors import InvalidSpec

ADDRESS, WORKERS = "RAY_ADDRESS", "M3_WORKERS"
"""The cluster, and how many worker nodes it is going to have: the operator's word for its own clusters."""
ANY = "any"
"""As many as there are: the cluster is not of the job's own making."""
SPREAD_SECONDS_VARIABLE = "M3_SPREAD_SECONDS"
SPREAD_SECONDS = 20.0
"""Work of fewer seconds stays in the process: to connect and start Python on each node takes up to ten."""
SPREAD_CELLS = 5_000_000_000
"""Boosting of fewer rows × features × rounds stays in the process: about ten seconds of one core."""
HOST = r"[^\s/:@]+:\d{1,5}"
ADDRESSES = re.compile(rf"auto|{HOST}|ray://{HOST}")


@dataclass(frozen=True)
class Asked:
    """The cluster to use; `workers` is the number of its worker nodes, None where it is what it is."""

    address: str
    workers: int | None
    spread_seconds: float = SPREAD_SECONDS
    spread_cells: int = SPREAD_CELLS


def asked(environment: Mapping[str, str]) -> Asked | None:
    """The cluster of this environment; None where one node is all there is. Raises `InvalidSpec`.

    Ray tells each of its jobs the address of its cluster, also of one with a head alone: there the operator's word is needed.
    """
    address, workers = environment.get(ADDRESS), environment.get(WORKERS)
    if not address or (environment.get("M3_JOB_UID") and not workers):
        return None
    if not ADDRESSES.fullmatch(address):
        raise InvalidSpec(
            f"{ADDRESS} must be ray://HOST:PORT (a cluster's client server, mostly port 10001), HOST:PORT of a cluster that this "
            f"machine is a node of, or auto; is {address!r}: correct it, or unset it to train on this machine alone"
        )
    told = environment.get(SPREAD_SECONDS_VARIABLE)
    count = int(workers) if workers and workers != ANY else None
    return Asked(address, count, *((float(told), 0) if told else ()))


@dataclass(frozen=True)
class Nodes:
    """CPUs of each node that has some, in no order."""

    cpus: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.cpus)

    def places(self, cpus: int) -> int:
        """How many tasks that take so many CPUs run at a time."""
        return sum(each // cpus for each in self.cpus)

    def cpus_each(self, tasks: int) -> int:
        """CPUs for each of so many tasks: as many as leave none of them waiting, at least one and never more than a node has."""
        return next((cpus for cpus in range(max(self.cpus), 1, -1) if self.places(cpus) >= tasks), 1)


def boosts_in_parts(model: Any) -> bool:
    """Whether the model's rows can be in parts on several nodes: xgboost's trees of bins.

    Exact splits need all rows in one place. So do lightgbm's bins, which in parts are laid through one part each: measured on the
    Handbook's data, its average precision was then off by 0.02.
    """
    if type(model).__name__ != "XGBClassifier":
        return False
    return model.tree_method in (None, "auto", "hist") and model.booster in (None, "gbtree")


def cells(model: Any, rows: int, features: int) -> int:
    """What there is to do for a boosting: rows × features × rounds."""
    return rows * features * (model.n_estimators or 100)


def shards(target: np.ndarray, count: int) -> list[np.ndarray]:
    """Positions of the rows of each of `count` parts, in their order; the parts have equal shares of the classes."""
    by_class = np.argsort(target, kind="stable")
    return [np.sort(by_class[first::count]) for first in range(count)]
