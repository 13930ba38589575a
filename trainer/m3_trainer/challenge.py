"""The candidate for an alias against the version that has it, on the same test rows.

In the cluster a job only writes down what it found, and the operator moves the alias: one writer, so that two jobs that finish
together cannot both win. On a laptop there is no operator, and `m3` decides by the same function, one process at a time.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace

import pandas as pd
from pandas.api.types import is_numeric_dtype

from m3_trainer import evaluate, external, known_rows, models, registry
from m3_trainer.config import Evaluation, Promotion
from m3_trainer.errors import UserError
from m3_trainer.known_rows import KnownRows
from m3_trainer.promotion import NOT_COMPARABLE, Decision, Evidence, decide
from m3_trainer.registry import Version
from m3_trainer.tracking import Run

ROWS_FILE = "lineage/training_rows.npz"
MAX_TAG_LENGTH = 500


@dataclass(frozen=True)
class Test:
    """The candidate's test rows: features, and how it scored them."""

    features: pd.DataFrame
    scored: evaluate.Scored
    evaluation: Evaluation
    module: str | None = None
    """Module of the user's own class, which the job may run."""

    def measure(self, metric: str, scored: evaluate.Scored, threshold: float | None = None) -> float:
        """At the candidate's threshold, or at another model's own."""
        own = self.evaluation if threshold is None else self.evaluation.model_copy(update={"threshold": threshold})
        return float(evaluate.METRICS[metric](scored, own))

    def hashes_over(self, columns: tuple[str, ...]):
        return known_rows.hashes(self.features[list(columns)], pd.Series(self.scored.target))


def rows_file(features: pd.DataFrame, target: pd.Series) -> dict[str, bytes]:
    """A sample of the training rows, to be kept with the run: whoever challenges this version needs it."""
    return {ROWS_FILE: KnownRows.of(external.parts(features, target)).dumps()}


def look(run: Run, promotion: Promotion, model_name: str, test: Test) -> Evidence:
    """What speaks for the candidate: its score, and the holder's. Raises `TrackingUnavailable`."""
    score = test.measure(promotion.metric, test.scored)
    holder = registry.holder(run, model_name, promotion.alias)
    if holder is None:
        return Evidence(score)
    try:
        return Evidence(score, holder.version, _score_of(run, holder, promotion.metric, test))
    except (_NotComparable, UserError) as obstacle:
        return Evidence(score, holder.version, obstacle=str(obstacle))


class _NotComparable(Exception):
    """Why holder and candidate have no common ground; the message goes into the condition."""


def _score_of(run: Run, holder: Version, metric: str, test: Test) -> float:
    named = f"version {holder.version}"
    stored = registry.load(holder.uri, run.tracker, [test.module] if test.module else [])
    columns = tuple(stored.features)
    if missing := [name for name in columns if name not in test.features.columns]:
        raise _NotComparable(f"{named} needs the column `{missing[0]}`, which is no feature of this job")
    if others := [name for name in columns if (name in stored.categorical) is is_numeric_dtype(test.features[name])]:
        kind = "names" if others[0] in stored.categorical else "numbers"
        raise _NotComparable(f"{named} takes the values of `{others[0]}` for {kind}, which this job does not")
    _learned_from_none(run, holder, columns, test)
    scored = replace(test.scored, score=models.probabilities(stored.estimator, test.features[list(columns)]))
    return test.measure(metric, scored, stored.threshold)


def _learned_from_none(run: Run, holder: Version, columns: tuple[str, ...], test: Test) -> None:
    """A model is good at rows that it has learned from. Raises `_NotComparable`."""
    named = f"version {holder.version}"
    try:
        known = KnownRows.loads(registry.artifact_of(run, holder, ROWS_FILE) or b"")
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _NotComparable(f"{named} does not say which rows it has learned from") from error
    if known.columns != columns:
        raise _NotComparable(f"{named} has other features than its run says")
    if (share := known.share(test.hashes_over(columns))) > known_rows.MAX_SHARE:
        raise _NotComparable(f"{named} has learned from {share:.0%} of these test rows: test on later ones")


def tags(evidence: Evidence, test: Test) -> dict[str, str]:
    """Evidence as the operator reads it."""
    found = {
        "m3.promotion.score": repr(evidence.score),
        "m3.promotion.test.digest": known_rows.digest(test.hashes_over(tuple(test.features.columns))),
        "m3.promotion.holder.version": evidence.holder_version,
        "m3.promotion.holder.score": None if evidence.holder_score is None else repr(evidence.holder_score),
        "m3.promotion.obstacle": evidence.obstacle and f"{NOT_COMPARABLE}: {evidence.obstacle}"[:MAX_TAG_LENGTH],
    }
    return {name: value for name, value in found.items() if value}


def settle(run: Run, promotion: Promotion, version: Version, test: Test, evidence: Evidence) -> Decision:
    """On a laptop: decide, move the alias if it is won, and tag the version with the verdict.

    One process of this machine at a time. Who finds that another has moved the alias since it looked looks again, at the new
    holder: so of two that finish together the better one has the alias. Raises `TrackingUnavailable`.
    """
    with registry.alone(run.tracker):
        decision = _decided(run, promotion, version, evidence)
        if decision.reason == "HolderChanged":
            evidence = look(run, promotion, version.name, test)
            run.log(tags=tags(evidence, test))
            decision = _decided(run, promotion, version, evidence)
        if decision.promote:
            registry.give_alias(run, version, promotion.alias)
            decision = _confirmed(run, promotion, version, decision)
    verdict = {"m3.promotion.decision": decision.verdict, "m3.promotion.reason": decision.reason}
    registry.tag_version(run, version, verdict)
    return decision


def _decided(run: Run, promotion: Promotion, version: Version, evidence: Evidence) -> Decision:
    holder = registry.holder(run, version.name, promotion.alias)
    return decide(
        alias=promotion.alias,
        version=version.version,
        metric=promotion.metric,
        mode=promotion.mode,
        min_improvement=promotion.min_improvement,
        evidence=evidence,
        holder_now=holder.version if holder else None,
    )


def _confirmed(run: Run, promotion: Promotion, version: Version, won: Decision) -> Decision:
    """MLflow has no compare-and-set: a process of another machine may have moved the alias at the same moment."""
    holder = registry.holder(run, version.name, promotion.alias)
    if holder == version:
        return won
    told = f"version {holder.version}" if holder else "no version"
    message = f"{promotion.alias} was moved to {told} at the same moment, by another machine: train again"
    return Decision(False, "HolderChanged", message)
