"""The threshold that is chosen, against every threshold that there is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_trainer import threshold
from m3_trainer.config import ThresholdFor
from m3_trainer.errors import TrainingFailed

TARGET = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0, 0])
SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2, 0.1])


def chosen(wish: dict, target: np.ndarray = TARGET, score: np.ndarray = SCORE) -> threshold.Threshold:
    return threshold.choose(target, score, ThresholdFor.parse(wish))


def test_the_highest_recall_with_the_precision() -> None:
    found = chosen({"precision": 0.7})
    assert (found.value, found.precision, found.recall) == (pytest.approx(0.55), 0.75, 0.75)


def test_the_highest_precision_with_the_recall() -> None:
    found = chosen({"recall": 0.5})
    assert (found.value, found.precision, found.recall) == (pytest.approx(0.75), 1.0, 0.5)
    assert chosen({"recall": 1}).value == pytest.approx(0.25)


def test_the_least_cost() -> None:
    assert chosen({"cost": {"falsePositive": 1, "falseNegative": 100}}).value == pytest.approx(0.25)
    assert chosen({"cost": {"falsePositive": 1, "falseNegative": 1}}).value == pytest.approx(0.75)


def test_not_to_act_at_all_may_be_cheapest() -> None:
    found = chosen({"cost": {"falsePositive": 100, "falseNegative": 1}}, TARGET, 1 - SCORE)
    assert (found.value, found.recall) == (1.0, 0.0)


def test_a_precision_that_no_threshold_has_is_refused_with_the_best_there_is() -> None:
    with pytest.raises(
        TrainingFailed,
        match=r"evaluation.thresholdFor.precision: 0.9 must be reachable on the validation rows; the highest there is 0.667, "
        r"with recall 1.000. Ask for less, or for a recall",
    ):
        chosen({"precision": 0.9}, np.array([0, 1, 1]), np.array([0.9, 0.8, 0.8]))


SCORES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=30
)
WISHES = st.one_of(
    st.builds(lambda value: {"recall": value}, st.sampled_from([0.1, 0.5, 1])),
    st.builds(lambda value: {"precision": value}, st.sampled_from([0.1, 0.5, 1])),
    st.builds(
        lambda one, other: {"cost": {"falsePositive": one, "falseNegative": other}},
        st.sampled_from([1, 7]),
        st.sampled_from([1, 100]),
    ),
)


@given(SCORES, WISHES)
def test_no_other_threshold_is_better(rows: list[tuple[int, float]], wish: dict) -> None:
    target, score = (np.array(values) for values in zip(*rows, strict=True))
    if not target.any():
        return
    every = [figures(target, score >= value) for value in {*score.tolist(), 2.0}]
    try:
        found = chosen(wish, target, score)
    except TrainingFailed:
        assert max(precision for precision, _, _, _ in every) < wish["precision"]
        return
    precision, recall, false_positives, missed = figures(target, score >= found.value)
    if "recall" in wish:
        assert recall >= wish["recall"]
        assert precision == max(p for p, r, _, _ in every if r >= wish["recall"])
    elif "precision" in wish:
        assert precision >= wish["precision"]
        assert recall == max(r for p, r, _, _ in every if p >= wish["precision"])
    else:
        cost = wish["cost"]
        totals = [fp * cost["falsePositive"] + fn * cost["falseNegative"] for _, _, fp, fn in every]
        ours = false_positives * cost["falsePositive"] + missed * cost["falseNegative"]
        assert ours == min(totals) or found.value == 1.0


def figures(target: np.ndarray, positive: np.ndarray) -> tuple[float, float, int, int]:
    hits = int((target[positive] == 1).sum())
    return (
        hits / positive.sum() if positive.any() else 0.0,
        hits / target.sum(),
        int(positive.sum()) - hits,
        int(target.sum()) - hits,
    )
