"""Segments, importances, folds, pictures, card and report: what a run tells its readers."""

import json
from datetime import date
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_trainer import account, figures, folds, importance, intervals, lineage, segments
from m3_trainer import split as splitting
from m3_trainer.config import Evaluation, Workload
from m3_trainer.errors import DataError
from m3_trainer.evaluate import Scored

ASKED = Evaluation.parse({"metrics": ["average_precision", "recall"]})
HOSTILE = '<script>alert("1")</script>|`$x$`'


def named(column: pd.Series) -> list[str]:
    names, place = segments.labels(column)
    return [names[number] for number in place]


def test_a_column_of_few_values_has_a_segment_for_each() -> None:
    assert named(pd.Series(["b", "a", None, "b"])) == ["b", "a", segments.MISSING, "b"]
    assert named(pd.Series([1.0, 0.0, np.nan])) == ["1", "0", segments.MISSING]
    assert named(pd.Series([True, False])) == ["True", "False"]


def test_of_many_values_the_most_frequent_are_kept() -> None:
    column = pd.Series([f"v{value:02}" for value in range(12) for _ in range(1 + value)])
    found = named(column)
    assert sorted(set(found)) == [segments.OTHERS, *(f"v{value:02}" for value in range(2, 12))]
    assert found.count(segments.OTHERS) == 3


def test_many_numbers_are_cut_into_bins_of_equally_many_rows() -> None:
    found = pd.Series(named(pd.Series([*range(100), None]))).value_counts()
    assert found.tolist() == [20] * 5 + [1]
    assert sorted(found.index)[:2] == [segments.MISSING, "q1 -0.001 to 19.8"]


def test_times_are_cut_into_bins_too() -> None:
    names, _ = segments.labels(pd.Series(pd.date_range("2026-01-01", periods=50)))
    assert [name[:2] for name in names] == ["q1", "q2", "q3", "q4", "q5"]
    assert "2026-01-10 19:12:00" in names[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers(-2, 2)), min_size=1))
def test_every_row_is_in_one_segment_and_no_segment_is_empty(values: list) -> None:
    names, place = segments.labels(pd.Series(values, dtype="object"))
    assert len(place) == len(values)
    assert sorted(set(place.tolist())) == list(range(len(names)))


def test_a_segment_is_measured_on_its_rows_alone_and_one_of_a_single_class_is_counted_only() -> None:
    rows = Scored(np.array([0, 1, 1, 0, 0]), np.array([0.1, 0.9, 0.2, 0.8, 0.3]))
    found = segments.of(pd.DataFrame({"c": ["a", "a", "b", "b", "c"]}), rows, ASKED, seed=1)
    assert [(each.value, each.rows, each.positives, each.metrics) for each in found] == [
        ("a", 2, 1, {"average_precision": 1.0, "recall": 1.0}),
        ("b", 2, 1, {"average_precision": 0.5, "recall": 0.0}),
        ("c", 1, 0, {}),
    ]
    assert found[0].intervals.keys() == {"average_precision", "recall"}


def test_the_metrics_of_segments_have_names_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    values = ["..", "a/b", "a_b", "", " ", "ü|%", "x" * 400, HOSTILE]
    found = segments.as_metrics(segments.Segment("col/umn", value, 2, 1, {"recall": 0.5}, {}) for value in values)
    assert len(found) == 3 * len(values)
    for name in found:
        _validate_metric_name(name)


def test_the_feature_that_decides_is_the_most_important_and_one_that_is_not_used_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((8_000, 3)), columns=["noise", "decides", "unused"])
    target = (table["decides"] > 0.97).to_numpy().astype(int)
    found = importance.permutation(
        lambda rows: (rows["decides"] + rows["noise"] / 100).to_numpy(), table, target, seed=1
    )
    assert next(iter(found.mean)) == "decides"
    assert found.mean["decides"] > 0.8
    assert (found.mean["unused"], found.deviation["unused"]) == (0.0, 0.0)
    assert found.rows == importance.MAX_ROWS


def test_a_sample_has_all_rare_rows_and_weighs_the_others_up() -> None:
    target = np.array([1] * 20 + [0] * 49_980)
    table = pd.DataFrame({"x": np.arange(50_000.0)})
    taken = importance.sample(table, target, np.random.default_rng(0))
    assert (taken.target.sum(), len(taken.target)) == (20, importance.MAX_ROWS)
    assert taken.weight.sum() == pytest.approx(50_000)
    assert (np.bincount(taken.target, taken.weight)).tolist() == pytest.approx([49_980, 20])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 3000), st.integers(1, 3000))
