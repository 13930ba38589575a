"""The published table of the Fraud Detection Handbook (chapter 3, protocol A), row by row, from its published data, and the
configurations that M3 ships on its four folds (chapter 5, protocol B).

The data lies outside the repository, and carries no licence: where it is missing these tests are not there, but in CI, where
they fail.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import HANDBOOK, RESULTS
from support import Ended

from m3_trainer import files

SHIPPED = Path(__file__).parents[3] / "manifests/samples"
SAMPLES = SHIPPED / "handbook"
ROWS = {"train_rows": 67_240, "train_positives": 598, "test_rows": 58_264, "test_positives": 385}
PUBLISHED = {
    "logistic-regression": (0.871, 0.606, 0.291, 0.003),
    "decision-tree-2": (0.763, 0.496, 0.241, 0.003),
    "decision-tree": (0.788, 0.309, 0.243, 0.003),
    "random-forest": (0.867, 0.658, 0.287, 0.001),
    "xgboost": (0.862, 0.639, 0.273, 0.015),
}
"""ROC AUC, average precision, card precision@100, and how near ours must be."""

AT_LEAST = {
    "fraud": {"average_precision": 0.710, "card_precision_at_k": 0.306, "roc_auc": 0.876},
    "fraud-fast": {"average_precision": 0.674},
}
"""What the shipped configurations must reach as a mean over the four folds; the fast one, what a default forest does."""


def trained(m3: Callable[..., Ended], clean: Path, sample: Path) -> dict[str, Any]:
    """The result of a shipped job on the Handbook's file."""
    (clean / "job.yaml").write_text(sample.read_text().replace("s3://datasets/transactions.parquet", str(HANDBOOK)))
    ended = m3("run", "-f", "job.yaml", "-o", "json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


if HANDBOOK is not None or os.environ.get("CI") == "true":

    @pytest.mark.parametrize("row", PUBLISHED)
    def test_a_row_of_the_table_is_reproduced(m3, clean: Path, row: str) -> None:
        result = trained(m3, clean, SAMPLES / f"{row}.yaml")
        assert result["rows"] == ROWS
        roc_auc, average_precision, card_precision, near = PUBLISHED[row]
        published = {
            "roc_auc": roc_auc,
            "average_precision": average_precision,
            "card_precision_at_k": card_precision,
        }
        assert result["metrics"] == {name: pytest.approx(value, abs=near) for name, value in published.items()}

    @pytest.mark.parametrize("sample", AT_LEAST)
    def test_a_shipped_configuration_is_as_good_as_is_said(m3, clean: Path, sample: str) -> None:
        reached = trained(m3, clean, SHIPPED / f"{sample}.yaml")["metrics"]
        short = {
            name: reached[f"cv_{name}_mean"]
            for name, bar in AT_LEAST[sample].items()
            if reached[f"cv_{name}_mean"] < bar
        }
        assert not short


def test_every_sample_is_a_row_of_the_table() -> None:
    assert {path.stem for path in SAMPLES.glob("*.yaml")} == PUBLISHED.keys()


@pytest.mark.parametrize("sample", AT_LEAST)
def test_a_shipped_configuration_is_the_one_that_was_chosen(sample: str) -> None:
    chosen = json.loads((RESULTS / "fraud-choice.json").read_text())["fast" if sample == "fraud-fast" else sample]
    model = files.read_job(str(SHIPPED / f"{sample}.yaml")).workload.model
    assert (model.type, model.hyperparameters) == (chosen["model"], chosen["hyperparameters"])
    assert chosen["shipped"]
