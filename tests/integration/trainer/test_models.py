"""Every type of model by `m3 run`, with what is chosen on its validation rows; and 20 files whose model cannot be."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from m3_trainer import registry
from m3_trainer.data import sample
from m3_trainer.tracking import Tracker

ROOT = Path(__file__).parents[3]
OWN = ROOT / "manifests/samples/own-model"


def client(home: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def tracker(home: Path) -> Tracker:
    return Tracker.choose(None, home)


# --- every type -------------------------------------------------------------------------------------------------------
TYPES: dict[str, dict[str, Any]] = {
    "random_forest": {"classWeight": "balanced", "calibration": "isotonic", "hyperparameters": {"n_estimators": 20}},
    "decision_tree": {"positiveWeight": 5, "calibration": "sigmoid", "hyperparameters": {"max_depth": 8}},
    "logistic_regression": {"classWeight": "balanced", "calibration": "sigmoid"},
    "hist_gradient_boosting": {"positiveWeight": 5, "earlyStopping": {"rounds": 5}},
    "xgboost": {
        "classWeight": "balanced",
        "calibration": "isotonic",
        "earlyStopping": {"rounds": 5, "metric": "roc_auc"},
    },
    "lightgbm": {"positiveWeight": 5, "calibration": "sigmoid", "earlyStopping": {"rounds": 5, "metric": "log_loss"}},
}


@pytest.mark.parametrize("model_type", TYPES)
def test_every_type_is_weighted_stopped_calibrated_and_given_its_threshold(
    m3, job_file, clean: Path, model_type: str
) -> None:
    model = {"hyperparameters": {}} | TYPES[model_type] | {"type": model_type}
    ended = m3("run", "-f", job_file(model=model, evaluation={"thresholdFor": {"recall": 0.5}}), "--output", "json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    rows = result["rows"]
    assert (rows["train_rows"], rows["validation_rows"], rows["test_rows"]) == (12_800, 3_200, 4_000)

    params = client(clean / "m3").get_run(result["run"]["runId"]).data.params
    assert params["threshold_for"] == '{"recall": 0.5}'
    assert params["class_weighting"] == (model.get("classWeight") or str(float(model["positiveWeight"])))
    assert params.get("calibration") == model.get("calibration")
    assert ("best_iteration" in params) is ("earlyStopping" in model)
    assert float(params["threshold"]) == result["chosen"]["threshold"]

    stored = registry.load(result["model"]["uri"], tracker(clean / "m3"))
    assert stored.threshold == result["chosen"]["threshold"]
    scored = m3("predict", result["model"]["uri"], "--features", json.dumps([1] * len(stored.features)), "-o", "json")
    assert json.loads(scored.out)["threshold"] == stored.threshold


def test_the_threshold_that_is_chosen_is_the_one_that_judges(m3, job_file) -> None:
    metrics = {
        recall: json.loads(
            m3("run", "-f", job_file(evaluation={"thresholdFor": {"recall": recall}}), "--output", "json").out
        )["metrics"]
        for recall in (0.2, 0.9)
    }
    assert metrics[0.9]["recall"] > metrics[0.2]["recall"]
    assert metrics[0.9]["precision"] < metrics[0.2]["precision"] - 0.2
    assert metrics[0.9]["average_precision"] == metrics[0.2]["average_precision"]


def test_validation_rows_are_the_last_before_the_test(m3, job_file) -> None:
    ended = m3("run", "-f", job_file(training={"validationSize": 0.5}), "--output", "json")
    rows = json.loads(ended.out)["rows"]
    assert (rows["train_rows"], rows["validation_rows"], rows["test_rows"]) == (8_000, 8_000, 4_000)


def test_folds_are_weighted_too(m3, job_file) -> None:
    by_weight = []
    for model in ({}, {"positiveWeight": 50}):
        ended = m3("run", "-f", job_file(model=model, training={"cvFolds": 2}), "--output", "json")
        by_weight.append(json.loads(ended.out)["metrics"]["cv_average_precision_mean"])
    assert by_weight[0] != by_weight[1]


def test_exact_trees_of_xgboost_are_grown(m3, job_file) -> None:
    found = []
    for method in ("exact", "hist"):
        model = {"type": "xgboost", "hyperparameters": {"tree_method": method, "n_estimators": 10, "max_bin": 8}}
        ended = m3("run", "-f", job_file(model=model), "--output", "json")
        assert ended.code == 0, ended.err
        found.append(json.loads(ended.out)["metrics"]["average_precision"])
    assert found[0] != found[1]


def test_the_holder_of_an_alias_is_judged_at_its_own_threshold(m3, job_file) -> None:
    """Else a threshold that is bad for it would take the alias from a better model."""
    promotion = {"promotion": {"metric": "recall"}}
    first = job_file(evaluation={"thresholdFor": {"recall": 0.9}}, registry=promotion)
    assert json.loads(m3("run", "-f", first, "-o", "json").out)["promotion"]["reason"] == "FirstVersion"
    second = job_file(evaluation={"threshold": 0.99}, registry=promotion)
    told = json.loads(m3("run", "-f", second, "-o", "json").out)["promotion"]
    assert told["reason"] == "NotImproved"
    assert "recall is 0.0000, version 1 has 0." in told["message"]
    assert "version 1 has 0.0000" not in told["message"]


# --- a class of one's own ---------------------------------------------------------------------------------------------
def test_the_sample_of_a_class_of_ones_own_runs_and_is_loaded_where_it_is_allowed(
    m3, m3_process, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = m3_process("run", "-f", str(OWN / "trainingjob.yaml"), "-o", "json", PYTHONPATH=str(OWN))
    assert run.code == 0, run.err
    result = json.loads(run.out)
    assert result["model"]["module"] == "xgboost_model"
    assert result["metrics"]["roc_auc"] > 0.7
    assert 0 < result["chosen"]["threshold"] < 1

    uri, row = result["model"]["uri"], json.dumps([dict.fromkeys(result["features"], 1)])
    monkeypatch.syspath_prepend(str(OWN))
    refused = m3("predict", uri, "--features", row)
    assert refused.code == 2
    assert "its module must be allowed before it is loaded, by --allow-module xgboost_model or" in refused.err
    for flags in (["--allow-module", "xgboost_model"], []):
        monkeypatch.setenv("M3_MODEL_MODULES", "" if flags else "xgboost_model")
        scored = m3("predict", uri, "--features", row, "-o", "json", *flags)
        assert scored.code == 0, scored.err
        document = json.loads(scored.out)
        assert document["threshold"] == result["chosen"]["threshold"]
        assert 0 < document["probabilities"][0] < 1


def test_its_risk_rises_as_the_file_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.syspath_prepend(str(OWN))
    from xgboost_model import RisingXGBoost  # pyright: ignore[reportMissingImports]

    rows = sample.transactions(20_000, seed=3, days=60)
    features = rows[["TX_AMOUNT", "TX_DURING_NIGHT"]].astype("float64")
    model = RisingXGBoost(rounds=20, rising=("TX_AMOUNT",)).fit(features, rows[sample.TARGET])
    amounts = pd.DataFrame({"TX_AMOUNT": [float(value) for value in range(0, 1000, 10)], "TX_DURING_NIGHT": 0.0})
    assert (pd.Series(model.predict_proba(amounts)[:, 1]).diff().dropna() >= 0).all()


# --- what cannot be ---------------------------------------------------------------------------------------------------
GOOD_CLASS = """
import json
import numpy as np
from m3_trainer.base_model import BaseModel

