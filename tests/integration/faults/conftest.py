"""The world in which plans are played; their reference runs are made once per session."""

from __future__ import annotations

import pytest
from integration.faults.world import World


@pytest.fixture(scope="session")
def world(api_server, mlflow, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(api_server, mlflow.uri, tmp_path_factory.mktemp("faults"))
