"""Which rows judge, and by what figure."""

import numpy as np
import pandas as pd
import pytest

from m3_trainer import evaluate, models
from m3_trainer import split as splitting
from m3_trainer.config import Evaluation, ModelSpec, Split, Workload
from m3_trainer.errors import DataError, InvalidSpec, TrainingFailed
from m3_trainer.hyperparameters import BUILT_IN

PROTOCOL = Split.parse(
    {"trainStart": "2026-01-01", "trainDays": 2, "delayDays": 1, "testDays": 2, "excludeKnown": "card"}
)


def rows(*days_cards_frauds: tuple[int, str, int]) -> tuple[pd.Series, pd.Series, pd.Series]:
    days, cards, frauds = zip(*days_cards_frauds, strict=True)
    times = pd.Series(pd.Timestamp("2026-01-01") + pd.to_timedelta(list(days), unit="D"))
    return times, pd.Series(frauds), pd.Series(cards)


def test_training_delay_and_test_are_periods_of_days() -> None:
    times, target, cards = rows(*((day, f"card{day}", 0) for day in range(-1, 6)))
    parts = splitting.by_periods(PROTOCOL, times, target, cards)
    assert (parts.train.tolist(), parts.test.tolist()) == ([1, 2], [4, 5])


def test_a_card_with_a_fraud_in_training_is_not_tested() -> None:
    times, target, cards = rows((0, "bad", 1), (1, "good", 0), (3, "bad", 0), (3, "good", 0), (4, "bad", 1))
    assert splitting.by_periods(PROTOCOL, times, target, cards).test.tolist() == [3]


def test_a_card_is_known_once_the_delay_has_passed() -> None:
    # A fraud on day 2, in the delay period: unknown on test day 3, known on test day 4.
    times, target, cards = rows((0, "other", 0), (2, "bad", 1), (3, "bad", 0), (4, "bad", 0))
    assert splitting.by_periods(PROTOCOL, times, target, cards).test.tolist() == [2]


def test_a_fraud_before_the_training_period_does_not_make_a_card_known() -> None:
    times, target, cards = rows((-3, "bad", 1), (0, "other", 0), (3, "bad", 0))
    assert splitting.by_periods(PROTOCOL, times, target, cards).test.tolist() == [2]


def test_by_time_the_latest_rows_are_the_test() -> None:
    times = pd.Series(pd.to_datetime(["2026-01-05", "2026-01-01", "2026-01-04", "2026-01-02", "2026-01-03"]))
    parts = splitting.by_time(times, 0.4)
    assert (parts.train.tolist(), parts.test.tolist()) == ([1, 3, 4], [2, 0])


def workload(**parts: dict) -> Workload:
    return Workload.parse({"data": {"uri": "x.csv", "target": "y", "timeColumn": "t"}} | parts)


def test_validation_rows_are_the_last_days_of_the_training_period_with_the_delay_before_them() -> None:
    # Nine days of training, a delay of two, three of validation: learnt from are days 0 to 3.
    split = {"trainStart": "2026-01-01", "trainDays": 9, "delayDays": 2, "testDays": 1, "validationDays": 3}
    times, target, cards = rows(*((day, f"card{day}", day % 2) for day in range(12)), (11, "other", 0))
    frame = pd.DataFrame({"t": times, "card": cards})
    parts = splitting.split(workload(training={"split": split}), frame, target, times)
    assert parts.train.tolist() == [0, 1, 2, 3]
    assert parts.validation.tolist() == [6, 7, 8]
    assert parts.test.tolist() == [11, 12]


def test_a_card_that_is_known_by_then_does_not_validate() -> None:
    split = {"trainStart": "2026-01-01", "trainDays": 5, "delayDays": 1, "testDays": 1, "validationDays": 2}
    split |= {"excludeKnown": "card"}
    times, target, cards = rows(
        (0, "bad", 1), (1, "a", 0), (3, "bad", 0), (3, "b", 0), (4, "c", 1), (6, "d", 1), (6, "e", 0)
    )
    frame = pd.DataFrame({"t": times, "card": cards})
    parts = splitting.split(workload(training={"split": split}), frame, target, times)
    assert (parts.train.tolist(), parts.validation.tolist()) == ([0, 1], [3, 4])


def test_without_periods_the_latest_training_rows_validate() -> None:
    times = pd.Series(pd.date_range("2026-01-01", periods=20))
    asked = workload(training={"testSize": 0.5, "validationSize": 0.3})
    parts = splitting.split(asked, pd.DataFrame({"t": times}), pd.Series([0, 1] * 10), times)
    assert parts.train.tolist() == list(range(7))
    assert parts.validation.tolist() == [7, 8, 9]


def test_without_times_validation_rows_are_drawn_with_equal_share_of_the_classes() -> None:
    asked = Workload.parse({"data": {"uri": "x.csv", "target": "y"}, "model": {"calibration": "sigmoid"}})
    target = pd.Series([0, 0, 0, 1] * 50)
    parts = splitting.split(asked, pd.DataFrame({"a": target}), target, None)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (128, 32, 40)
    assert target[parts.validation].mean() == 0.25
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(200))


