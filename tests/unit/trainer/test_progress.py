"""How far a job is, and that asking does not change what is learnt."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

from m3_trainer import models
from m3_trainer.config import ModelSpec
from m3_trainer.progress import Progress


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.0, 0.25, 0.3, 0.5), [(0.3, 30), (0.5, 20)]),
        ((0.5, 0.6, 0.65, 0.75), [(0.58, 40), (0.7, 20)]),
    ],
    ids=["from the beginning", "from a checkpoint"],
)
def test_a_part_is_reported_as_its_share_of_the_job_and_rarely(shares: tuple, told: list) -> None:
    times = iter([0.0, 0.0, 10.0, 11.0, 20.0])
    reported: list[tuple[float, int | None]] = []
    part = Progress(lambda share, left: reported.append((round(share, 3), left)), lambda: next(times)).part(0.1, 0.9)
    for share in shares:  # after 0, 10, 11 and 20 seconds
        part(share)
    assert reported == told


@pytest.mark.parametrize("seconds", [0.001, 10.0])
def test_a_forest_that_grows_in_portions_is_the_forest_of_one_fit(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(models, "PORTION_SECONDS", seconds)
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.random((3_000, 4)), columns=list("abcd"))
    target = (features["a"] + rng.random(3_000) > 1.2).astype("int8")
    shares: list[float] = []
    spec = ModelSpec.parse({"randomState": 3, "hyperparameters": {"n_estimators": 31}})
    grown = models.fit(models.build(spec), features, target, shares.append)
    once = RandomForestClassifier(n_estimators=31, random_state=3).fit(features, target)
    assert np.array_equal(models.probabilities(grown, features), models.probabilities(once, features))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) >= 3
    assert shares[0] == 0
    assert grown.get_params()["warm_start"] is False


@pytest.mark.parametrize(
    "hyperparameters", [{"class_weight": "balanced"}, {"oob_score": True}], ids=["balanced", "out of bag"]
)
def test_a_forest_that_cannot_grow_in_portions_is_fitted_at_once(hyperparameters: dict) -> None:
    spec = ModelSpec.parse({"hyperparameters": hyperparameters})
    assert not models._grows(models.build(spec))
