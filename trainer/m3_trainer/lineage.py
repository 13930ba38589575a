"""What a model was made from: data, file, code and image."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from m3_trainer import __version__

COMMIT_VARIABLE, IMAGE_VARIABLE = "M3_GIT_COMMIT", "M3_IMAGE"
GIT_SECONDS = 2.0
DESCRIBE = ("git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
PINNED = re.compile("@(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Code:
    """The commit and the image that a run was started from, as far as they are known."""

    commit: str | None = None
    has_changes: bool = False
    image: str | None = None

    @classmethod
    def around(cls, environment: Mapping[str, str]) -> Code:
        """The image names its commit; elsewhere it is that of the working directory, where the user's file and classes are."""
        image = environment.get(IMAGE_VARIABLE) or None
        if commit := environment.get(COMMIT_VARIABLE):
            return cls(commit, image=image)
        described = _described()
        return cls(described.removesuffix("-dirty") or None, described.endswith("-dirty"), image)

    @property
    def image_digest(self) -> str | None:
        """Known where the image is named by it: a pod is told its tag, and what the tag pointed at only Kubernetes knows."""
        found = PINNED.search(self.image or "")
        return found[1] if found else None


def _described() -> str:
    try:
        done = subprocess.run(DESCRIBE, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class Lineage:
    """All of it."""

    data_digest: str
    rows: int
    spec_hash: str
    code: Code = Code()

    def document(self) -> dict[str, Any]:
        """As `status.lineage` has it."""
        found = {
            "gitCommit": self.code.commit,
            "imageDigest": self.code.image_digest,
            "dataDigest": self.data_digest,
            "rows": self.rows,
            "specHash": self.spec_hash,
        }
        return {name: value for name, value in found.items() if value is not None}

    def tags(self) -> dict[str, str]:
        """As a run and a version carry it; the commit under MLflow's own name, by which its pages link to it."""
        found = {
            "m3.data.digest": self.data_digest,
            "m3.data.rows": str(self.rows),
            "m3.spec.hash": self.spec_hash,
            "m3.version": __version__,
            "mlflow.source.git.commit": self.code.commit,
            "m3.git.changed": "true" if self.code.has_changes else None,
            "m3.image": self.code.image,
            "m3.image.digest": self.code.image_digest,
        }
        return {name: value for name, value in found.items() if value}

    def told(self) -> dict[str, str]:
        """For readers."""
        changed = " and changes that are in no commit" if self.code.has_changes else ""
        found = {
            "rows": f"{self.rows:,}",
            "data digest": self.data_digest,
            "spec hash": self.spec_hash,
            "git commit": self.code.commit and f"{self.code.commit}{changed}",
            "image": self.code.image,
            "image digest": self.code.image_digest,
            "M3": __version__,
        }
        return {name: value for name, value in found.items() if value}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Lineage:
        """What `tags` has written."""
        commit, image = tags.get("mlflow.source.git.commit"), tags.get("m3.image")
        code = Code(commit, "m3.git.changed" in tags, image)
        return cls(tags["m3.data.digest"], int(tags["m3.data.rows"]), tags["m3.spec.hash"], code)