def test_a_sample_is_bounded_whatever_there_is(width: int, positives: int, negatives: int) -> None:
    target = np.repeat([1, 0], [positives, negatives])
    taken = importance.sample(pd.DataFrame(np.zeros((len(target), width))), target, np.random.default_rng(0))
    size = max(importance.FEWEST_ROWS, min(importance.MAX_ROWS, importance.MAX_SCORED // (importance.REPEATS * width)))
    assert len(taken.target) == min(size, len(target))
    assert 0 < taken.target.sum() < len(taken.target)


def prequential(**changes: object) -> Workload:
    return Workload.parse(
        {
            "data": {"uri": "x.csv", "target": "y", "timeColumn": "t"},
            "training": {
                "split": {"trainStart": "2026-01-15", "trainDays": 2, "delayDays": 1, "testDays": 2},
                "folds": {"count": 3, "stepDays": 4} | changes,
            },
        }
    )


def daily(days: int) -> tuple[pd.Series, pd.Series]:
    times = pd.Series(pd.date_range("2026-01-01", periods=2 * days, freq="12h"))
    return times, pd.Series([0, 1] * days)


def test_folds_are_the_split_moved_back_in_time() -> None:
    times, target = daily(30)
    found = splitting.folds(prequential(), pd.DataFrame({"t": times}), target, times)
    assert [split.train_start for split, _ in found] == [date(2026, 1, 15), date(2026, 1, 11), date(2026, 1, 7)]
    days = [
        (times[parts.train].dt.day.unique().tolist(), times[parts.test].dt.day.unique().tolist()) for _, parts in found
    ]
    assert days == [([15, 16], [18, 19]), ([11, 12], [14, 15]), ([7, 8], [10, 11])]
    assert (
        found[0][1].train.tolist()
        == splitting.split(prequential(), pd.DataFrame({"t": times}), target, times).train.tolist()
    )


def test_a_fold_before_the_data_is_named_before_anything_is_trained() -> None:
    times, target = daily(30)
    with pytest.raises(
        DataError, match="the training part of the fold that starts on 2025-12-30 must hold rows, holds none"
    ):
        splitting.folds(prequential(count=5), pd.DataFrame({"t": times}), target, times)


def test_the_farthest_fold_that_the_schema_allows_is_a_day_that_exists() -> None:
    times, target = daily(30)
    first = Workload.parse(
        prequential().dump()
        | {
            "training": {
                "split": {"trainStart": "1900-01-01", "trainDays": 1, "testDays": 1},
                "folds": {"count": 50, "stepDays": 3650},
            }
        }
    )
    with pytest.raises(DataError, match="of the fold that starts on 1900-01-01 must hold rows"):
        splitting.folds(first, pd.DataFrame({"t": times}), target, times)


def test_folds_at_random_test_each_row_once_and_leave_out_what_counts_whole_days() -> None:
    rng = np.random.default_rng(0)
    table, target = pd.DataFrame({"x": rng.random(100)}), pd.Series(rng.integers(0, 2, 100))
    asked = Evaluation.parse({"metrics": ["recall", "card_precision_at_k"]})
    parts = list(folds.shuffled(table, target, 4, seed=1))
    assert sorted(row for part in parts for row in part.test.index) == list(range(100))
    perfect = partial(folds.judge, lambda part: part.test_target.to_numpy() * 1.0, asked)
    judged = list(map(perfect, enumerate(parts, start=1)))
    assert [fold.metrics for fold in judged] == [{"recall": 1.0}] * 4
    assert folds.summary(judged) == {"cv_recall_mean": 1.0, "cv_recall_std": 0.0}
    assert sum(fold.counts["test_rows"] for fold in judged) == 100


def test_bins_of_the_calibration_hold_every_row_and_reach_the_rare_class() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(20_000) ** 8
    rows = Scored((rng.random(20_000) < score).astype(int), score)
    mean, share, count = figures.calibration_bins(rows)
    assert count.sum() == 20_000
    assert mean[-1] > 0.8
    assert np.abs(mean - share).max() < 0.05


@pytest.mark.parametrize("score", [[0.5] * 4, [0.0, 0.0, 1.0, 1.0]])
def test_a_model_that_gives_one_or_two_scores_has_pictures_too(score: list[float]) -> None:
    told = example(scored=Scored(np.array([0, 0, 1, 1]), np.array(score)))
    assert all(data.startswith(b"\x89PNG") for data in told.pictures().values())


def test_the_picture_shows_the_most_important_features_only() -> None:
    shares = {f"f{index}": 1 / 40 for index in range(40)}
    axes = figures.importance(shares, None, "title", "share").axes[0]
    assert len(axes.patches) == figures.SHOWN_FEATURES


def test_a_picture_takes_any_name_of_a_column() -> None:
    names = dict.fromkeys((HOSTILE, "$\\frac{1}$", "数量", "x" * 300), 0.1)
    assert figures.png(figures.importance(names, names, HOSTILE, "share")).startswith(b"\x89PNG")


def test_the_confusion_matrix_has_the_truth_in_its_rows() -> None:
    rows = Scored(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.9, 0.4, 0.5]))
    assert account.confusion_table(rows, 0.5).tolist() == [[2, 1], [1, 1]]