class Model(BaseModel):
    def __init__(self, depth=1):
        self.depth = depth

    def fit(self, features, target):
        self.share_ = float(target.mean())
        return self

    def predict_proba(self, features):
        return np.tile([1 - self.share_, self.share_], (len(features), 1))

    def save(self, folder):
        (folder / "share.json").write_text(json.dumps(self.share_))

    @classmethod
    def load(cls, folder):
        return cls()
"""


@pytest.fixture
def mine(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the module `mine`, importable as if it were new."""

    def write(text: str) -> Path:
        (clean / "mine.py").write_text(text)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.syspath_prepend(str(clean))
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        return clean / "mine.py"

    return write


def changed(old: str, new: str) -> str:
    assert old in GOOD_CLASS
    return GOOD_CLASS.replace(old, new)


BY_NAME = """
import json
import numpy as np
from m3_trainer.base_model import BaseModel

class Model(BaseModel):
    def fit(self, features, target):
        self.share_ = list(target.groupby(features["CHANNEL"]).mean().items())
        return self

    def predict_proba(self, features):
        positive = features["CHANNEL"].map(dict(map(tuple, self.share_))).fillna(0.5).to_numpy()
        return np.column_stack([1 - positive, positive])

    def save(self, folder):
        (folder / "share.json").write_text(json.dumps(self.share_))

    @classmethod
    def load(cls, folder):
        model = cls()
        model.share_ = json.loads((folder / "share.json").read_text())
        return model
"""


