"""What kopf does for every operator and nobody here asks for, left out: `operator/docs/decisions/2026-11-25-lean-kopf.md`.

Each is handed to kopf by a parameter of its own. Their types are in its private modules, so its version is pinned.
"""

from __future__ import annotations

from typing import Any

import kopf
from kopf._cogs.structs.references import Insights, Resource
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

CORE = (
    Resource("", "v1", "namespaces", kind="Namespace", namespaced=False),
    Resource(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", kind="CustomResourceDefinition", namespaced=False
    ),
)
"""What kopf waits to have found, though it asks neither for anything when its scanning is off."""


class NoEssence(kopf.DiffBaseStorage):
    """kopf copies every object it is told of, to find out what has changed: a sixth of our CPU."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class NoMemories(ResourceMemories):
    """kopf keeps what its timers, daemons and retries would need, for every object: 20 kB for each finished job."""

    async def recall(self, *arguments: Any, **options: Any) -> ResourceMemory:
        return await super().recall(*arguments, **(options | {"ephemeral": True}))


async def insights() -> Insights:
    """kopf's view of the cluster, in which it need not look for the kinds of Kubernetes itself: four calls at each start."""
    known = Insights()
    await known.backbone.fill(resources=CORE)
    known.backbone.selectors.clear()
    return known
