"""Weights, early stopping, calibration and stored models, for every type."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss
from threadpoolctl import threadpool_info

from m3_trainer import early_stopping, learn, models, own_class
from m3_trainer.base_model import BaseModel
from m3_trainer.config import ModelSpec, Workload
from m3_trainer.errors import DataError, InvalidSpec, UserCodeFailed
from m3_trainer.hyperparameters import BOOSTED, BUILT_IN
from m3_trainer.models import Rows
from m3_trainer.registry import Stored

SMALL = {
    "random_forest": {"n_estimators": 20, "max_depth": 6},
    "decision_tree": {"max_depth": 6},
    "logistic_regression": {},
    "hist_gradient_boosting": {"max_iter": 200},
    "xgboost": {"n_estimators": 200},
    "lightgbm": {"n_estimators": 200},
}


def rows_of(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(rng.random((count, 4)), columns=list("abcd"))
    return Rows(features, (features["a"] + rng.random(count) / 2 > 1.2).astype("int8"))


@pytest.fixture(scope="module")
def training() -> Rows:
    return rows_of(4_000, 0)


@pytest.fixture(scope="module")
def validation() -> Rows:
    return rows_of(2_000, 1)


def spec(model_type: str, hyperparameters: dict[str, Any] | None = None, **more: Any) -> ModelSpec:
    return ModelSpec.parse({"type": model_type, "hyperparameters": SMALL[model_type] | (hyperparameters or {})} | more)


def fitted(asked: ModelSpec, training: Rows, validation: Rows | None = None) -> Any:
    return learn.fit(asked, models.build(asked), training, validation)


# --- weights ----------------------------------------------------------------------------------------------------------
OWN_WORDS = {name: {"class_weight": "balanced"} for name in BUILT_IN if name != "xgboost"}


@pytest.mark.parametrize("model_type", OWN_WORDS)
def test_balanced_means_what_the_library_means_by_it(model_type: str, training: Rows) -> None:
    ours = fitted(spec(model_type, classWeight="balanced"), training)
    theirs = fitted(spec(model_type, OWN_WORDS[model_type]), training)
    scores = [models.probabilities(each, training.features) for each in (ours, theirs)]
    assert np.allclose(*scores, atol=1e-9)


@pytest.mark.parametrize("model_type", BUILT_IN)
def test_a_positive_weight_raises_the_scores(model_type: str, training: Rows) -> None:
    plain, weighted = (
        models.probabilities(fitted(spec(model_type, **more), training), training.features).mean()
        for more in ({}, {"positiveWeight": 20})
    )
    assert weighted > plain


def test_a_positive_weight_is_xgboosts_scale(training: Rows) -> None:
    exact = {"tree_method": "exact", "base_score": 0.5}  # bins and the first score are made of weighted rows, too
    ours = fitted(spec("xgboost", exact, positiveWeight=20), training)
    theirs = fitted(spec("xgboost", exact | {"scale_pos_weight": 20}), training)
    scores = [models.probabilities(each, training.features) for each in (ours, theirs)]
    assert np.allclose(*scores, atol=1e-5)


def test_class_weights_by_number_come_from_the_texts_of_json(training: Rows) -> None:
    by_hand = fitted(spec("decision_tree", {"class_weight": {"0": 1, "1": 20}}), training)
    ours = fitted(spec("decision_tree", positiveWeight=20), training)
    assert np.array_equal(*(models.probabilities(each, training.features) for each in (by_hand, ours)))


def test_a_forest_that_grows_is_the_same_with_weights(training: Rows) -> None:
    asked = spec("random_forest", classWeight="balanced")
    at_once = fitted(asked, training)
    grown = learn.fit(asked, models.build(asked), training, report=lambda _: None)
    assert np.array_equal(*(models.probabilities(each, training.features) for each in (at_once, grown)))


# --- early stopping ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("metric", ["average_precision", "roc_auc", "log_loss"])
@pytest.mark.parametrize("model_type", BOOSTED)
def test_boosting_stops_where_the_validation_rows_say_so(
    model_type: str, metric: str, training: Rows, validation: Rows
) -> None:
    stopped = fitted(spec(model_type, earlyStopping={"rounds": 5, "metric": metric}), training, validation)
    best = early_stopping.best_iteration(stopped)
    assert best is not None
    assert 1 <= best < 195
    loaded = models.loads(models.dumps(stopped))
    assert np.array_equal(*(models.probabilities(each, validation.features) for each in (stopped, loaded)))


@pytest.mark.parametrize("model_type", BUILT_IN)
def test_without_early_stopping_there_is_no_best_iteration(model_type: str, training: Rows) -> None:
    assert early_stopping.best_iteration(models.model_of(fitted(spec(model_type), training))) is None


@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
def test_a_stopped_model_scores_with_its_best_rounds(model_type: str, training: Rows, validation: Rows) -> None:
    stopped = fitted(spec(model_type, earlyStopping={"rounds": 5}), training, validation)
    best = early_stopping.best_iteration(stopped)
    short = fitted(spec(model_type, {"n_estimators": best}), training)
    assert np.allclose(*(models.probabilities(each, validation.features) for each in (stopped, short)), atol=1e-6)


# --- calibration ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["isotonic", "sigmoid"])
@pytest.mark.parametrize("model_type", BUILT_IN)
def test_a_calibrated_model_is_nearer_to_the_truth_and_stored_without_pickle(
    model_type: str, method: str, training: Rows, validation: Rows
) -> None:
    weighted = fitted(spec(model_type, positiveWeight=20), training)
    calibrated = models.calibrated(weighted, method, validation)
    unseen = rows_of(2_000, 2)
    before, after = (
        brier_score_loss(unseen.target, models.probabilities(each, unseen.features)) for each in (weighted, calibrated)
    )
    assert after < before
    loaded = models.loads(models.dumps(calibrated))
    assert np.array_equal(*(models.probabilities(each, unseen.features) for each in (calibrated, loaded)))
    assert models.importances(calibrated, list("abcd")) == models.importances(weighted, list("abcd"))


def test_a_calibration_on_few_positives_is_refused(training: Rows, validation: Rows) -> None:
    few = Rows(validation.features[:30], pd.Series([1] * 9 + [0] * 21))
    with pytest.raises(DataError, match="the validation rows must hold at least 10 of each class, hold 9: take more"):
        models.calibrated(fitted(spec("decision_tree"), training), "sigmoid", few)


def test_the_threshold_is_chosen_for_the_calibrated_scores(training: Rows, validation: Rows) -> None:
    document = {
        "data": {"uri": "rows.csv", "target": "y"},
        "model": {"type": "decision_tree", "hyperparameters": {"max_depth": 6}, "calibration": "isotonic"},
        "evaluation": {"thresholdFor": {"recall": 0.8}},
    }
    workload = Workload.parse(document)
    learnt = learn.learn(workload, models.build(workload.model), training, validation)
    positive = models.probabilities(learnt.estimator, validation.features) >= learnt.evaluation.threshold
    assert validation.target[positive].sum() / validation.target.sum() >= 0.8
    assert learnt.chosen == {"threshold": learnt.evaluation.threshold}
    assert learnt.evaluation.threshold_for is None


# --- names ------------------------------------------------------------------------------------------------------------
def with_names(rows: Rows) -> Rows:
    """With a column of names whose order says nothing, and of which the class depends."""
    name = np.array([*"cadbe"], dtype=object)[(rows.features["a"] * 5).astype(int)]
    return Rows(rows.features.drop(columns="a").assign(name=name), rows.target)


@pytest.fixture(scope="module")
def names(training: Rows, validation: Rows) -> tuple[Rows, Rows]:
    """To learn from, and to validate on: there with a name that is new, and one that is missing."""
    on = with_names(validation)
    on.features.loc[:1, "name"] = ["never seen", np.nan]
    return with_names(training), on


def fitted_to_names(asked: ModelSpec, names: tuple[Rows, Rows]) -> Any:
    return learn.fit(asked, models.build(asked, ["name"]), *names)


@pytest.mark.parametrize("model_type", BUILT_IN)
def test_weights_reach_the_model_behind_names(model_type: str, names: tuple[Rows, Rows]) -> None:
    plain, weighted = (
        models.probabilities(fitted_to_names(spec(model_type, **more), names), names[0].features).mean()
        for more in ({}, {"positiveWeight": 20})
    )
    assert weighted > plain


@pytest.mark.parametrize("metric", ["average_precision", "roc_auc", "log_loss"])
@pytest.mark.parametrize("model_type", BOOSTED)
def test_boosting_behind_names_stops_by_the_validation_rows(
    model_type: str, metric: str, names: tuple[Rows, Rows]
) -> None:
    stopped = fitted_to_names(spec(model_type, earlyStopping={"rounds": 5, "metric": metric}), names)
    best = early_stopping.best_iteration(models.model_of(stopped))
    assert best is not None
    assert 1 <= best < 195
    loaded = models.loads(models.dumps(stopped))
    assert np.array_equal(*(models.probabilities(each, names[1].features) for each in (stopped, loaded)))


@pytest.mark.parametrize("method", ["isotonic", "sigmoid"])
@pytest.mark.parametrize("model_type", BUILT_IN)
def test_a_calibrated_model_behind_names_is_stored_with_them(
    model_type: str, method: str, names: tuple[Rows, Rows]
) -> None:
    weighted = fitted_to_names(spec(model_type, positiveWeight=20), names)
    calibrated = models.calibrated(weighted, method, names[1])
    unseen = with_names(rows_of(2_000, 2))
    before, after = (
        brier_score_loss(unseen.target, models.probabilities(each, unseen.features)) for each in (weighted, calibrated)
    )
    assert after < before
    loaded = Stored(models.loads(models.dumps(calibrated)), None)
    assert (loaded.features, loaded.categorical) == ([*"bcd", "name"], ["name"])
    assert np.array_equal(*(models.probabilities(each, unseen.features) for each in (calibrated, loaded.estimator)))
    assert models.importances(calibrated, loaded.features) == models.importances(weighted, loaded.features)


# --- threads ----------------------------------------------------------------------------------------------------------
class Counting(BaseModel):
    """Keeps how many threads it may use."""

    def __init__(self, n_jobs: int = 1) -> None:
        self.n_jobs = n_jobs

    def fit(self, *_):
        self.asked_ = self.n_jobs
        self.threads_ = {pool["num_threads"] for pool in threadpool_info()}
        return self

    def predict_proba(self, features):
        return np.full((len(features), 2), 0.5)

    def save(self, folder: Path) -> None:
        (folder / "nothing.json").write_text("{}")

    @classmethod
    def load(cls, _):
        return cls()


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_gets_the_threads_of_the_job(training: Rows, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv("M3_THREADS", str(count))
    monkeypatch.setattr(own_class, "import_class", lambda _: Counting)
    model = models.fit(models.build(ModelSpec.parse({"type": "mine:Counting"})), training.features, training.target)
    assert model.asked_ == count
    assert model.threads_ == {count}


# --- classes of the user's own ----------------------------------------------------------------------------------------
class Share(BaseModel):
    """Gives every row the share of the positives."""

    def __init__(self, times: float = 1.0) -> None:
        self.times = times

    def fit(self, _, target, sample_weight=None):
        self.share_ = float(np.average(target, weights=sample_weight)) * self.times
        return self

    def predict_proba(self, features):
        scores = self.share_ * features["a"].to_numpy()
        return np.column_stack([1 - scores, scores])

    def save(self, folder: Path) -> None:
        (folder / "share.json").write_text(json.dumps(self.share_))

    @classmethod
    def load(cls, folder: Path):
        model = cls()
        model.share_ = json.loads((folder / "share.json").read_text())
        return model


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_class, "import_class", lambda _: Share)


@pytest.mark.usefixtures("own")
def test_a_class_of_ones_own_is_stored_by_itself_and_loaded_where_its_module_is_allowed(
    training: Rows, tmp_path: Path
) -> None:
    model = fitted(ModelSpec.parse({"type": "mine:Share", "positiveWeight": 3}), training)
    own_class.save(model, list("abcd"), tmp_path / "kept")
    with pytest.raises(
        InvalidSpec, match=f"must be allowed before it is loaded, by --allow-module {Share.__module__} or"
    ):
        own_class.load(tmp_path / "kept", {"another.module"})
    loaded = own_class.load(tmp_path / "kept", {Share.__module__})
    assert loaded.feature_names_in_.tolist() == list("abcd")
    assert np.array_equal(*(models.probabilities(each, training.features) for each in (model, loaded)))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("method", ["isotonic", "sigmoid"])
def test_its_calibration_is_stored_beside_it(training: Rows, validation: Rows, tmp_path: Path, method: str) -> None:
    model = fitted(ModelSpec.parse({"type": "mine:Share"}), training)
    calibrated = models.calibrated(model, method, validation)
    own_class.save(model, list("abcd"), tmp_path / "kept")
    data = models.dumps_around(calibrated)
    loaded = models.loads_around(data, own_class.load(tmp_path / "kept", {Share.__module__}))
    assert np.array_equal(*(models.probabilities(each, training.features) for each in (calibrated, loaded)))


class ByName(Share):
    """Gives every row the share of the positives among those of its name."""

    def fit(self, features, target):
        self.share_ = list(target.groupby(features["name"]).mean().items())
        return self

    def predict_proba(self, features):
        scores = features["name"].map(dict(map(tuple, self.share_))).fillna(0.5).to_numpy()
        return np.column_stack([1 - scores, scores])


@pytest.mark.parametrize("method", [None, "isotonic", "sigmoid"])
def test_it_is_given_names_as_numbers_and_what_they_mean_is_stored_beside_it(
    names: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str | None
) -> None:
    monkeypatch.setattr(own_class, "import_class", lambda _: ByName)
    model = fitted_to_names(ModelSpec.parse({"type": "mine:ByName"}), names)
    if method is None:
        share = names[0].target.groupby(names[0].features["name"]).mean()
        asked = pd.DataFrame({"name": [*"abcde", "never seen"], **dict.fromkeys("bcd", 0.0)})
        assert models.probabilities(model, asked) == pytest.approx([*share, 0.5])
    whole = models.calibrated(model, method, names[1]) if method else model
    own = models.model_of(whole)
    own_class.save(own, list(own.feature_names_in_), tmp_path / "kept")
    data = models.dumps_around(whole)
    assert models.model_of(whole) is own
    loaded = models.loads_around(data, own_class.load(tmp_path / "kept", {ByName.__module__}))
    assert Stored(loaded, None).categorical == ["name"]
    assert np.array_equal(*(models.probabilities(each, names[1].features) for each in (whole, loaded)))


def test_a_class_of_ones_own_may_have_steps(training: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    class Steps(Share):
        def __init__(self, steps: int = 3) -> None:
            self.steps, self.times = steps, 1.0

    monkeypatch.setattr(own_class, "import_class", lambda _: Steps)
    model = fitted(ModelSpec.parse({"type": "mine:Steps", "positiveWeight": 2}), training)
    assert models.probabilities(model, training.features).max() > 0


WRONG = {
    "one column": (lambda rows: np.zeros(rows), r"shape \(30, 2\), gave shape \(30,\)"),
    "a row too few": (lambda rows: np.zeros((rows - 1, 2)), r"shape \(30, 2\), gave shape \(29, 2\)"),
    "NaN": (lambda rows: np.full((rows, 2), np.nan), "must give a number for each row, gave NaN for 30 of 30"),
    "odds": (lambda rows: np.full((rows, 2), 1.5), "must give probabilities from 0 to 1, gave 1.5"),
    "texts": (lambda rows: np.full((rows, 2), "high"), "must give numbers: could not convert string to float"),
    "nothing": (lambda _: None, r"must give the probabilities of class 0 and class 1 for each row"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_probabilities_that_are_none_are_refused(given: Callable[[int], Any], message: str, training: Rows) -> None:
    class Wrong(Share):
        def predict_proba(self, features):
            return given(len(features))

    with pytest.raises(UserCodeFailed, match=message):
        models.probabilities(Wrong(), training.features[:30])


def numpy_archive(path: Path) -> None:
    np.savez(path, names=np.array([{"a": 1}], dtype=object))


def torch_like(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))


PICKLES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a pickle by its name": ("model.pkl", lambda path: path.write_text("")),
    "a pickle by its content": ("model.bin", lambda path: path.write_bytes(pickle.dumps({"a": [1]}))),
    "a pickle of the first protocol": ("model.txt", lambda path: path.write_bytes(pickle.dumps({"a": [1]}, 0))),
    "joblib's": ("model.bin", lambda path: joblib.dump({"a": [1]}, path)),
    "an array of objects": ("a.npy", lambda path: np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)),
    "an archive of such arrays": ("a.npz", numpy_archive),
    "an archive that holds one": ("model.pt", torch_like),
}


@pytest.mark.parametrize(("name", "write"), PICKLES.values(), ids=PICKLES.keys())
def test_a_pickle_is_refused_however_it_is_dressed(name: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    class Pickling(Share):
        def save(self, folder: Path) -> None:
            (folder / "inner").mkdir()
            write(folder / "inner" / name)

    with pytest.raises(
        InvalidSpec, match=rf"save must write no pickle, which runs code when it is read; `inner/{name}` is"
    ):
        own_class.save(Pickling(), ["a"], tmp_path / "kept")


HARMLESS: dict[str, Callable[[Path], object]] = {
    "a.json": lambda path: path.write_text('{"a": 1.}'),
    "a.npy": lambda path: np.save(path, np.arange(4.0)),
    "a.npz": lambda path: np.savez(path, a=np.arange(4.0), b=np.array(["x"])),
    "a.txt": lambda path: path.write_text("A text that ends in a full stop."),
    "nothing": lambda path: path.write_text(""),
}


@pytest.mark.parametrize(("name", "write"), HARMLESS.items(), ids=HARMLESS.keys())
def test_what_is_no_pickle_is_not_taken_for_one(name: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / name)
    assert not own_class.holds_pickle(tmp_path / name)
