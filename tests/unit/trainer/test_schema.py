"""The workload's schema: what is refused, in which words, and what travels to the job."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from m3_trainer import config, files, schema
from m3_trainer.config import Workload
from m3_trainer.errors import InvalidSpec

GOOD: dict[str, Any] = {"data": {"uri": "rows.csv", "target": "y"}}
TIMED: dict[str, Any] = {"data": GOOD["data"] | {"timeColumn": "t"}}
PERIODS = {"trainStart": "2018-07-25", "trainDays": 7, "delayDays": 7, "testDays": 7}
ROOT = Path(__file__).parents[3]


def faults(document: Any) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        Workload.parse(document)
    return schema.explain(raised.value, Workload, "spec")


REFUSED = {
    "a typo in a field name": (
        {"data": {"uri": "x", "tagret": "y", "target": "y"}},
        "spec.data.tagret: must be a known field; did you mean `target`?",
    ),
    "a missing field": ({"data": {"uri": "x"}}, "spec.data.target: must be set"),
    "a wrong type": (
        GOOD | {"training": {"cvFolds": "five"}},
        'spec.training.cvFolds: must be a whole number, is "five"',
    ),
    "a number as text": (
        GOOD | {"training": {"testSize": "0.2"}},
        'spec.training.testSize: must be a number, is "0.2"',
    ),
    "a number out of bounds": (
        GOOD | {"training": {"testSize": 2}},
        "spec.training.testSize: must be less than 1, is 2",
    ),
    "an unknown model type": (
        GOOD | {"model": {"type": "random_florest"}},
        "spec.model: `type` must be one of random_forest, decision_tree, logistic_regression, hist_gradient_boosting, "
        "xgboost, lightgbm, or a class of your own as `package.module:Class`",
    ),
    "an unknown hyperparameter": (
        GOOD | {"model": {"hyperparameters": {"n_estimatrs": 10}}},
        "spec.model: hyperparameter `n_estimatrs` must be one that random_forest has; did you mean `n_estimators`?",
    ),
    "a hyperparameter of the wrong type": (
        GOOD | {"model": {"hyperparameters": {"n_estimators": "many"}}},
        'spec.model: hyperparameter `n_estimators` must be a whole number, is "many"',
    ),
    "a null that kubectl would drop": (
        GOOD | {"model": {"hyperparameters": {"max_features": None}}},
        "spec.model: hyperparameter `max_features` must be a number or a text, is null",
    ),
    "an unknown scheme": (
        {"data": {"uri": "ftp://host/x.csv", "target": "y"}},
        "spec.data: `uri` must be a path, or a URL that begins with one of file, s3, gs, http, https, sample, postgresql, "
        "mysql, mssql, oracle, sqlite, and `://`",
    ),
    "a query without a SQL URL": (
        {"data": {"uri": "x.csv", "target": "y", "query": "select 1"}},
        "spec.data: `query` must be set only with a SQL URL in `uri` (postgresql, mysql, mssql, oracle, sqlite)",
    ),
    "two ways of splitting": (
        {"data": GOOD["data"] | {"timeColumn": "t"}, "training": {"testSize": 0.2, "split": PERIODS}},
        "spec.training: at most one of `testSize`, `split` must be set",
    ),
    "periods without a time column": (
        GOOD | {"training": {"split": PERIODS}},
        "spec: `data.timeColumn` must be set where `training.split` is",
    ),
    "precision per card without a card": (
        GOOD | {"evaluation": {"metrics": ["card_precision_at_k"]}},
        "spec: `data.timeColumn` and `data.customerColumn` must be set for metric `card_precision_at_k`",
    ),
    "a digest that is none": (
        {"data": GOOD["data"] | {"expectedDigest": "md5:1"}},
        'spec.data.expectedDigest: must be `sha256:` and 64 digits or letters a to f, as a run logs it, is "md5:1"',
    ),
    "a workload that is too large": (
        {"data": GOOD["data"], "features": {"include": [f"{'c' * 200}{index}" for index in range(400)]}},
        "spec: the workload must be at most 65536 bytes as JSON, is",
    ),
    "windows without times": (
        GOOD | {"features": {"windows": [{"key": "CUSTOMER_ID", "of": "TX_AMOUNT", "days": [1, 7, 30]}]}},
        "spec: `data.timeColumn` must be set where `features.windows` is",
    ),
    "the mean of nothing": (
        TIMED | {"features": {"windows": [{"key": "c", "statistics": ["mean"]}]}},
        "spec.features.windows.0: `of` must be set for every statistic but count",
    ),
    "a window that sees the row's own label": (
        TIMED | {"features": {"windows": [{"key": "c", "of": "y", "days": [7]}]}},
        "spec: a window of the target must have `delayDays` from 1 and no `ratio`: the row's own label would be in it",
    ),
    "a window that sees labels before they are known": (
        TIMED
        | {
            "features": {"windows": [{"key": "c", "of": "y", "days": [7], "delayDays": 6}]},
            "training": {"split": PERIODS},
        },
        "spec: a window of the target must have at least the `delayDays` of `training.split`: what labels need to become known",
    ),
    "the target as the key of a window": (
        TIMED | {"features": {"windows": [{"key": "y", "days": [7]}]}},
        "spec: a window's `key` must not be the target",
    ),
    "a customer as a category": (
        {"data": GOOD["data"] | {"customerColumn": "c"}, "features": {"categorical": ["c"]}},
        "spec: `features.categorical` must not have the target, time or customer column of `data`: none is a feature",
    ),
    "a column that is and is not a feature": (
        GOOD | {"features": {"categorical": ["a"], "exclude": ["a"]}},
        "spec.features: a column must not stand in both `categorical` and `exclude`",
    ),
    "more hyperparameters than anything has": (
        GOOD | {"model": {"type": "mine:Model", "hyperparameters": {f"p{index}": 1 for index in range(65)}}},
        "spec.model.hyperparameters: must have at most 64 items, has 65",
    ),
    "a key that is too long to be shown": (
        GOOD | {"model": {"type": "mine:Model", "hyperparameters": {"p" * 1000: 1}}},
        f"spec.model.hyperparameters.{'p' * 77}...: must have at most 64 characters, is",
    ),
    "weights said twice": (
        GOOD | {"model": {"classWeight": "balanced", "positiveWeight": 5}},
        "spec.model: at most one of `classWeight`, `positiveWeight` must be set",
    ),
    "weights said in the library's words, too": (
        GOOD | {"model": {"type": "xgboost", "positiveWeight": 5, "hyperparameters": {"scale_pos_weight": 5}}},
        "spec.model: hyperparameter `scale_pos_weight` must be left out where `positiveWeight` is set",
    ),
    "early stopping said in the library's words, too": (
        GOOD
        | {
            "model": {
                "type": "hist_gradient_boosting",
                "earlyStopping": {"rounds": 5},
                "hyperparameters": {"n_iter_no_change": 5},
            }
        },
        "spec.model: hyperparameter `n_iter_no_change` must be left out where `earlyStopping` is set",
    ),
    "early stopping of a forest": (
        GOOD | {"model": {"earlyStopping": {"rounds": 5}}},
        "spec.model: `earlyStopping` must be left out but for hist_gradient_boosting, xgboost, lightgbm",
    ),
    "two wishes for the threshold": (
        GOOD | {"evaluation": {"thresholdFor": {"recall": 0.8, "precision": 0.9}}},
        "spec.evaluation.thresholdFor: exactly one of `precision`, `recall`, `cost` must be set",
    ),
    "a threshold and a wish": (
        GOOD | {"evaluation": {"threshold": 0.3, "thresholdFor": {"recall": 0.8}}},
        "spec.evaluation: `threshold` must be left out where `thresholdFor` is set",
    ),
    "validation that leaves nothing to learn from": (
        {
            "data": GOOD["data"] | {"timeColumn": "t"},
            "training": {"split": PERIODS | {"validationDays": 1}},
        },
        "spec.training.split: `trainDays` must be more than `delayDays` and `validationDays` together",
    ),
    "something to choose, and no days to choose it on": (
        {
            "data": GOOD["data"] | {"timeColumn": "t"},
            "training": {"split": PERIODS},
            "model": {"calibration": "sigmoid"},
        },
        "spec: `training.split.validationDays` must be set for `model.calibration`",
    ),
    "a list in place of the spec": ([], "spec: must be a mapping, is []"),
}


@pytest.mark.parametrize(("document", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_mistake_is_refused_with_what_must_be_true(document: Any, message: str) -> None:
    assert any(fault.startswith(message) for fault in faults(document)), faults(document)


def test_snake_case_is_refused_in_a_job_because_the_api_server_refuses_it() -> None:
    assert faults(GOOD | {"model": {"random_state": 1}}) == [
        "spec.model.random_state: must be a known field; did you mean `randomState`?"
    ]


def test_a_null_is_as_good_as_nothing_and_a_whole_number_may_have_a_point() -> None:
    """As for the API server, which drops the one, and kubectl, which sends 3.0 as 3."""
    document = GOOD | {"tracking": None, "model": {"type": None, "randomState": 3.0}, "registry": {"promotion": None}}
    assert Workload.parse(document) == Workload.parse(GOOD | {"model": {"randomState": 3}})
    assert faults({"data": {"uri": None, "target": "y"}}) == ["spec.data.uri: must be set"]


def test_an_item_that_is_refused_is_not_missed_as_well() -> None:
    (fault,) = faults(GOOD | {"evaluation": {"metrics": ["auc"]}})
    assert fault.startswith("spec.evaluation.metrics.0: must be one of")
    (fault,) = faults(GOOD | {"evaluation": {"metrics": []}})
    assert fault == "spec.evaluation.metrics: must have at least 1 item, has none"


def test_all_features_and_one_feature_are_the_same_to_kubectl() -> None:
    (fault,) = faults(GOOD | {"model": {"hyperparameters": {"max_features": 1.0}}})
    assert fault.startswith(
        "spec.model: hyperparameter `max_features` must not be 1: kubectl sends 1.0 (all of them) as 1"
    )


def test_a_word_that_is_a_truth_value_to_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "{apiVersion: m3.dev/v1alpha1, kind: TrainingJob, metadata: {name: a}, spec: {data: {uri: a.csv, target: y}}}"
    )
    with pytest.raises(
        InvalidSpec, match=r"spec\.data\.target: must be a text, is true: put yes, no, y, n, on and off in quotes"
    ):
        files.read_job(str(path))


def test_what_the_job_receives_is_the_same_workload() -> None:
    document = GOOD | {"model": {"hyperparameters": {"max_depth": None, "n_estimators": 5}}, "training": {"cvFolds": 3}}
    workload = Workload.parse(document)
    assert Workload.parse(json.loads(workload.to_json())) == workload
    assert json.loads(workload.to_json())["model"]["hyperparameters"] == {"max_depth": None, "n_estimators": 5}


def test_the_digest_depends_on_meaning_and_not_on_the_order_of_keys() -> None:
    one, other = Workload.parse(GOOD), Workload.parse({"data": {"target": "y", "uri": "rows.csv"}})
    assert one.digest() == other.digest() != Workload.parse(GOOD | {"model": {"randomState": 1}}).digest()


def test_a_date_may_be_written_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    sample = (ROOT / "manifests/samples/handbook/random-forest.yaml").read_text()
    path.write_text(sample)
    assert "trainStart: 2018-07-25" in sample
    split = files.read_job(str(path)).workload.training.split
    assert split is not None
    assert split.train_start.isoformat() == "2018-07-25"


def test_every_field_is_described() -> None:
    for model in (config.Data, config.Features, config.ModelSpec, config.Split, config.Training, config.Evaluation,
                  config.Tracking, config.Registry, config.Workload, config.SecretRef,
                  config.Window, config.Promotion, config.EarlyStopping, config.ThresholdFor, config.Cost):  # fmt: skip
        missing = [name for name, field in model.model_fields.items() if not field.description]
        assert not missing, (model, missing)


def test_rules_stand_in_the_json_schema_for_the_api_server() -> None:
    rules = Workload.model_json_schema()["x-kubernetes-validations"]
    assert [rule["message"] for rule in rules] == [rule.message for rule in Workload.rules]


BAD_FILES = {
    "an empty file": ("", "must be a YAML mapping, is empty"),
    "no YAML": ("a: [", "must be one YAML document"),
    "a key that stands twice": ("a: 1\na: 2\n", "the key `a` must stand once"),
    "two documents": ("a: 1\n---\nb: 2\n", "must be one YAML document"),
    "a list": ("- 1\n", "must be a YAML mapping, is list"),
    "another kind": ("apiVersion: m3.dev/v1alpha1\nkind: Pod\n", "kind: must be TrainingJob, is Pod"),
    "another version": ("apiVersion: v1\nkind: TrainingJob\n", "apiVersion: must be m3.dev/v1alpha1, is v1"),
    "no name": (
        "apiVersion: m3.dev/v1alpha1\nkind: TrainingJob\nspec: {}\n",
        "metadata.name: must start with a letter",
    ),
    "a name that ends in a line break": (
        'apiVersion: m3.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: "a\\n"}\nspec: {}\n',
        "metadata.name: must start with a letter",
    ),
    "no spec": (
        "apiVersion: m3.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: a}\n",
        "spec: must be set",
    ),
    "a field beside the spec": (
        "apiVersion: m3.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: a}\nspec: {}\nsepc: {}\n",
        "sepc: must be a known field; known here: apiVersion, kind, metadata, spec",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSpec, match=r".+") as raised:
        files.read_job(str(path))
    assert message in str(raised.value)


def test_a_file_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="the file must exist; looked from"):
        files.read_job(str(tmp_path / "none.yaml"))


def test_the_classic_config_file_means_the_same_as_ours() -> None:
    classic = {
        "model": {"type": "random_forest", "random_state": 42},
        "hyperparameters": {"n_estimators": 100, "max_depth": 10, "min_samples_split": 2, "min_samples_leaf": 1},
        "training": {"test_size": 0.2, "cv_folds": 5},
        "tuning": {"n_trials": 20, "timeout": 3600},
    }
    assert files.classic(classic) == {
        "model": {
            "type": "random_forest",
            "randomState": 42,
            "hyperparameters": {"n_estimators": 100, "max_depth": 10, "min_samples_split": 2, "min_samples_leaf": 1},
        },
        "training": {"testSize": 0.2, "cvFolds": 5},
        "tuning": {"n_trials": 20, "timeout": 3600},
    }


def test_hyperparameters_inside_the_model_win_and_lists_are_read_too() -> None:
    beside = {
        "model": {"hyperparameters": {"max_depth": 5}},
        "hyperparameters": {"max_depth": 9, "n_estimators": 7},
        "features": {"windows": [{"key": "CUSTOMER_ID", "days": [7], "delay_days": 1}]},
    }
    assert files.classic(beside) == {
        "model": {"hyperparameters": {"max_depth": 5, "n_estimators": 7}},
        "features": {"windows": [{"key": "CUSTOMER_ID", "days": [7], "delayDays": 1}]},
    }
