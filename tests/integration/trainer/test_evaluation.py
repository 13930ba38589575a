"""What a run tells its readers, looked up in a real MLflow: metrics, pictures, report, card, folds."""

import json
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from harness import HANDBOOK
from jobs import WORKLOAD, Job, result
from mlflow.entities import Run
from PIL import Image

PICTURES = {
    "confusion_matrix.png",
    "curves/calibration.png",
    "curves/precision_recall.png",
    "curves/roc.png",
    "curves/threshold.png",
    "feature_importance.png",
    "feature_importance_of_model.png",
}
TABLES = {
    "feature_importance.json", "lineage/training_rows.npz", "lineage/workload.json", "model_card.md", "report.html",
}  # fmt: skip


class Told:
    """A run on the server, and its artifacts on this machine."""

    def __init__(self, server: str, result: dict[str, Any], folder: Path) -> None:
        self.result, self.client = result, mlflow.MlflowClient(server)
        self.run: Run = self.client.get_run(result["run"]["runId"])
        self.folder = Path(self.client.download_artifacts(self.run.info.run_id, "", str(folder)))

    @property
    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def text(self, path: str) -> str:
        return (self.folder / path).read_text()

    def children(self) -> list[Run]:
        found = self.client.search_runs(
            [self.run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{self.run.info.run_id}'"
        )
        return sorted(found, key=lambda child: int(child.data.tags["m3.fold"]))


@pytest.fixture
def told(server: str, m3, job_file, tmp_path: Path) -> Callable[..., Told]:
    def run(**replaced: Any) -> Told:
        ended = m3("run", "-f", job_file(**replaced), "-o", "json", "--tracking-uri", server)
        assert ended.code == 0, ended.err
        folder = tmp_path / "artifacts"
        folder.mkdir(exist_ok=True)
        return Told(server, json.loads(ended.out), folder)

    return run


class Page(HTMLParser):
    """Headings, table rows, and where its pictures come from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self._into: list[str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._into = self.rows[-1]
        if tag == "h2":
            self.headings.append("")
            self._into = self.headings

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h2"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data.strip()


def test_every_artifact_is_there_and_says_what_the_run_says(told) -> None:
    found = told(evaluation={"metrics": ["average_precision", "roc_auc", "recall", "card_precision_at_k"]})
    assert found.files == PICTURES | TABLES
    for path in PICTURES:
        with Image.open(found.folder / path) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert len(picture.getcolors(100_000) or ()) > 10, path
    table = json.loads(found.text("feature_importance.json"))
    assert {row["feature"] for row in table["permutation"]} == set(found.result["features"])
    assert [row["mean"] for row in table["permutation"]] == sorted(
        (row["mean"] for row in table["permutation"]), reverse=True
    )
    assert {row["feature"] for row in table["permutation"][:2]} == {"TX_AMOUNT", "TERMINAL_ID_RISK_7DAY_WINDOW"}
    assert sum(table["model"].values()) == pytest.approx(1.0)


def test_the_report_holds_data_metrics_curves_parameters_and_lineage(told) -> None:
    found = told()
    page = Page(found.text("report.html"))
    assert page.headings == [
        "Data and split",
        "Metrics on the test rows",
        "Curves",
        "Features",
        "Parameters",
        "Lineage",
    ]
    assert not page.tags & {"script", "link", "iframe"}
    assert len(page.sources) == len(PICTURES)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    rows = {row[0]: row[1:] for row in page.rows}
    metrics, counts = found.run.data.metrics, found.result["rows"]
    assert rows["train"][:2] == [f"{counts['train_rows']:,}", f"{counts['train_positives']:,}"]
    for name in found.result["metrics"]:
        assert rows[name] == [f"{metrics[key]:.4f}" for key in (name, f"{name}_low", f"{name}_high")]
    assert rows["n_estimators"] == ["10"]
    assert rows["data digest"] == [found.result["lineage"]["dataDigest"]]
    assert rows["MLflow run"] == [found.run.info.run_id] or found.run.info.run_id in rows["MLflow run"][0]


def test_each_metric_lies_between_its_bounds_and_sorts_before_them(told) -> None:
    found = told()
    metrics = found.run.data.metrics
    for name, value in found.result["metrics"].items():
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        assert low <= value <= high
        assert found.result["intervals"][name] == {"low": low, "high": high}
    first = [name for name in sorted(metrics) if name.startswith("average_precision")]
    assert first == ["average_precision", "average_precision_high", "average_precision_low"]
    assert metrics["average_precision_low"] < metrics["average_precision_high"]


def test_segments_are_measured_on_their_own_rows(told, m3) -> None:
    m3("data", "sample", "--rows", "20000")
    frame = pd.read_csv("data/sample.csv")
    frame["kind"] = np.where(frame["TX_AMOUNT"] > 50, "la/rge", "small")
    frame.to_parquet("rows.parquet")
    found = told(
        data={"uri": "rows.parquet"},
        evaluation={"segments": ["kind", "TX_AMOUNT", "TX_DURING_NIGHT"], "metrics": ["recall", "average_precision"]},
    )
    table = json.loads(found.text("segments.json"))
    tests = found.result["rows"]["test_rows"]
    for column in ("kind", "TX_AMOUNT", "TX_DURING_NIGHT"):
        assert sum(row["rows"] for row in table if row["column"] == column) == tests
    assert [row["value"] for row in table if row["column"] == "kind"] == ["la/rge", "small"]
    assert [row["value"][:2] for row in table if row["column"] == "TX_AMOUNT"] == ["q1", "q2", "q3", "q4", "q5"]
    # the same rows by hand: the latest fifth, as the split takes them
    test = frame.sort_values("TX_DATETIME", kind="stable").tail(tests)
    by_hand = test.groupby("kind")["TX_FRAUD"].agg(["size", "sum"])
    metrics = found.run.data.metrics
    for value, name in (("la/rge", "la_rge"), ("small", "small")):
        assert metrics[f"segments/kind/{name}/rows"] == by_hand.loc[value, "size"]
        assert metrics[f"segments/kind/{name}/positives"] == by_hand.loc[value, "sum"]
    row = next(row for row in table if row["value"] == "la/rge")
    assert metrics["segments/kind/la_rge/recall"] == row["metrics"]["recall"]
    bounds = row["intervals"]["recall"]
    assert bounds["low"] <= row["metrics"]["recall"] <= bounds["high"]
    page = Page(found.text("report.html"))
    assert "Segments" in page.headings
    assert ["kind", "la/rge"] in [cells[:2] for cells in page.rows]
    assert "| `kind` | `la/rge` |" in found.text("model_card.md")


def test_a_segment_that_is_no_column_is_refused_before_anything_is_trained(m3, job_file) -> None:
    ended = m3("run", "-f", job_file(evaluation={"segments": ["TX_AMOUNTS"]}))
    assert ended.code == 3
    assert "evaluation.segments: column `TX_AMOUNTS` must be in the data; did you mean `TX_AMOUNT`?" in ended.err
    assert "fit " not in ended.err


def test_a_version_has_its_card_signature_example_and_lineage(told) -> None:
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    found = told(registry={"modelName": "carded"})
    version = found.client.get_model_version("carded", found.result["model"]["version"])
    card = found.text("model_card.md")
    assert version.description == card
    lineage = found.result["lineage"]
    assert lineage["gitCommit"] == commit
    for told_there in (commit, lineage["dataDigest"], lineage["specHash"], found.run.info.run_id):
        assert told_there in card
    value, low = (found.run.data.metrics[name] for name in ("average_precision", "average_precision_low"))
    assert f"| average_precision | {value:.4f} | {low:.4f} to " in card
    for tags in (version.tags, found.run.data.tags):
        assert tags["mlflow.source.git.commit"] == commit
        assert tags["m3.data.digest"] == lineage["dataDigest"]
        assert tags["m3.spec.hash"] == lineage["specHash"]
    info = mlflow.models.get_model_info(f"models:/carded/{version.version}")
    assert info.signature is not None
    assert info.saved_input_example_info is not None


def test_cross_validation_has_a_child_run_for_each_part(told) -> None:
    found = told(
        training={"cvFolds": 3}, evaluation={"metrics": ["average_precision", "recall", "card_precision_at_k"]}
    )
    children = found.children()
    assert [child.data.tags["m3.fold.name"] for child in children] == [f"part {part} of 3" for part in (1, 2, 3)]
    assert sum(child.data.metrics["test_rows"] for child in children) == found.result["rows"]["train_rows"]
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.metrics.keys() == {
            "average_precision", "recall", "train_rows", "train_positives", "test_rows", "test_positives",
        }  # fmt: skip
        assert child.info.start_time <= child.info.end_time <= found.run.info.end_time
    values = [child.data.metrics["recall"] for child in children]
    assert found.run.data.metrics["cv_recall_mean"] == pytest.approx(np.mean(values))
    assert found.run.data.metrics["cv_recall_std"] == pytest.approx(np.std(values))
    assert "cv_card_precision_at_k_mean" not in found.run.data.metrics
    assert ["1: part 1 of 3"] in [row[:1] for row in Page(found.text("report.html")).rows]


def test_neither_the_operator_nor_the_next_attempt_takes_a_fold_for_a_job(job: Job, server: str) -> None:
    ended = job.attempt(1, WORKLOAD | {"training": {"cvFolds": 2}}, M3_RAY_JOB="fraud-1a2b-1")
    assert ended.code == 0, ended.err
    assert result(job.attempt(1, WORKLOAD | {"training": {"cvFolds": 2}})) == result(ended) | {"seconds": {}}
    (run,) = job.runs(1)
    client = mlflow.MlflowClient(server)
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert len(children) == 2
    assert not {name for child in children for name in child.data.tags if name.startswith(("m3.job", "m3.operator"))}
    assert run.data.tags["m3.rayjob.name"] == "fraud-1a2b-1"
    (version,) = job.versions()
    assert version.tags["m3.job.name"] == job.name


def card_rule(frame: pd.DataFrame, start: pd.Timestamp) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The Handbook's division by its own words, a day at a time."""
    day = frame["TX_DATETIME"].dt.normalize()
    train = frame[(day >= start) & (day < start + pd.Timedelta(days=7))]
    known = set(train.loc[train["TX_FRAUD"] == 1, "CUSTOMER_ID"])
    parts = []
    for offset in range(7):
        newly = frame[day == start + pd.Timedelta(days=6 + offset)]
        known |= set(newly.loc[newly["TX_FRAUD"] == 1, "CUSTOMER_ID"])
        today = frame[day == start + pd.Timedelta(days=14 + offset)]
        parts.append(today[~today["CUSTOMER_ID"].isin(known)])
    return train, pd.concat(parts)


if HANDBOOK:  # not part of the repository: where it is missing there is nothing to be skipped

    def test_folds_in_time_are_those_of_the_handbooks_protocol(told) -> None:
        split = {
            "trainStart": "2018-08-15",
            "trainDays": 7,
            "delayDays": 7,
            "testDays": 7,
            "excludeKnown": "CUSTOMER_ID",
        }
        never = ["TRANSACTION_ID", "TERMINAL_ID", "TX_TIME_SECONDS", "TX_TIME_DAYS", "TX_FRAUD_SCENARIO"]
        found = told(
            data={"uri": str(HANDBOOK)},
            features={"exclude": never},
            model={"type": "hist_gradient_boosting", "hyperparameters": {"max_iter": 20}},
            training={"testSize": None, "split": split, "folds": {"count": 4, "stepDays": 7}},
            evaluation={"metrics": ["average_precision", "roc_auc", "card_precision_at_k"], "topK": 100},
        )
        frame = pd.read_parquet(HANDBOOK, columns=["TX_DATETIME", "CUSTOMER_ID", "TX_FRAUD"])
        children = found.children()
        starts = ["2018-08-15", "2018-08-08", "2018-08-01", "2018-07-25"]
        assert [child.data.tags["m3.fold.name"] for child in children] == [f"training from {start}" for start in starts]
        for child, start in zip(children, starts, strict=True):
            train, test = card_rule(frame, pd.Timestamp(start))
            assert {name: child.data.metrics[name] for name in found.result["rows"]} == {
                "train_rows": len(train), "train_positives": train["TX_FRAUD"].sum(),
                "test_rows": len(test), "test_positives": test["TX_FRAUD"].sum(),
            }  # fmt: skip
        assert children[-1].data.metrics["train_rows"] == 67_240
        assert children[-1].data.metrics["test_rows"] == 58_264
        own = found.run.data.metrics
        for name in ("average_precision", "roc_auc", "card_precision_at_k"):
            values = [child.data.metrics[name] for child in children]
            assert values[0] == own[name]
            assert own[f"cv_{name}_mean"] == pytest.approx(np.mean(values))
            assert own[f"cv_{name}_std"] == pytest.approx(np.std(values))
        assert own["cv_roc_auc_mean"] > 0.8


def test_a_long_run_says_how_its_machine_fared_and_a_short_one_does_not_ask(told, monkeypatch) -> None:
    assert not [name for name in told().run.data.metrics if name.startswith("system/")]
    monkeypatch.setattr("m3_trainer.tracking.SYSTEM_METRICS_AFTER_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    metrics = told(model={"hyperparameters": {"n_estimators": 200}}).run.data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= metrics.keys()
