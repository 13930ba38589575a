"""What a complete job has brought: its run, its model version, and whether that version takes an alias over. Pure."""

from __future__ import annotations

from m3_operator.api.reasons import ConditionType, Reason
from m3_operator.api.v1alpha1 import Lineage, MetricValue, MlflowRun, Promotion, RegisteredModel, TrainingJob
from m3_operator.draft import AliasMove, ConditionStatus, Draft, Verdict
from m3_operator.mlflow_run import MAX_METRICS, NoRun, Run
from m3_operator.mlflow_run import RegisteredModel as ModelInRegistry
from m3_trainer.promotion import Decision, decide


def register(draft: Draft, job: TrainingJob) -> None:
    """Say which version the job has registered, and move its alias, as far as MLflow answers."""
    run = draft.observed.run
    if isinstance(run, Run):
        note_run(draft, job, run)
        _note_model(draft, run)
    elif run is NoRun.NOT_FOUND:
        message = f"MLflow's experiment {job.spec.tracking.experiment_name} has no run of this job"
        draft.condition(ConditionType.REGISTERED, "False", Reason.RUN_NOT_FOUND, message)
    else:
        draft.condition(ConditionType.REGISTERED, "Unknown", Reason.TRACKING_UNAVAILABLE, _no_answer(draft))
    if draft.wants_promotion:
        _promote(draft, job)
    draft.settle_if_done()


def note_run(draft: Draft, job: TrainingJob, run: Run) -> None:
    """Link, metrics and lineage of the attempt's run."""
    base = draft.observed.settings.ui_url
    page = f"{base}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    lineage = Lineage(
        git_commit=run.git_commit,
        image_digest=run.image_digest,
        data_digest=run.data_digest,
        rows=run.rows,
        spec_hash=run.spec_hash,
    )
    draft.update(
        mlflow=MlflowRun(experiment_id=run.experiment_id, run_id=run.run_id, url=page),
        lineage=lineage if lineage.dump() else None,
    )
    draft.progress(metrics=_metrics(run.metrics, job.spec.evaluation.metrics))


def _metrics(values: dict[str, float], first: tuple[str, ...]) -> tuple[MetricValue, ...]:
    order = [name for name in first if name in values] + [name for name in values if name not in first]
    return tuple(MetricValue(name=name, value=values[name]) for name in order[:MAX_METRICS])


def _no_answer(draft: Draft) -> str:
    return f"MLflow at {draft.observed.settings.tracking_uri} gives no answer; it is asked again"


def _note_model(draft: Draft, run: Run) -> None:
    if run.model_name is None or run.model_version is None:
        message = f"MLflow's run {run.run_id} names no model version"
        draft.condition(ConditionType.REGISTERED, "False", Reason.NO_MODEL_VERSION, message)
        return
    if draft.status.model is not None:
        return
    uri = f"models:/{run.model_name}/{run.model_version}"
    draft.update(model=RegisteredModel(name=run.model_name, version=run.model_version, uri=uri))
    draft.condition(ConditionType.REGISTERED, "True", Reason.MODEL_REGISTERED, uri)
    draft.event("Normal", Reason.MODEL_REGISTERED, uri)


def _promote(draft: Draft, job: TrainingJob) -> None:
    run, model = draft.observed.run, draft.observed.model
    registered = draft.find(ConditionType.REGISTERED)
    if registered is not None and registered.status == "False":
        _refused(draft, Reason.NOT_REGISTERED, "the job has registered no version to promote")
    elif isinstance(run, Run) and isinstance(model, ModelInRegistry):
        _judge(draft, job, run, model)
    else:
        draft.condition(ConditionType.PROMOTED, "Unknown", Reason.TRACKING_UNAVAILABLE, _no_answer(draft))


def _judge(draft: Draft, job: TrainingJob, run: Run, model: ModelInRegistry) -> None:
    wish, mine = job.spec.registry.promotion, draft.status.model
    assert wish is not None
    assert mine is not None
    if run.evidence is None:
        _refused(draft, Reason.NOT_COMPARABLE, f"the run has no score: does its image know `{wish.metric}`?")
        return
    decision = decide(
        alias=wish.alias,
        version=mine.version,
        metric=wish.metric,
        mode=wish.mode,
        min_improvement=wish.min_improvement,
        evidence=run.evidence,
        holder_now=model.aliases.get(wish.alias),
        owner=model.owner,
        namespace=draft.meta.namespace,
    )
    if not decision.promote:
        _refused(draft, decision.reason, decision.message)
        return
    holder = model.aliases.get(wish.alias)
    _promoted(draft, wish.alias, holder, decision)


def _promoted(draft: Draft, alias: str, holder: str | None, decision: Decision) -> None:
    mine = draft.status.model
    assert mine is not None
    draft.update(model=mine.model_copy(update={"aliases": (alias,)}))
    _tell(draft, "Promoted", "True", decision.reason, f"{alias} points at {mine.uri}: {decision.message}")
    move = AliasMove(mine.name, alias, mine.version, holder) if holder != mine.version else None
    draft.verdict = Verdict(mine.name, mine.version, "Promoted", decision.reason, move)


def _refused(draft: Draft, reason: str, message: str) -> None:
    _tell(draft, "Refused", "False", str(reason), message)
    if mine := draft.status.model:
        draft.verdict = Verdict(mine.name, mine.version, "Refused", str(reason))


def _tell(draft: Draft, verdict: str, status: ConditionStatus, reason: str, message: str) -> None:
    draft.event("Normal", "ModelPromoted" if verdict == "Promoted" else "PromotionRefused", message)
    draft.update(promotion=Promotion(decision=verdict, reason=reason, message=message))
    draft.condition(ConditionType.PROMOTED, status, reason, message)
