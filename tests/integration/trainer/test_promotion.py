"""Who gets the alias: candidates against a holder on the same test rows, on a real MLflow."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from jobs import WORKLOAD, Job, result
from support import Ended

WEAK, STRONG = {"n_estimators": 2, "max_depth": 1}, {"n_estimators": 30, "max_depth": 8}


@pytest.fixture
def candidate(m3: Callable[..., Ended], job_file: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """Train the sample for the alias, with parts of its file replaced; what became of the alias."""

    def run(hyperparameters: dict[str, int], promotion: dict[str, Any] | None = None, **replaced: Any) -> dict:
        model = {"hyperparameters": hyperparameters}
        file = job_file(model=model, registry={"promotion": promotion or {}}, **replaced)
        ended = m3("run", "-f", file, "--output", "json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)["promotion"]

    return run


def holder(home: Path) -> str:
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    return str(client.get_model_version_by_alias("fraud_detector", "champion").version)


def test_the_better_version_takes_the_alias_over_and_the_others_do_not(candidate, clean: Path) -> None:
    first = candidate(WEAK)
    assert (first["decision"], first["reason"]) == ("Promoted", "FirstVersion")
    assert holder(clean / "m3") == "1"
    better = candidate(STRONG)
    assert (better["decision"], better["reason"]) == ("Promoted", "Improved")
    assert "version 1 has 0." in better["message"]
    assert holder(clean / "m3") == "2"
    same = candidate(STRONG)
    assert (same["decision"], same["reason"]) == ("Refused", "NotImproved")
    assert holder(clean / "m3") == "2"
    client = mlflow.MlflowClient(f"sqlite:///{clean / 'm3' / 'mlflow.db'}")
    verdicts = [client.get_model_version("fraud_detector", version).tags for version in "123"]
    assert [tags["m3.promotion.reason"] for tags in verdicts] == ["FirstVersion", "Improved", "NotImproved"]


def test_it_must_be_better_by_as_much_as_is_asked_for(candidate) -> None:
    candidate(WEAK)
    refused = candidate(STRONG, {"metric": "roc_auc", "minImprovement": 0.9})
    assert refused["reason"] == "NotImproved"
    assert refused["message"].endswith("it must be better by 0.9 or more")


AT_RANDOM = {"uri": "sample://transactions?rows=20000", "target": "TX_FRAUD", "timeColumn": None}


@pytest.mark.parametrize(
    ("first", "then", "obstacle"),
    [
        (
            {"features": {"include": ["TX_AMOUNT", "TX_DURING_NIGHT"], "exclude": None}},
            {"features": {"include": ["TX_AMOUNT"], "exclude": None}},
            "version 1 needs the column `TX_DURING_NIGHT`, which is no feature of this job",
        ),
        (
            {"features": {"include": ["TX_AMOUNT"], "categorical": ["TX_DURING_NIGHT"], "exclude": None}},
            {"features": {"include": ["TX_AMOUNT", "TX_DURING_NIGHT"], "exclude": None}},
            "version 1 takes the values of `TX_DURING_NIGHT` for names, which this job does not",
        ),
        (
            {"data": AT_RANDOM, "evaluation": {"metrics": ["roc_auc"]}},
            {"data": AT_RANDOM, "evaluation": {"metrics": ["roc_auc"]}, "training": {"testSize": 0.5}},
            "of these test rows: test on later ones",
        ),
    ],
    ids=["other features", "names against numbers", "rows that the holder has learned from"],
)
def test_what_cannot_be_compared_is_refused(candidate, clean: Path, first, then, obstacle: str) -> None:
    candidate(WEAK, **first)
    refused = candidate(STRONG, **then)
    assert (refused["decision"], refused["reason"]) == ("Refused", "NotComparable")
    assert obstacle in refused["message"]
    assert holder(clean / "m3") == "1"


def test_a_holder_of_somebody_elses_is_not_comparable(candidate, clean: Path) -> None:
    candidate(WEAK)
    client = mlflow.MlflowClient(f"sqlite:///{clean / 'm3' / 'mlflow.db'}")
    (clean / "theirs").mkdir()
    (clean / "theirs" / "model.pkl").write_bytes(b"a pickle")
    client.create_model_version("fraud_detector", (clean / "theirs").as_uri())
    client.set_registered_model_alias("fraud_detector", "champion", "2")
    refused = candidate(STRONG)
    assert refused["reason"] == "NotComparable"
    assert "must be a model stored by M3 in skops' format" in refused["message"]
    assert holder(clean / "m3") == "2"


def test_a_person_reads_which_way_the_alias_went(m3, job_file) -> None:
    ended = m3("run", "-f", job_file(registry={"promotion": {}}))
    assert (
        "  it has got the alias champion (FirstVersion): nothing had champion before; average_precision is" in ended.out
    )


def test_in_the_cluster_a_job_tells_and_moves_nothing(job: Job) -> None:
    wish = {"registry": {"modelName": job.name, "promotion": {"metric": "roc_auc"}}}
    first = result(job.attempt(1, WORKLOAD | wish))
    assert first["promotion"] is None
    assert job.client.get_registered_model(job.name).aliases == {}
    job.client.set_registered_model_alias(job.name, "champion", "1")
    result(job.attempt(1, WORKLOAD | wish, M3_JOB_UID="another"))
    told = job.runs()[0].data.tags  # the newest first
    assert told["m3.promotion.holder.version"] == "1"
    assert told["m3.promotion.score"] == told["m3.promotion.holder.score"]
    assert float(told["m3.promotion.score"]) == pytest.approx(first["metrics"]["roc_auc"])
    assert told["m3.promotion.test.digest"].startswith("sha256:")
