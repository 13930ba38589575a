"""Whether a registered version takes over an alias: one pure decision, for `m3` on a laptop and for the operator.

The job says what it found (its own score, and the holder's on the same test rows); who moves the alias decides by it, and by
what the alias points at by then. So two jobs that finish together cannot both win: the second finds another holder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NOT_COMPARABLE = "NotComparable"

PromotionReason = Literal[
    "FirstVersion", "Improved", "NotImproved", "HolderChanged", "NotComparable", "ModelOwnedByOtherNamespace"
]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the job found when it looked at the alias."""

    score: float
    """The candidate's metric on its test rows."""
    holder_version: str | None = None
    """The version that had the alias; None where nothing had it."""
    holder_score: float | None = None
    """That version's metric on the same rows; None where it could not be scored."""
    obstacle: str | None = None
    """Why the two cannot be compared."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`promote`: the alias belongs to the candidate, and is moved where it is not there yet."""

    promote: bool
    reason: PromotionReason
    message: str

    @property
    def verdict(self) -> Literal["Promoted", "Refused"]:
        return "Promoted" if self.promote else "Refused"


def decide(
    *,
    alias: str,
    version: str,
    metric: str,
    mode: Literal["max", "min"],
    min_improvement: float,
    evidence: Evidence,
    holder_now: str | None,
    owner: str | None = None,
    namespace: str | None = None,
) -> Decision:
    """What becomes of `alias` for the candidate `version`, `holder_now` having it.

    `owner` is the namespace that the model belongs to, `namespace` the candidate's; None where there are no namespaces.
    """
    if owner and namespace and owner != namespace:
        return Decision(
            False, "ModelOwnedByOtherNamespace", f"the model belongs to namespace {owner}: use another name"
        )
    if holder_now not in (version, evidence.holder_version):
        seen = _named(evidence.holder_version)
        message = f"{alias} pointed at {seen} when the job looked, and points at {_named(holder_now)} now: train again"
        return Decision(False, "HolderChanged", message)
    if evidence.holder_version is None:
        return Decision(True, "FirstVersion", f"nothing had {alias} before; {metric} is {evidence.score:.4f}")
    if evidence.obstacle or evidence.holder_score is None:
        return Decision(False, "NotComparable", evidence.obstacle or f"{_named(evidence.holder_version)} has no score")
    return _compared(metric, mode, min_improvement, evidence.score, evidence.holder_version, evidence.holder_score)


def _compared(
    metric: str, mode: Literal["max", "min"], min_improvement: float, score: float, holder: str, holder_score: float
) -> Decision:
    gain = score - holder_score if mode == "max" else holder_score - score
    told = f"{metric} is {score:.4f}, {_named(holder)} has {holder_score:.4f} on the same rows"
    if gain > 0 and gain >= min_improvement:
        return Decision(True, "Improved", told)
    return Decision(False, "NotImproved", f"{told}; it must be better by {min_improvement:g} or more")


def _named(version: str | None) -> str:
    return f"version {version}" if version else "no version"
