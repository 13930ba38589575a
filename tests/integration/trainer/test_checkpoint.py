"""A forest whose process dies half-way goes on in the next attempt, and becomes the very forest that it would have been."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from jobs import Job, children, result
from support import wait_until

from m3_trainer import models, registry
from m3_trainer.data import sample
from m3_trainer.tracking import Tracker

FOREST = {
    "data": {"uri": "sample://transactions?rows=100000", "target": "TX_FRAUD", "timeColumn": "TX_DATETIME"},
    "model": {"hyperparameters": {"n_estimators": 60}},
}


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, clean: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where checkpoints go, as `M3_STORAGE` says it."""
    if request.param == "folder":
        return str(clean / "volume")
    for name, value in request.getfixturevalue("minio").items():
        monkeypatch.setenv(name, value)
    return f"s3://kept/{clean.name}"


@pytest.fixture
def exists(storage: str) -> Callable[[str], bool]:
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]} if storage.startswith("s3") else {}
    filesystem, root = fsspec.core.url_to_fs(storage, use_listings_cache=False, **options)
    return lambda path: filesystem.exists(f"{root}/{path}")


def kill(process: subprocess.Popen[str]) -> None:
    """As when the node of the head is gone: nobody has the time to say anything."""
    both = (process.pid, *children(process.pid))
    for each in both:
        os.kill(each, signal.SIGKILL)
    process.communicate()


def probabilities(job: Job, version: str) -> np.ndarray:
    stored = registry.load(f"models:/{job.name}/{version}", Tracker(job.server))
    rows = sample.transactions(20_000, seed=3, days=60)
    return models.probabilities(stored.estimator, rows[stored.features].astype("float64"))


def test_the_next_attempt_goes_on_and_gives_the_undisturbed_forest(
    job: Job, storage: str, exists: Callable[[str], bool]
) -> None:
    settings = {"M3_STORAGE": storage, "M3_CHECKPOINT_SECONDS": "0.5"}
    kept = f"m3/uid-{job.name}/checkpoint.skops"
    process = job.start(1, FOREST, **settings)
    wait_until(lambda: exists(kept), 120)
    kill(process)
    assert exists(kept)
    second = job.attempt(2, FOREST, **settings)
    assert "goes on from a checkpoint of " in second.out, second.out
    assert not exists(kept)
    undisturbed = job.attempt(1, FOREST, M3_JOB_UID="undisturbed")
    assert "checkpoint" not in undisturbed.out
    resumed, whole = result(second), result(undisturbed)
    assert resumed["metrics"] == whole["metrics"]
    versions = (resumed["model"]["version"], whole["model"]["version"])
    assert np.array_equal(*(probabilities(job, version) for version in versions))


def test_a_storage_that_cannot_be_written_to_ends_no_training(job: Job, clean: Path) -> None:
    (clean / "file").write_text("in the way")
    ended = job.attempt(1, M3_STORAGE=str(clean / "file"), M3_CHECKPOINT_SECONDS="0")
    assert result(ended)["model"]["version"] == "1"
    assert "the checkpoint was not kept: " in ended.out