def example(**changes: object) -> account.Account:
    rng = np.random.default_rng(0)
    rows = Scored(rng.integers(0, 2, 200), rng.random(200))
    workload = Workload.parse(
        {
            "data": {"uri": "x.csv", "target": HOSTILE},
            "evaluation": {"metrics": ["average_precision"], "segments": ["COUNTRY"]},
            "registry": {"modelName": "<b>detector|*"},
            "model": {"type": "my.models:Forest", "hyperparameters": {"note": HOSTILE}},
        }
    )
    part = segments.Segment(HOSTILE, HOSTILE, 10, 2, {"average_precision": 0.5}, {})
    counts = {"train_rows": 800, "train_positives": 400, "test_rows": 200, "test_positives": 100}
    fields = {
        "workload": workload, "evaluation": workload.evaluation, "scored": rows, "counts": counts,
        "metrics": {"average_precision": 0.61234},
        "intervals": {"average_precision": intervals.Interval(0.5, 0.7)}, "features": [HOSTILE, "TX_AMOUNT"],
        "importances": importance.Importances({HOSTILE: 0.2, "TX_AMOUNT": 0.1}, {HOSTILE: 0.01, "TX_AMOUNT": 0.0}, 200),
        "own_importances": {HOSTILE: 1.0}, "lineage": {"data": HOSTILE, "rows": "1,000"}, "run": {"MLflow run": "abc"},
        "params": {HOSTILE: HOSTILE}, "segments": [part],
        "folds": [{"fold": f"1: {HOSTILE}", "train_rows": 800, "average_precision": 0.6}],
    }  # fmt: skip
    return account.Account(**(fields | changes))


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell and heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_runs_nothing_asks_for_nothing_and_shows_the_users_text_as_text() -> None:
    told = example()
    page = Page(told.report(told.pictures()))
    assert not {"script", "link", "iframe", "object", "b"} & {tag for tag, _ in page.tags}
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(addresses) == 7
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    text = "".join(page.text)
    assert text.count(HOSTILE) >= 7
    assert {"0.6123", "0.5000", "0.7000", "<b>detector|*"} <= set(page.text)


def test_the_card_shows_the_users_text_as_text() -> None:
    card = example().card()
    assert card.startswith("# \\<b\\>detector\\|\\*\n")
    assert "| average_precision | 0.6123 | 0.5000 to 0.7000 |" in card
    assert "| MLflow run | `abc` |" in card
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows if HOSTILE[:8] in line} <= {3, 6}
    assert "bootstrap intervals over rows" in card


def test_a_card_is_cut_at_a_line_to_what_mlflow_keeps() -> None:
    many = [segments.Segment("c" * 200, f"value {number}", 1, 0, {}, {}) for number in range(50)]
    card = example(segments=many, features=["f" * 200] * 50).card()
    assert len(card) <= account.MAX_CARD
    assert card.endswith("… more in the run's model_card.md")


def test_the_table_of_importances_can_be_read_by_programs() -> None:
    table = json.loads(example().files()[account.TABLE_FILE])
    assert table["permutation"][0] == {"feature": HOSTILE, "mean": 0.2, "deviation": 0.01}
    assert table["rows"] == 200


DIGEST = "sha256:" + "a" * 64


def test_an_image_names_its_commit_and_its_digest() -> None:
    found = lineage.Code.around({"M3_GIT_COMMIT": "abc", "M3_IMAGE": f"registry.example/m3-trainer@{DIGEST}"})
    assert (found.commit, found.has_changes, found.image_digest) == ("abc", False, DIGEST)
    assert lineage.Code(image="m3-trainer:dev").image_digest is None


def test_elsewhere_the_commit_is_that_of_the_working_directory(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.chdir(tmp_path)
    assert lineage.Code.around({}) == lineage.Code()
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    (tmp_path / "job.yaml").write_text("a")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert lineage.Code.around({}) == lineage.Code(head)
    (tmp_path / "job.yaml").write_text("b")
    assert lineage.Code.around({}) == lineage.Code(head, has_changes=True)


def test_lineage_is_read_as_it_was_written() -> None:
    whole = lineage.Lineage(DIGEST, 7, "sha256:b", lineage.Code("abc", True, f"x@{DIGEST}"))
    assert lineage.Lineage.from_tags(whole.tags()) == whole
    assert whole.document() == {
        "gitCommit": "abc", "imageDigest": DIGEST, "dataDigest": DIGEST, "rows": 7, "specHash": "sha256:b",
    }  # fmt: skip
    assert lineage.Lineage("d", 7, "s").document() == {"dataDigest": "d", "rows": 7, "specHash": "s"}
