"""The models themselves: the corpus without an API server, conditions, quantities."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from m3_operator.api.meta import Condition, changed, find, is_true
from m3_operator.api.reasons import Reason
from m3_operator.api.v1alpha1 import ResourceRequirements, TrainingJob
from m3_operator.rayjob_status import Failure
from m3_trainer.config import EXECUTION_FIELDS, WORKLOAD_FIELDS
from m3_trainer.files import Loader
from m3_trainer.schema import explain

ROOT = Path(__file__).parents[3]
NOON, LATER = datetime(2026, 11, 24, 12, tzinfo=UTC), datetime(2026, 11, 24, 13, tzinfo=UTC)


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "invalid").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_bad_file_is_refused_in_these_words(path):
    text = path.read_text()
    message = next(line for line in text.splitlines() if line.startswith("# message: ")).removeprefix("# message: ")
    with pytest.raises(ValidationError) as error:
        TrainingJob.parse(yaml.load(text, Loader))
    assert message in "\n".join(explain(error.value, TrainingJob))


SAMPLES = [
    pytest.param(document, id=path.stem)
    for path in sorted((ROOT / "manifests" / "samples").rglob("*.yaml"))
    for document in yaml.load_all(path.read_text(), Loader)
    if document["kind"] == "TrainingJob"
]


@pytest.mark.parametrize("document", SAMPLES)
def test_samples_are_accepted(document):
    TrainingJob.parse(document)


def test_the_trainer_knows_which_fields_are_not_its_own():
    from m3_operator.api.v1alpha1 import TrainingJobSpec

    fields = {field.alias or name for name, field in TrainingJobSpec.model_fields.items()}
    assert fields == EXECUTION_FIELDS | WORKLOAD_FIELDS


def condition(status, reason="A", at=NOON, kind="Running"):
    return Condition(type=kind, status=status, reason=reason, last_transition_time=at)


def test_a_condition_keeps_its_time_while_its_status_stays():
    (kept,) = changed((condition("False"),), condition("False", "B", LATER))
    assert (kept.reason, kept.last_transition_time) == ("B", NOON)
    (moved,) = changed((condition("False"),), condition("True", "B", LATER))
    assert moved.last_transition_time == LATER


def test_conditions_are_found_by_type():
    conditions = changed((condition("True"),), condition("False", kind="Complete"))
    assert [item.type for item in conditions] == ["Complete", "Running"]
    assert is_true(conditions, "Running")
    assert not is_true(conditions, "Complete")
    assert find(conditions, "Failed") is None


@pytest.mark.parametrize("value", [1, "1", "500m", "2Gi", ".5", "1.5", "1e3"])
def test_a_quantity_is_a_number_or_a_text(value):
    parsed = ResourceRequirements.parse({"limits": {"cpu": value}})
    assert parsed.limits == {"cpu": str(value)}


@pytest.mark.parametrize("value", [True, 0.5, -1, 2**63, "-1", "1 Gi", "many", "", []])
def test_other_things_are_none(value):
    with pytest.raises(ValidationError):
        ResourceRequirements.parse({"limits": {"cpu": value}})


def test_a_status_of_a_newer_operator_is_read():
    body = {
        "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "a"},
        "spec": {"data": {"uri": "a.csv", "target": "y"}},
        "status": {"attempts": [{"number": 1, "rayJobName": "a", "startTime": "2026-11-24T12:00:00Z", "mood": "good"}]},
    }  # fmt: skip
    assert TrainingJob.parse(body).status.attempts[0].number == 1


@pytest.mark.parametrize("reason", list(Reason), ids=str)
def test_every_reason_may_stand_in_a_condition(reason):
    assert condition("True", reason.value).reason == reason
    assert Failure(reason, "").reason == reason.value


def test_every_reason_and_condition_is_explained_in_the_readme():
    readme = (ROOT / "operator" / "README.md").read_text()
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in readme] == []
