"""What an MLflow run says of a job. The only place that knows the tags which the job writes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from m3_trainer.promotion import NOT_COMPARABLE, Evidence

JOB_UID = "m3.job.uid"
ATTEMPT = "m3.job.attempt"
OPERATOR = "m3.operator"
NAMESPACE = "m3.namespace"
MAX_METRICS = 64

Object = dict[str, Any]


class NoRun(Enum):
    """Why there is no run to look at."""

    NOT_ASKED = 1
    NOT_FOUND = 2
    UNAVAILABLE = 3


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as the REST API's `runs/search` gives it."""

    run_id: str
    experiment_id: str
    job_uid: str
    attempt: int
    status: str
    job_name: str = ""
    job_namespace: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    percentage: int | None = None
    remaining_seconds: int | None = None
    model_name: str | None = None
    model_version: str | None = None
    data_digest: str | None = None
    rows: int | None = None
    spec_hash: str | None = None
    git_commit: str | None = None
    image_digest: str | None = None
    evidence: Evidence | None = None
    """What the job found out about the alias that its model may take over."""

    @property
    def has_model(self) -> bool:
        """Whether the job has done its work: the version is the last thing that it writes."""
        return self.model_name is not None and self.model_version is not None


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered model, as far as an alias is concerned."""

    owner: str | None
    """Namespace that the model belongs to."""
    aliases: dict[str, str]
    """Version by alias."""


def parse(run: Object) -> Run:
    """Raises nothing for what MLflow answers, whatever tags are missing."""
    info, data = run.get("info", {}), run.get("data", {})
    tags = {tag["key"]: tag.get("value", "") for tag in data.get("tags", ())}
    return Run(
        run_id=info.get("run_id", ""),
        experiment_id=info.get("experiment_id", ""),
        job_uid=tags.get(JOB_UID, ""),
        attempt=_whole(tags.get(ATTEMPT)) or 0,
        status=info.get("status", ""),
        job_name=tags.get("m3.job.name", ""),
        job_namespace=tags.get("m3.job.namespace", ""),
        metrics=_metrics(data.get("metrics", ())),
        percentage=_percentage(tags.get("m3.progress.percentage")),
        remaining_seconds=_whole(tags.get("m3.progress.remaining_seconds")),
        model_name=tags.get("m3.model.name") or None,
        model_version=tags.get("m3.model.version") or None,
        data_digest=tags.get("m3.data.digest") or None,
        rows=_whole(tags.get("m3.data.rows")),
        spec_hash=tags.get("m3.spec.hash") or None,
        git_commit=tags.get("mlflow.source.git.commit") or None,
        image_digest=tags.get("m3.image.digest") or None,
        evidence=_evidence(tags),
    )


def parse_model(model: Object) -> RegisteredModel:
    """A registered model, as `registered-models/get` gives it."""
    tags = {tag["key"]: tag.get("value", "") for tag in model.get("tags", ())}
    aliases = {each["alias"]: str(each["version"]) for each in model.get("aliases", ())}
    return RegisteredModel(owner=tags.get(NAMESPACE) or None, aliases=aliases)


def _evidence(tags: dict[str, str]) -> Evidence | None:
    score = _number(tags.get("m3.promotion.score"))
    if score is None:
        return None
    return Evidence(
        score=score,
        holder_version=tags.get("m3.promotion.holder.version") or None,
        holder_score=_number(tags.get("m3.promotion.holder.score")),
        obstacle=tags.get("m3.promotion.obstacle", "").removeprefix(f"{NOT_COMPARABLE}:").strip() or None,
    )


def newest_by_attempt(runs: Iterable[Run]) -> dict[tuple[str, int], Run]:
    """The runs by (job's uid, attempt). `runs` come newest first, and the newest counts."""
    found: dict[tuple[str, int], Run] = {}
    for run in runs:
        found.setdefault((run.job_uid, run.attempt), run)
    return found


def _metrics(metrics: Iterable[Object]) -> dict[str, float]:
    """Without NaN and infinities, which JSON has no word for, and without groups: `segments/…` are details for MLflow's pages,
    and `system/…` change at every look.
    """
    told = (metric for metric in metrics if "value" in metric and "/" not in metric["key"])
    values = {str(metric["key"])[:256]: float(metric["value"]) for metric in told}
    return {name: values[name] for name in sorted(values) if math.isfinite(values[name])}


def _percentage(text: str | None) -> int | None:
    number = _whole(text)
    return None if number is None else min(number, 100)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
