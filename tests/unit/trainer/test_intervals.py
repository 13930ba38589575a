"""How sure a metric is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_trainer import evaluate, intervals
from m3_trainer.config import Evaluation
from m3_trainer.evaluate import Scored

NAMES = list(evaluate.METRICS)
EVERY = Evaluation.parse({"metrics": NAMES, "topK": 3, "threshold": 0.5})
WITHOUT_CARDS = Evaluation.parse({"metrics": [name for name in NAMES if name != "card_precision_at_k"]})


@st.composite
def scored(draw: st.DrawFn, coarse: int = 8) -> Scored:
    """Rows of both classes, many of them with one score, over some days and cards."""
    count = draw(st.integers(4, 60))
    values = draw(st.lists(st.integers(0, coarse), min_size=count, max_size=count))
    target = draw(
        st.lists(st.integers(0, 1), min_size=count, max_size=count).filter(lambda all_: 0 < sum(all_) < count)
    )
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, 3, count)).astype("datetime64[D]")
    return Scored(np.array(target), np.array(values) / coarse, day, rng.integers(0, 7, count))


def counted(rows: Scored, times: np.ndarray) -> Scored:
    """The rows, each as often as `times` says."""
    return rows.at(np.repeat(np.arange(len(rows.target)), times))


def test_each_metric_has_an_estimate() -> None:
    assert intervals.ESTIMATES.keys() == evaluate.METRICS.keys()


@settings(max_examples=40, deadline=None)
@given(scored())
def test_with_each_row_once_an_estimate_is_the_metric(rows: Scored) -> None:
    unit = np.unique(rows.card, return_inverse=True)[1]
    found = intervals.estimates(rows, EVERY, unit, np.ones((unit.max() + 1, 1)))
    assert {name: values[0] for name, values in found.items()} == pytest.approx(evaluate.measure(rows, EVERY))


@settings(max_examples=40, deadline=None)
@given(scored(), st.integers(0, 1000))
def test_a_weight_counts_as_so_many_copies_of_the_rows(rows: Scored, seed: int) -> None:
    times = np.random.default_rng(seed).poisson(1.0, len(rows.target))
    copies = counted(rows, times)
    if not 0 < copies.target.sum() < len(copies.target):
        return
    unit = np.arange(len(rows.target))
    found = intervals.estimates(rows, WITHOUT_CARDS, unit, times[:, None].astype(float))
    expected = evaluate.measure(copies, WITHOUT_CARDS)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(scored())
def test_a_card_that_is_drawn_twice_takes_two_places_of_the_days_list(rows: Scored) -> None:
    assert rows.card is not None
    cards = np.unique(rows.card)
    both = Scored(
        np.tile(rows.target, 2), np.tile(rows.score, 2), np.tile(rows.day, 2),
        np.concatenate([rows.card * 2, rows.card * 2 + 1]),
    )  # fmt: skip
    unit = np.searchsorted(cards, rows.card)
    asked = Evaluation.parse({"metrics": ["card_precision_at_k"], "topK": 4})
    found = intervals.estimates(rows, asked, unit, np.full((len(cards), 1), 2.0))
    # of a pair that only half fits, one is looked at and both count as found
    assert found["card_precision_at_k"][0] <= evaluate.card_precision_at_k(both, 4) + 1e-12
    assert found["card_precision_at_k"][0] >= evaluate.card_precision_at_k(both, 4) - 3 / 4


@settings(max_examples=40, deadline=None)
@given(scored(coarse=1000), st.booleans())
def test_an_interval_holds_the_metric_and_has_the_seeds_word(rows: Scored, by_card: bool) -> None:
    rows = rows if by_card else Scored(rows.target, rows.score)
    asked = EVERY if by_card else WITHOUT_CARDS
    point = evaluate.measure(rows, asked)
    found = intervals.of(rows, asked, point, seed=1)
    assert all(bounds.low <= point[name] <= bounds.high for name, bounds in found.items())
    assert found == intervals.of(rows, asked, point, seed=1)
    assert intervals.from_metrics(point | intervals.as_metrics(found)) == found


def simulated(rng: np.random.Generator, rows: int, cards: int | None = None) -> Scored:
    """Scores of 0.5 and 0.8 accuracy; with cards, all rows of one card are of one class and one score."""
    unit = np.arange(rows) if cards is None else rng.integers(0, cards, rows)
    target = rng.random(unit.max() + 1) < 0.3
    score = np.clip(target * 0.3 + rng.random(len(target)) * 0.7, 0, 1)
    return Scored(target[unit].astype(int), score[unit], None, unit if cards else None)


@pytest.mark.parametrize("cards", [None, 150])
def test_nineteen_of_twenty_intervals_hold_the_true_value(cards: int | None) -> None:
    rng = np.random.default_rng(3)
    asked = Evaluation.parse({"metrics": ["roc_auc", "recall"]})
    truth = evaluate.measure(simulated(rng, 400_000), asked)
    hits = []
    for seed in range(150):
        rows = simulated(rng, 600, cards)
        found = intervals.of(rows, asked, evaluate.measure(rows, asked), seed)
        hits.append([bounds.low <= truth[name] <= bounds.high for name, bounds in found.items()])
    assert np.mean(hits, axis=0) == pytest.approx([0.95, 0.95], abs=0.05)


def test_more_units_than_are_kept_apart_give_intervals_as_wide() -> None:
    rows = simulated(np.random.default_rng(5), 12_000)
    asked = Evaluation.parse({"metrics": ["recall"]})
    point = evaluate.measure(rows, asked)
    bounds = intervals.of(rows, asked, point, seed=1)["recall"]
    share = point["recall"]
    expected = 2 * 1.96 * np.sqrt(share * (1 - share) / rows.target.sum())
    assert bounds.high - bounds.low == pytest.approx(expected, rel=0.15)


def test_the_rows_of_one_card_are_not_taken_for_independent() -> None:
    rows = simulated(np.random.default_rng(7), 6_000, cards=60)
    asked = Evaluation.parse({"metrics": ["roc_auc"]})
    point = evaluate.measure(rows, asked)
    by_card = intervals.of(rows, asked, point, seed=1)["roc_auc"]
    by_row = intervals.of(Scored(rows.target, rows.score), asked, point, seed=1)["roc_auc"]
    assert by_card.high - by_card.low > 3 * (by_row.high - by_row.low)
