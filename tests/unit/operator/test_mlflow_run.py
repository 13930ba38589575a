"""What MLflow's answer says of a job."""

import math

import pytest

from m3_operator.mlflow_run import Run, newest_by_attempt, parse

TAGS = {
    "m3.job.uid": "u",
    "m3.job.attempt": "2",
    "m3.model.name": "fraud_detector",
    "m3.model.version": "3",
    "m3.progress.percentage": "60",
    "m3.progress.remaining_seconds": "12",
    "m3.data.digest": "sha256:0",
    "m3.data.rows": "1000",
    "m3.spec.hash": "sha256:1",
    "mlflow.source.git.commit": "abc",
    "m3.image.digest": "sha256:2",
}


def answer(tags=TAGS, metrics=()):
    return {
        "info": {"run_id": "r", "experiment_id": "1", "status": "FINISHED"},
        "data": {
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
            "metrics": [{"key": key, "value": value} for key, value in metrics],
        },
    }


def test_a_whole_run():
    assert parse(answer(metrics=[("roc_auc", 0.8), ("average_precision", 0.6)])) == Run(
        run_id="r", experiment_id="1", job_uid="u", attempt=2, status="FINISHED",
        metrics={"average_precision": 0.6, "roc_auc": 0.8}, percentage=60, remaining_seconds=12, model_name="fraud_detector",
        model_version="3",
        data_digest="sha256:0", rows=1000, spec_hash="sha256:1", git_commit="abc",
        image_digest="sha256:2",
    )  # fmt: skip


def test_a_run_without_anything():
    assert parse({"info": {}}) == Run(run_id="", experiment_id="", job_uid="", attempt=0, status="")


@pytest.mark.parametrize("value", ["NaN", math.nan, math.inf, "-Infinity"])
def test_a_metric_that_json_has_no_word_for_is_left_out(value):
    assert parse(answer(metrics=[("bad", value), ("good", 1)])).metrics == {"good": 1.0}


def test_metrics_of_a_group_are_details_for_mlflows_pages():
    told = [("segments/COUNTRY/CH/recall", 0.5), ("system/cpu_utilization_percentage", 7.0), ("recall", 0.6)]
    assert parse(answer(metrics=told)).metrics == {"recall": 0.6}


@pytest.mark.parametrize("text", ["", "many", "-1", "1.5"])
def test_a_tag_that_is_no_number_is_none(text):
    assert parse(answer({"m3.data.rows": text})).rows is None


@pytest.mark.parametrize(("text", "percentage"), [("0", 0), ("100", 100), ("250", 100), ("half", None)])
def test_progress_is_a_percentage(text, percentage):
    assert parse(answer({"m3.progress.percentage": text})).percentage == percentage


def test_the_newest_run_of_an_attempt_counts():
    old, new, other = (Run(name, "1", "u", n, "") for name, n in (("old", 1), ("new", 1), ("other", 2)))
    assert newest_by_attempt([new, other, old]) == {("u", 1): new, ("u", 2): other}