def test_names_are_numbers_for_a_class_of_ones_own_and_names_again_for_who_scores(m3, job_file, mine) -> None:
    mine(BY_NAME)
    rows = sample.transactions(20_000)
    rows["CHANNEL"] = np.where(rows["TX_DURING_NIGHT"] == 1, "phone", "web")
    rows.to_csv("rows.csv", index=False)
    file = job_file(
        data={"uri": "rows.csv"},
        features={"include": ["TX_AMOUNT"], "categorical": ["CHANNEL"], "exclude": None},
        model={"type": "mine:Model", "hyperparameters": {}},
    )
    ended = m3("run", "-f", file, "-o", "json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    asked = json.dumps([["phone", 1], ["web", 1], ["never seen", 1]])
    scored = m3("predict", result["model"]["uri"], "--features", asked, "-o", "json", "--allow-module", "mine")
    assert scored.code == 0, scored.err
    learnt = rows.sort_values("TX_DATETIME", kind="stable").head(result["rows"]["train_rows"])
    share = learnt.groupby("CHANNEL")["TX_FRAUD"].mean()
    assert json.loads(scored.out)["probabilities"] == pytest.approx([*share, 0.5])


NO_BASE = GOOD_CLASS.replace("(BaseModel)", "").replace("from m3_trainer.base_model import BaseModel", "")
OWN_MISTAKES: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "a module that is not there": (
        GOOD_CLASS,
        {"type": "shop.models:Forest"},
        2,
        "model.type: the module `shop.models` must be importable where the job runs, so it must be installed there or its folder "
        "be on PYTHONPATH: No module named 'shop'",
    ),
    "a class that is not there": (
        GOOD_CLASS,
        {"type": "mine:Modell"},
        2,
        "model.type: the module `mine` must have the class `Modell`; did you mean `Model`?",
    ),
    "a function": (
        "def Model(): ...",
        {},
        2,
        "model.type: mine:Model must be a class, is a function",
    ),
    "a module that raises": (
        "raise RuntimeError('no licence')",
        {},
        8,
        "model.type: the module `mine` must be importable: no licence (FILE, line 1)",
    ),
    "a module that ends the process": (
        "import sys\nsys.exit('bye')",
        {},
        8,
        "model.type: the module `mine` must be importable: bye (FILE, line 2)",
    ),
    "a module that is no Python": (
        "class Model\n",
        {},
        8,
        "model.type: the module `mine` must be importable: expected ':' (mine.py, line 1)",
    ),
    "a module that needs another": (
        "import no_such_package",
        {},
        8,
        "model.type: the module `mine` must be importable: No module named 'no_such_package' (FILE, line 1)",
    ),
    "no predict_proba": (
        changed("def predict_proba", "def predict"),
        {},
        2,
        "model.type: mine:Model must have the method predict_proba, as scikit-learn's classifiers do",
    ),
    "no get_params": (NO_BASE, {}, 2, "model.type: mine:Model must have the method get_params"),
    "no save": (
        changed("def save", "def keep"),
        {},
        2,
        "model.type: mine:Model must have `save(folder)` and `load(folder)`, or its model could not be registered: the registry "
        "holds no pickle. `save` is missing",
    ),
    "a hyperparameter that it has not": (
        GOOD_CLASS,
        {"hyperparameters": {"deepth": 3}},
        2,
        "model.hyperparameters: mine:Model must accept them: Model.__init__() got an unexpected keyword argument 'deepth'",
    ),
    "weights that fit does not take": (
        GOOD_CLASS,
        {"classWeight": "balanced"},
        2,
        "model.classWeight: mine:Model.fit must have the parameter `sample_weight`, or this be left out",
    ),
    "an __init__ that raises": (
        changed("self.depth = depth", "raise KeyError('depth')"),
        {},
        8,
        "'depth' (FILE, line 8)",
    ),
    "a fit that raises": (
        changed("self.share_ = float(target.mean())", "raise RuntimeError('no rows')"),
        {},
        8,
        "no rows (FILE, line 11)",
    ),
    "a fit that calls a library that raises": (
        changed("self.share_ = float(target.mean())", "np.linalg.inv(np.zeros((2, 2)))"),
        {},
        8,
        "Singular matrix (FILE, line 11)",
    ),
    "a predict_proba that raises": (
        changed("return np.tile", "raise RuntimeError('no tree')\n        return np.tile"),
        {},
        8,
        "no tree (FILE, line 15)",
    ),
    "probabilities of one column": (
        changed("(len(features), 1))", "(len(features), 1))[:, 1]"),
        {},
        8,
        "mine:Model.predict_proba must give the probabilities of class 0 and class 1 for each row, shape (4000, 2), gave shape "
        "(4000,)",
    ),
    "probabilities that are NaN": (
        changed("float(target.mean())", "float('nan')"),
        {},
        8,
        "mine:Model.predict_proba must give a number for each row, gave NaN for 4000 of 4000",
    ),
    "probabilities over one": (
        changed("float(target.mean())", "3.0"),
        {},
        8,
        "mine:Model.predict_proba must give probabilities from 0 to 1, gave 3",
    ),
    "a save that writes a pickle": (
        changed(
            '(folder / "share.json").write_text(json.dumps(self.share_))',
            'import pickle; (folder / "a.bin").write_bytes(pickle.dumps(self))',
        ),
        {},
        2,
        "model.type: mine:Model.save must write no pickle, which runs code when it is read; `a.bin` is one.",
    ),
    "a save that writes nothing": (
        changed('(folder / "share.json").write_text(json.dumps(self.share_))', "pass"),
        {},
        8,
        "mine:Model.save must write at least one file",
    ),
}