def test_nothing_is_cut_from_the_training_rows_where_nothing_is_chosen() -> None:
    times = pd.Series(pd.date_range("2026-01-01", periods=10))
    parts = splitting.split(workload(), pd.DataFrame({"t": times}), pd.Series([0, 1] * 5), times)
    assert (len(parts.train), len(parts.validation)) == (8, 0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], "the test part must hold rows of both classes; 0 of its 2 rows are positive"),
        (
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            "the training part must hold rows of both classes; 0 of its 8 rows are positive",
        ),
    ],
)
def test_a_part_of_one_class_is_refused(target: list[int], message: str) -> None:
    workload = Workload.parse({"data": {"uri": "x.csv", "target": "y", "timeColumn": "t"}})
    times = pd.Series(pd.date_range("2026-01-01", periods=10))
    with pytest.raises(DataError, match=message):
        splitting.split(workload, pd.DataFrame({"t": times}), pd.Series(target), times)


def test_a_period_without_rows_is_refused() -> None:
    workload = Workload.parse(
        {"data": {"uri": "x.csv", "target": "y", "timeColumn": "t"},
         "training": {"split": {"trainStart": "2030-01-01", "trainDays": 1, "testDays": 1}}}
    )  # fmt: skip
    times = pd.Series(pd.date_range("2026-01-01", periods=4))
    with pytest.raises(DataError, match="the training part must hold rows, holds none"):
        splitting.split(workload, pd.DataFrame({"t": times}), pd.Series([0, 1, 0, 1]), times)


def scored(*rows_: tuple[int, str, float, int]) -> evaluate.Scored:
    day, card, score, target = (np.array(values) for values in zip(*rows_, strict=True))
    return evaluate.Scored(target, score, day, card)


def test_card_precision_takes_each_card_at_its_highest_score() -> None:
    found = scored((0, "a", 0.9, 0), (0, "a", 0.1, 1), (0, "b", 0.5, 0), (0, "c", 0.4, 1))
    assert evaluate.card_precision_at_k(found, 2) == 0.5


def test_card_precision_removes_cards_found_on_an_earlier_day() -> None:
    found = scored((0, "a", 0.9, 1), (0, "b", 0.1, 0), (1, "a", 0.9, 1), (1, "b", 0.5, 0))
    assert evaluate.card_precision_at_k(found, 1) == 0.5


def test_card_precision_divides_by_k_even_where_there_are_fewer_cards() -> None:
    assert evaluate.card_precision_at_k(scored((0, "a", 0.9, 1)), 4) == 0.25


def test_metrics_come_in_the_order_of_the_file_and_use_its_threshold() -> None:
    found = evaluate.Scored(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.7, 0.2]))
    how = Evaluation.parse({"metrics": ["recall", "precision", "f1"], "threshold": 0.65})
    assert evaluate.measure(found, how) == {"recall": 0.5, "precision": 1.0, "f1": pytest.approx(2 / 3)}


def test_every_metric_of_the_schema_is_computed() -> None:
    every = Evaluation.model_fields["metrics"].annotation.__args__[0].__args__
    assert set(every) == evaluate.METRICS.keys()


@pytest.fixture(scope="module")
def problem() -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.random((20_000, 4)), columns=list("abcd"))
    return features, (features["a"] + rng.random(20_000) / 3 > 0.9).astype("int8")


def fitted(model_type: str, problem: tuple[pd.DataFrame, pd.Series]):
    small = {} if model_type == "logistic_regression" else {"max_depth": 6}
    spec = ModelSpec.parse({"type": model_type, "hyperparameters": small})
    return models.fit(models.build(spec), *problem)


@pytest.mark.parametrize("model_type", BUILT_IN)
def test_every_type_of_model_is_stored_and_loaded_without_pickle(model_type: str, problem) -> None:
    estimator = fitted(model_type, problem)
    loaded = models.loads(models.dumps(estimator))
    assert np.array_equal(models.probabilities(loaded, problem[0]), models.probabilities(estimator, problem[0]))


def test_probabilities_do_not_depend_on_the_number_of_threads(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = fitted("random_forest", problem)
    by_threads = []
    for count in ("1", "2", "4"):
        monkeypatch.setenv("M3_THREADS", count)
        by_threads.append(models.probabilities(estimator, problem[0]))
    assert np.array_equal(by_threads[0], by_threads[1])
    assert np.array_equal(by_threads[0], by_threads[2])


class Hostile:
    """A stored object that would write a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_stored_model_of_foreign_types_is_refused_by_name(tmp_path) -> None:
    import skops.io

    target = tmp_path / "written"
    with pytest.raises(InvalidSpec, match=r"must hold trusted types only; it holds `.*Hostile`"):
        models.loads(skops.io.dumps({"model": Hostile(str(target))}))
    assert not target.exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "no.such.module:Class"}, "the module `no.such.module` must be importable where the job runs"),
        ({"type": "collections:OrderedDict"}, "must have the method fit, as scikit-learn's classifiers do"),
        (
            {"type": "sklearn.neighbors:KNeighborsClassifier", "hyperparameters": {"neighbours": 3}},
            "sklearn.neighbors:KNeighborsClassifier must accept them",
        ),
    ],
)
def test_a_class_that_is_no_classifier_is_refused(spec: dict, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        models.build(ModelSpec.parse(spec))


def test_a_value_that_the_model_refuses_is_reported_in_its_words(problem) -> None:
    spec = ModelSpec.parse({"type": "decision_tree", "hyperparameters": {"monotonic_cst": [1, 0]}})
    with pytest.raises(
        TrainingFailed, match="DecisionTreeClassifier must be able to learn from the data: monotonic_cst has shape 2"
    ):
        models.fit(models.build(spec), *problem)
