"""What a run tells its readers: pictures, tables, an HTML report and the model's card. Nothing here talks to MLflow."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m3_trainer import figures
from m3_trainer.config import Evaluation, Workload
from m3_trainer.evaluate import METRICS, Scored
from m3_trainer.importance import Importances
from m3_trainer.intervals import Interval
from m3_trainer.segments import Segment

REPORT_FILE, CARD_FILE, SEGMENTS_FILE = "report.html", "model_card.md", "segments.json"
IMPORTANCE_FILE, TABLE_FILE = "feature_importance.png", "feature_importance.json"
CURVES = "curves"
MAX_CARD = 5_000
"""Characters of a version's description that MLflow keeps."""
CARD_SEGMENTS, CARD_FEATURES = 20, 40


@dataclass(frozen=True)
class Account:
    """All that is told."""

    workload: Workload
    evaluation: Evaluation
    scored: Scored
    counts: dict[str, int]
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    features: list[str]
    importances: Importances
    own_importances: dict[str, float]
    """The model's own measure; empty where it has none."""
    lineage: dict[str, str]
    run: dict[str, str]
    """Where the run is and what asked for it, for the report's last table."""
    params: Mapping[str, Any]
    segments: list[Segment] = field(default_factory=list)
    folds: list[dict[str, Any]] = field(default_factory=list)
    """A row for each fold: its name, its counts and its metrics."""

    def files(self) -> dict[str, bytes]:
        """Every artifact by its path."""
        pictures = self.pictures()
        found = dict(pictures)
        found[TABLE_FILE] = _json(self._importance_table())
        if self.segments:
            found[SEGMENTS_FILE] = _json([segment.document() for segment in self.segments])
        found[CARD_FILE] = self.card().encode()
        found[REPORT_FILE] = self.report(pictures).encode()
        return found

    def pictures(self) -> dict[str, bytes]:
        """PNGs by their paths, in the order of the report."""
        rows, threshold = self.scored, self.evaluation.threshold
        average, area = self._metric("average_precision"), self._metric("roc_auc")
        drawn = {
            f"{CURVES}/precision_recall.png": figures.precision_recall(rows, average, threshold),
            f"{CURVES}/roc.png": figures.roc(rows, area),
            f"{CURVES}/threshold.png": figures.thresholds(rows, threshold),
            f"{CURVES}/calibration.png": figures.calibration(rows),
            "confusion_matrix.png": figures.confusion(confusion_table(rows, threshold), threshold),
            IMPORTANCE_FILE: figures.importance(
                self.importances.mean,
                self.importances.deviation,
                "Feature importance on the test rows",
                "average precision lost when shuffled",
            ),
        }
        if self.own_importances:
            own = figures.importance(
                self.own_importances, None, "Feature importance by the model's own measure", "share"
            )
            drawn["feature_importance_of_model.png"] = own
        return {path: figures.png(figure) for path, figure in drawn.items()}

    def _metric(self, name: str) -> float:
        """A metric that the pictures show, whether or not the file asks for it."""
        return self.metrics[name] if name in self.metrics else float(METRICS[name](self.scored, self.evaluation))

    def _importance_table(self) -> dict[str, Any]:
        found = self.importances
        return {
            "rows": found.rows,
            "permutation": [
                {"feature": name, "mean": mean, "deviation": found.deviation[name]} for name, mean in found.mean.items()
            ],
            "model": self.own_importances,
        }

    def report(self, pictures: Mapping[str, bytes]) -> str:
        """One HTML file that asks for nothing from anywhere, and runs nothing."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("m3_trainer", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        environment.filters["figure"] = shown
        images = {path: base64.b64encode(data).decode() for path, data in pictures.items()}
        return environment.get_template("report.html").render(account=self, pictures=images, split=self.split())

    def split(self) -> str:
        """How the rows were divided, in a sentence."""
        data, training = self.workload.data, self.workload.training
        if split := training.split:
            known = f", without the cards known by `{split.exclude_known}`" if split.exclude_known else ""
            return (
                f"trained on {split.train_days} days from {split.train_start}, tested on {split.test_days} days after a delay "
                f"of {split.delay_days}{known}"
            )
        how = f"the latest by `{data.time_column}`" if data.time_column else "drawn at random"
        tested, trained = self.counts["test_rows"], self.counts["train_rows"]
        return f"tested on {tested / (tested + trained):.0%} of the rows, {how}"

    def card(self) -> str:
        """The model's card in Markdown, short enough for a version's description."""
        parts = [self._card_head(), self._card_metrics(), self._card_segments(), self._card_lineage()]
        return _fitting("\n\n".join(part for part in parts if part), MAX_CARD)

    def _card_head(self) -> str:
        asked, counts = self.workload, self.counts
        named = ", ".join(_code(name) for name in self.features[:CARD_FEATURES])
        more = f" and {len(self.features) - CARD_FEATURES} more" if len(self.features) > CARD_FEATURES else ""
        return "\n".join(
            [
                f"# {_plain(asked.registry.model_name)}",
                "",
                f"Gives the probability that {_code(asked.data.target)} is 1. "
                f"From {self.evaluation.threshold:g} on a row is called positive.",
                "",
                f"- **Model**: {_code(asked.model.type)}, seed {asked.model.random_state}, "
                f"hyperparameters {_code(json.dumps(asked.model.hyperparameters, ensure_ascii=False))}",
                f"- **Data**: {_code(self.lineage['data'])}, {self.lineage['rows']} rows",
                f"- **Split**: {self.split()}",
                f"- **Training**: {counts['train_rows']:,} rows, {counts['train_positives']:,} positive",
                f"- **Test**: {counts['test_rows']:,} rows, {counts['test_positives']:,} positive",
                f"- **Features** ({len(self.features)}): {named}{more}",
            ]
        )

    def _card_metrics(self) -> str:
        unit = "cards" if self.scored.card is not None else "rows"
        lines = [
            f"## Metrics on the test rows\n\nWith 95 % bootstrap intervals over {unit}.\n",
            "| metric | value | 95 % interval |",
            "| --- | ---: | ---: |",
        ]
        for name, value in self.metrics.items():
            bounds = self.intervals.get(name)
            lines.append(
                f"| {name} | {shown(value)} | {f'{shown(bounds.low)} to {shown(bounds.high)}' if bounds else ''} |"
            )
        return "\n".join(lines)

    def _card_segments(self) -> str:
        if not self.segments:
            return ""
        first = self.evaluation.metrics[0]
        lines = [
            f"## By segment\n\n| column | value | rows | positive | {first} |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        for each in self.segments[:CARD_SEGMENTS]:
            value = shown(each.metrics[first]) if first in each.metrics else ""
            lines.append(
                f"| {_code(each.column)} | {_code(each.value)} | {each.rows:,} | {each.positives:,} | {value} |"
            )
        if len(self.segments) > CARD_SEGMENTS:
            lines.append(f"\n{len(self.segments) - CARD_SEGMENTS} more in the run's {SEGMENTS_FILE}.")
        return "\n".join(lines)

    def _card_lineage(self) -> str:
        rows = "\n".join(f"| {name} | {_code(value)} |" for name, value in (self.lineage | self.run).items())
        return f"## Lineage\n\n| | |\n| --- | --- |\n{rows}"


def confusion_table(rows: Scored, threshold: float) -> np.ndarray:
    """Counts of shape (2, 2): row is the truth, column what the model says."""
    told = (rows.score >= threshold).astype(int)
    return np.bincount(2 * rows.target.astype(int) + told, minlength=4).reshape(2, 2)


def shown(value: float) -> str:
    return f"{value:.4f}"


def _plain(text: str) -> str:
    """The user's text, where Markdown and HTML would read more into it."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+-.!|&" else letter for letter in " ".join(text.split()))


def _code(text: str) -> str:
    """The user's text as code: nothing in it is Markdown, and a `|` ends no cell."""
    flat = " ".join(str(text).split()).replace("`", "'").replace("|", "¦")
    return f"`{flat[:300]}`" if flat else ""


def _fitting(text: str, size: int) -> str:
    """Whole lines of the text, as many as there is room for."""
    if len(text) <= size:
        return text
    end = f"\n\n… more in the run's {CARD_FILE}"
    return text[: text.rindex("\n", 0, size - len(end))] + end


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