@pytest.mark.parametrize(("text", "model", "code", "message"), OWN_MISTAKES.values(), ids=OWN_MISTAKES.keys())
def test_a_mistake_in_a_class_of_ones_own_is_one_message(
    m3, job_file, mine, clean: Path, text: str, model: dict, code: int, message: str
) -> None:
    file = mine(text)
    ended = m3("run", "-f", job_file(model={"type": "mine:Model", "hyperparameters": {}} | model))
    assert (ended.code, message.replace("FILE", str(file)) in ended.err) == (code, True), ended.err
    assert "Traceback" not in ended.err
    assert registered(clean / "m3") == []


def registered(home: Path) -> list[str]:
    return [model.name for model in client(home).search_registered_models()] if (home / "mlflow.db").exists() else []


PRECISE = {"thresholdFor": {"precision": 1}}
IMPURE = {"max_depth": 1, "min_samples_leaf": 4_000}
MISTAKES: dict[str, tuple[dict[str, Any], int, str]] = {
    "a precision that is not to be had": (
        {"model": {"type": "decision_tree", "hyperparameters": IMPURE}, "evaluation": PRECISE},
        6,
        "evaluation.thresholdFor.precision: 1 must be reachable on the validation rows; the highest there is 0.",
    ),
    "a calibration on too few positives": (
        {"model": {"calibration": "sigmoid"}, "training": {"validationSize": 0.003}},
        3,
        "model.calibration: the validation rows must hold at least 10 of each class, hold ",
    ),
    "validation rows of one class": (
        {"training": {"validationSize": 0.0001}, "evaluation": {"thresholdFor": {"recall": 0.5}}},
        3,
        "training: the validation part must hold rows of both classes; 0 of its 2 rows are positive",
    ),
    "a leaf of less than nothing": (
        {"model": {"hyperparameters": {"min_samples_leaf": -1}}},
        2,
        "spec.model: hyperparameter `min_samples_leaf` must be at least 1, is -1",
    ),
    "a share over one": (
        {"model": {"type": "lightgbm", "hyperparameters": {"subsample": 1.5}}},
        2,
        "spec.model: hyperparameter `subsample` must be more than 0 and at most 1, is 1.5",
    ),
    "a weight of a class that is none": (
        {"model": {"hyperparameters": {"class_weight": {"0": 1, "2": 50}}}},
        2,
        "spec.model: hyperparameter `class_weight` must be a number above 0 for each of the classes 0 and 1",
    ),
    "early stopping of a forest": (
        {"model": {"earlyStopping": {"rounds": 5}}},
        2,
        "spec.model: `earlyStopping` must be left out but for hist_gradient_boosting, xgboost, lightgbm",
    ),
    "hyperparameters that do not go together": (
        {"model": {"type": "logistic_regression", "hyperparameters": {"solver": "lbfgs", "l1_ratio": 1}}},
        6,
        "must be able to learn from the data: Solver lbfgs supports only",
    ),
    "an objective that is none": (
        {"model": {"type": "lightgbm", "hyperparameters": {"objective": "yes-or-no"}}},
        6,
        "LGBMClassifier must be able to learn from the data: Unknown objective type name: yes-or-no",
    ),
}


@pytest.mark.parametrize(("replaced", "code", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_the_model_is_one_message(
    m3, job_file, clean: Path, replaced: dict, code: int, message: str
) -> None:
    ended = m3("run", "-f", job_file(**replaced))
    assert (ended.code, message in ended.err) == (code, True), ended.err
    assert "Traceback" not in ended.err
    assert registered(clean / "m3") == []


def test_a_hyperparameter_may_be_called_as_a_param_of_ours_is(m3, job_file, mine, clean: Path) -> None:
    """MLflow takes a param once, and the threshold is known only after the fit."""
    mine(changed("depth=1", "threshold=1").replace("self.depth = depth", "self.threshold = threshold"))
    model = {"type": "mine:Model", "hyperparameters": {"threshold": 7}}
    ended = m3("run", "-f", job_file(model=model, evaluation={"thresholdFor": {"recall": 0.5}}), "-o", "json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    params = client(clean / "m3").get_run(result["run"]["runId"]).data.params
    assert float(params["threshold"]) == result["chosen"]["threshold"] != 7


def test_a_class_is_refused_before_the_data_is_read(m3, job_file, mine) -> None:
    mine(changed("def save", "def keep"))
    ended = m3("run", "-f", job_file(model={"type": "mine:Model", "hyperparameters": {}}, data={"uri": "none.csv"}))
    assert "must have `save(folder)`" in ended.err
