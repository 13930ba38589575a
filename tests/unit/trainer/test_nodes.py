"""What runs where."""

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from m3_trainer import engine, models, nodes
from m3_trainer.config import ModelSpec
from m3_trainer.errors import InvalidSpec
from m3_trainer.nodes import Asked, Nodes

HERE = "127.0.0.1:6379"


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, None),
        ({"RAY_ADDRESS": ""}, None),
        ({"M3_WORKERS": "2"}, None),
        ({"RAY_ADDRESS": "ray://ray.example:10001"}, Asked("ray://ray.example:10001", None)),
        ({"RAY_ADDRESS": "auto"}, Asked("auto", None)),
        ({"RAY_ADDRESS": HERE, "M3_JOB_UID": "u"}, None),
        ({"RAY_ADDRESS": HERE, "M3_JOB_UID": "u", "M3_WORKERS": "2"}, Asked(HERE, 2)),
        ({"RAY_ADDRESS": HERE, "M3_JOB_UID": "u", "M3_WORKERS": "any"}, Asked(HERE, None)),
        ({"RAY_ADDRESS": HERE, "M3_SPREAD_SECONDS": "1.5"}, Asked(HERE, None, 1.5, 0)),
    ],
)
def test_a_cluster_is_asked_for_by_the_environment(environment, asked):
    assert nodes.asked(environment) == asked


@pytest.mark.parametrize("address", ["http://head:8265", "head", "ray://head", "head:port", "local", "a b:1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(
        InvalidSpec, match=r"^RAY_ADDRESS must be ray://HOST:PORT .* unset it to train on this machine alone$"
    ):
        nodes.asked({"RAY_ADDRESS": address})


@pytest.mark.parametrize(
    ("cpus", "tasks", "each"),
    [((1, 1), 5, 1), ((4, 4), 2, 4), ((4, 4), 4, 2), ((4, 4), 5, 1), ((8, 2), 2, 4), ((8,), 1, 8), ((3, 3), 2, 3)],
)
def test_a_fold_has_as_many_cpus_as_leave_none_waiting(cpus, tasks, each):
    assert Nodes(cpus).cpus_each(tasks) == each


@given(st.lists(st.integers(1, 64), min_size=1, max_size=8), st.integers(1, 50))
def test_there_is_always_a_place_for_a_fold(cpus, tasks):
    found = Nodes(tuple(cpus))
    assert found.places(found.cpus_each(tasks)) >= min(tasks, found.total)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=200), st.integers(1, 9))
def test_parts_hold_each_row_once_and_the_classes_alike(target, count):
    parts = nodes.shards(np.array(target), count)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(target)))
    for of in (len, lambda part: sum(np.array(target)[part])):
        sizes = [of(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("kind", "hyperparameters", "is_so"),
    [
        ("xgboost", {}, True),
        ("xgboost", {"tree_method": "hist"}, True),
        ("xgboost", {"tree_method": "exact"}, False),
        ("xgboost", {"booster": "gblinear"}, False),
        ("xgboost", {"booster": "dart"}, False),
        ("xgboost", {"tree_method": "approx"}, False),
        ("lightgbm", {}, False),
        ("hist_gradient_boosting", {}, False),
        ("random_forest", {}, False),
        ("logistic_regression", {}, False),
    ],
)
def test_trees_of_bins_can_be_boosted_in_parts(kind, hyperparameters, is_so):
    model = models.build(ModelSpec.parse({"type": kind, "hyperparameters": hyperparameters}))
    assert nodes.boosts_in_parts(model) is is_so


def test_values_at_the_edges_of_their_bins_lead_to_the_trees_of_the_values():
    rng = np.random.default_rng(0)
    features = pd.DataFrame(
        {
            "normal": rng.standard_normal(3000),
            "skewed": rng.lognormal(size=3000),
            "few": rng.integers(0, 3, 3000).astype(float),
            "gaps": np.where(rng.random(3000) < 0.3, np.nan, rng.random(3000)),
            "constant": 1.0,
            "empty": np.nan,
        }
    )
    target = (features["normal"] * features["skewed"] + features["gaps"].fillna(2) > 1).astype(int)
    weight = rng.uniform(0.5, 2, 3000)
    models_of = [
        xgboost.XGBClassifier(n_estimators=20, max_bin=64, n_jobs=1).fit(rows, target, sample_weight=weight)
        for rows in (features, engine.in_bins(xgboost.XGBClassifier(max_bin=64), features, weight))
    ]
    own, moved = (each.predict_proba(features) for each in models_of)
    assert np.array_equal(own, moved)
