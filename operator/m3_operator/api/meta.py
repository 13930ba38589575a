"""The parts of metav1 that the API uses."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from m3_operator.api.schema import LabelKey, LabelValue, StatusModel
from m3_trainer.schema import Model

Status = Literal["True", "False", "Unknown"]


class ObjectMeta(Model):
    """What the operator reads of an object's metadata; the API server owns the rest."""

    model_config = ConfigDict(extra="ignore")

    name: str = ""
    """Name of the object."""
    namespace: str = "default"
    """Namespace of the object."""
    uid: str = ""
    """Unique in space and time: a job that is deleted and made again under the same name has another."""
    generation: int = 1
    """Counts the changes of `spec`."""
    creation_timestamp: datetime | None = None
    """When the object was made."""
    deletion_timestamp: datetime | None = None
    """When its deletion was asked for."""
    labels: dict[LabelKey, LabelValue] | None = None
    """Labels of the object."""


class Condition(StatusModel):
    """One aspect of the job's state, as metav1.Condition."""

    type: Annotated[str, Field(min_length=1, max_length=316, pattern="^[A-Z][A-Za-z]*$")]
    """Type of the condition in CamelCase."""
    status: Status
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of `spec` that the condition was made from."""
    last_transition_time: datetime
    """When `status` last changed; a new reason or message does not move it."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern="^[A-Z][A-Za-z0-9]*$")]
    """Why, in one word of CamelCase that programs may read; operator/README.md lists them."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, for people: what happened and what to do."""


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def changed(old: Iterable[Condition], new: Condition) -> tuple[Condition, ...]:
    """`old` with `new` in its place; the transition time is kept where the status is the same."""
    before = find(old, new.type)
    if before is not None and before.status == new.status:
        new = new.model_copy(update={"last_transition_time": before.last_transition_time})
    kept = tuple(condition for condition in old if condition.type != new.type)
    return tuple(sorted((*kept, new), key=lambda condition: condition.type))
