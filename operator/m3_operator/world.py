"""What the operator has seen of the world: shared by the resync, which looks around, and the controller, which acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from m3_operator.api.meta import ObjectMeta
from m3_operator.api.v1alpha1 import TrainingJob, TrainingJobStatus
from m3_operator.mlflow_run import Run
from m3_operator.pod_status import Diagnosis
from m3_operator.rayjob_status import Child
from m3_operator.store import Key, Store
from m3_trainer.schema import explain

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A job with what its attempt is known by."""

    job: Key
    uid: str
    attempt: int
    child: Key


@dataclass(frozen=True, slots=True)
class Facts:
    """All that bears on a job apart from time: where nothing of it has changed, another look finds what the last one did."""

    job: str | None
    child: str | None
    run: Run | None
    diagnosis: Diagnosis | None
    tracking_answers: bool


@dataclass
class World:
    """The newest that was seen of everything that can still change."""

    jobs: Store[Object] = field(default_factory=Store)
    children: Store[Child] = field(default_factory=Store)
    runs: dict[tuple[str, int], Run] = field(default_factory=dict)
    """RUNNING runs by job's uid and attempt."""
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    """Why the pods of a job do not start, by the job's uid."""
    tracking_answers: bool = True
    """Whether MLflow answered when it was last asked."""

    def facts(self, subject: Subject) -> Facts:
        body, child = self.jobs.get(subject.job), self.children.get(subject.child)
        return Facts(
            job=body["metadata"]["resourceVersion"] if body else None,
            child=child.resource_version if child else None,
            run=self.runs.get((subject.uid, subject.attempt)),
            diagnosis=self.diagnoses.get(subject.uid),
            tracking_answers=self.tracking_answers,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """A job as the models see it. `job` is None where they refuse it, and `faults` say why."""

    meta: ObjectMeta
    status: TrainingJobStatus
    job: TrainingJob | None
    faults: list[str]

    @property
    def experiment(self) -> str | None:
        return self.job.spec.tracking.experiment_name if self.job else None

    @property
    def model_at_stake(self) -> str | None:
        """Name of the registered model whose alias this job wants, if it wants one."""
        registry = self.job.spec.registry if self.job else None
        return registry.model_name if registry and registry.promotion else None


def read(body: Object) -> Reading:
    try:
        job = TrainingJob.parse(body)
    except ValidationError as error:
        meta = ObjectMeta.parse(body["metadata"])
        status = TrainingJobStatus.parse(body.get("status") or {})
        return Reading(meta, status, None, explain(error, TrainingJob))
    return Reading(job.metadata, job.status or TrainingJobStatus(), job, [])


def experiment_of(body: Object) -> str | None:
    """Experiment of a job that has started. Not by way of the models: the resync asks it of every job."""
    has_attempts = bool((body.get("status") or {}).get("attempts"))
    return body.get("spec", {}).get("tracking", {}).get("experimentName") if has_attempts else None


def is_at_rest(body: Object) -> bool:
    """Whether nothing but its deletion, or an edit, can make work of this job."""
    status = body.get("status") or {}
    return status.get("settled") is True and status.get("observedGeneration") == body["metadata"].get("generation")


def has_time_to_live(body: Object) -> bool:
    return body.get("spec", {}).get("ttlSecondsAfterFinished") is not None


def slim(body: Object) -> Object:
    """Without what nobody here reads and what is as long as the rest: who has written which field."""
    return body | {"metadata": {name: value for name, value in body["metadata"].items() if name != "managedFields"}}


def is_new(body: Object) -> bool:
    """Whether nobody has done anything for this job yet."""
    return not (body.get("status") or {}).get("attempts")


def key_of(body: Object) -> Key:
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


def display_of(body: Object) -> str:
    """The job's state in the word that `kubectl get` shows."""
    return ((body.get("status") or {}).get("display") or {}).get("status", "Pending")
