"""Data that does not fit into the memory that there is: xgboost's rows are read from disk, other models say what they need."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ended

from m3_trainer import external
from m3_trainer.data import sample

HYPERPARAMETERS = {"n_estimators": 30, "max_depth": 4, "learning_rate": 0.2}
XGBOOST = {"type": "xgboost", "hyperparameters": HYPERPARAMETERS}
ROWS = 60_000
COLUMNS = 10


@pytest.fixture
def stored(clean) -> str:
    """The sample in two files of several groups of rows."""
    frame, folder = sample.transactions(rows=ROWS), clean / "data"
    folder.mkdir()
    for number, part in enumerate((frame[: ROWS // 3], frame[ROWS // 3 :])):
        part.to_parquet(folder / f"part-{number}.parquet", row_group_size=7_000, index=False)
    return f"{folder}/"


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Memory for so many times the columns, beside what the process takes anyway."""

    def limit(times: float) -> None:
        columns = ROWS * COLUMNS * external.VALUE_BYTES
        monkeypatch.setattr(external, "limit", lambda: external.BASE_BYTES + int(times * columns))
        monkeypatch.setattr(external, "BATCH_BYTES", columns // 8)

    return limit


@pytest.fixture
def run(m3: Callable[..., Ended], job_file: Callable[..., str], stored: str) -> Callable[..., Ended]:
    def run(**spec: Any) -> Ended:
        job = json.loads(Path(job_file()).read_text())
        job["spec"] |= {"data": job["spec"]["data"] | {"uri": stored}, "model": XGBOOST} | spec
        Path("job.json").write_text(json.dumps(job))
        return m3("run", "-f", "job.json", "--output", "json")

    return run


def result(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_training_rows_from_disk_give_the_model_of_those_in_memory(run, limited, monkeypatch):
    here = result(run())
    limited(1.2)
    read: list[int] = []
    fit = external.fit
    monkeypatch.setattr(
        external, "fit", lambda model, rows, *rest: read.append(len(list(rows))) or fit(model, rows, *rest)
    )
    there = result(run())
    assert read[0] > 5, "in many batches"
    assert there["rows"] == here["rows"]
    assert there["lineage"]["dataDigest"] == here["lineage"]["dataDigest"]
    assert there["features"] == here["features"]
    for name in ("average_precision", "roc_auc"):
        assert there["metrics"][name] == pytest.approx(here["metrics"][name], abs=0.002)


def test_the_rows_that_were_learnt_from_are_known_whichever_way_they_were_read(run, limited):
    import mlflow

    found = []
    for times in (4, 1.2):
        limited(times)
        told = result(run())
        client = mlflow.MlflowClient(told["run"]["trackingUri"])
        path = client.download_artifacts(told["run"]["runId"], "lineage/training_rows.npz", ".")
        found.append(Path(path).read_bytes())
    assert found[0] == found[1]


def test_what_fits_into_memory_is_read_there(run, limited, monkeypatch):
    limited(3.1)
    monkeypatch.setattr(external, "fit", None)
    result(run())


@pytest.mark.parametrize(
    ("spec", "because"),
    [
        ({"model": {"type": "random_forest"}}, "because model.type is random_forest"),
        (
            {"model": XGBOOST | {"hyperparameters": {"tree_method": "exact"}}},
            "because tree_method and booster are not `hist` and `gbtree`",
        ),
        ({"training": {"testSize": 0.2, "cvFolds": 3}}, "because of training.cvFolds"),
        ({"training": {"testSize": 0.2, "validationSize": 0.2}}, "because of validation rows"),
        ({"features": {"windows": [{"key": "CUSTOMER_ID", "days": [1]}]}}, "because of features.windows"),
        (
            {"features": {"exclude": ["TRANSACTION_ID"], "categorical": ["TERMINAL_ID"]}},
            "because of features.categorical",
        ),
    ],
)
def test_what_needs_all_rows_in_memory_is_refused_before_they_are_read(run, limited, spec, because):
    limited(0.5)
    ended = run(**spec)
    assert ended.code == 3
    assert "data.uri: the columns in use (" in ended.err
    assert (
        f"), {because}: raise spec.ray.head.resources.limits.memory, name fewer columns in features.include"
        in ended.err
    )
    assert "model.type xgboost, which reads its rows from disk" in ended.err
    assert "Traceback" not in ended.err


def test_what_may_fit_is_tried(run, limited):
    limited(1.2)
    result(run(model={"type": "decision_tree"}))


def test_test_rows_that_do_not_fit_are_refused_with_the_share_that_does(run, limited):
    limited(0.3)
    ended = run()
    assert ended.code == 3
    assert (
        "training: the test rows must fit into memory, and 12,000 rows of 7 features do not: a share of 0." in ended.err
    )
    assert "of all rows does (training.testSize, or the days of training.split)" in ended.err


def test_a_row_that_is_wrong_is_told_as_in_memory(run, limited, stored):
    import pandas as pd

    path = f"{stored}part-1.parquet"
    frame = pd.read_parquet(path)
    frame.loc[20_000, "TX_AMOUNT"] = float("inf")
    frame.to_parquet(path, row_group_size=7_000, index=False)
    limited(1.2)
    ended = run()
    assert ended.code == 3
    assert "features: `TX_AMOUNT` must be finite in every row" in ended.err
