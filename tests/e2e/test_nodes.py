"""A job with two worker pods: its forest grows on all three, its folds run side by side, and it is the model of one pod."""

import pytest

RESOURCES = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
WORKERS = {"replicas": 2, "resources": RESOURCES}
FOREST = {"type": "random_forest", "randomState": 3, "hyperparameters": {"n_estimators": 240, "min_samples_leaf": 2}}
"""Long enough on one CPU to be worth going to the others for."""


@pytest.fixture(scope="module")
def spec():
    return {
        "data": {
            "uri": "sample://transactions?rows=150000&seed=1",
            "target": "TX_FRAUD",
            "timeColumn": "TX_DATETIME",
        },
        "features": {"exclude": ["TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID"]},
        "model": FOREST,
        "training": {"testSize": 0.2, "cvFolds": 3},
    }


def test_forest_and_folds_on_two_worker_pods_are_those_of_one(run_job, small_job, mlflow_client, spec):
    runs = {}
    for name, workers in (("alone", None), ("spread", WORKERS)):
        ray = {"head": {"resources": RESOURCES}} | ({"workers": workers} if workers else {})
        job = run_job(small_job(f"nodes-{name}", **spec, ray=ray), timeout=600)
        assert job.has("Complete"), job.status
        runs[name] = mlflow_client.get_run(job.status["mlflow"]["runId"]).data
    assert runs["spread"].tags["m3.nodes"] == "3"
    assert "m3.nodes" not in runs["alone"].tags
    names = {name for name in runs["alone"].metrics if not name.startswith("system/")}
    assert {"average_precision", "cv_average_precision_mean"} <= names
    assert {name: runs["spread"].metrics[name] for name in names} == {
        name: pytest.approx(runs["alone"].metrics[name], abs=1e-9, rel=0) for name in names
    }
