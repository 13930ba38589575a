"""The world in which plans are played, and which of them `make test-faults` is to play."""

from __future__ import annotations

import pytest
from integration.faults.world import World


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known where a file of this folder is named on the command line, as every_plan.py must be."""
    group = parser.getgroup("faults")
    group.addoption("--workload", action="append", default=[], help="play only this workload's plans; may be repeated")
    group.addoption("--kind", action="append", default=[], help="play only faults of this kind; may be repeated")
    group.addoption("--only-failed", action="store_true", help="play only what has not converged in the result file")
    group.addoption("--workers", type=int, default=48, help="plans at a time: an operator mostly waits")


@pytest.fixture(scope="session")
def world(api_server, mlflow, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(api_server, mlflow.uri, tmp_path_factory.mktemp("faults"))
