"""Where a run comes from: which object of the cluster asked for it, if one did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RUN_FILE = "M3_RUN_FILE"
"""Names the file in which the training process tells its supervisor which run is its own."""


@dataclass(frozen=True)
class Origin:
    """The Kubernetes object and the attempt that a run belongs to; on a laptop only the name of the file's job.

    `storage` is where the object's attempts find what earlier ones have left: a URI, or the path of a mounted volume.
    """

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    attempt: int = 1
    operator: str | None = None
    storage: str | None = None
    ray_job: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Origin:
        return cls(
            name=environment.get("M3_JOB_NAME"),
            namespace=environment.get("M3_JOB_NAMESPACE"),
            uid=environment.get("M3_JOB_UID"),
            attempt=int(environment.get("M3_ATTEMPT", "1")),
            operator=environment.get("M3_OPERATOR_ID"),
            storage=environment.get("M3_STORAGE"),
            ray_job=environment.get("M3_RAY_JOB"),
        )

    def tags(self) -> dict[str, str]:
        """Tags that lead from the run to its object; `m3.operator` is the constant by which the operator finds its runs."""
        found = {
            "m3.job.name": self.name,
            "m3.job.namespace": self.namespace,
            "m3.job.uid": self.uid,
            "m3.job.attempt": str(self.attempt) if self.uid else None,
            "m3.operator": self.operator,
            "m3.rayjob.name": self.ray_job,
        }
        return {name: value for name, value in found.items() if value}

    def version_tags(self) -> dict[str, str]:
        """Tags that lead from a version to the attempt that registered it; none on a laptop."""
        if not self.uid:
            return {}
        found = {"m3.job.uid": self.uid, "m3.job.attempt": str(self.attempt)}
        return found | ({"m3.job.name": self.name} if self.name else {}) | self.owner_tags()

    def kubectl(self) -> str | None:
        """The command that shows the object; None on a laptop."""
        return f"kubectl get trainingjob {self.name} --namespace {self.namespace}" if self.uid else None

    def owner_tags(self) -> dict[str, str]:
        """Tag of a registered model: the namespace whose jobs may move its aliases."""
        return {"m3.namespace": self.namespace} if self.namespace else {}
