"""What kopf calls: events wake the controller, and nothing is decided here.

`on.event` for both kinds, and none of kopf's create, update and resume handlers: those keep their progress in annotations of
the object, a write of their own per job, to be able to tell what has changed. What has changed does not matter here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import kopf

from m3_operator.api import labels
from m3_operator.api.v1alpha1 import GROUP, VERSION
from m3_operator.cluster import JOBS, RAY_GROUP, RAY_VERSION, RAYJOBS
from m3_operator.controller import Controller
from m3_operator.lean import NoEssence

CHUNK = 10_000
"""Objects in one answer to a list: 350 MB of Python while they are looked at."""


def register(registry: kopf.OperatorRegistry, controller: Controller, before_end: Callable[[], object]) -> None:
    """Connect `controller` with the events that kopf sees. kopf waits 5 s at its end for tasks that are not its own."""

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        before_end()
        # From here on kopf closes its connections, and tells as errors that they are closed where it was still looking
        # around: somebody would go and look why.
        logging.getLogger("kopf").setLevel(logging.CRITICAL)

    @kopf.on.event(GROUP, VERSION, JOBS, registry=registry)
    async def trainingjob(event: Any, **_: Any) -> None:
        seen = controller.job_gone if event["type"] == "DELETED" else controller.job_seen
        seen(event["object"])

    @kopf.on.event(RAY_GROUP, RAY_VERSION, RAYJOBS, registry=registry)
    async def rayjob(event: Any, **_: Any) -> None:
        seen = controller.rayjob_gone if event["type"] == "DELETED" else controller.rayjob_seen
        seen(event["object"])

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        # not kopf's own choice, the synchronous Kubernetes client: 40 MB for one token
        return kopf.login_with_kubeconfig(**kwargs) or kopf.login_with_service_account(**kwargs)


def configured() -> kopf.OperatorSettings:
    """kopf's settings: what production operators use, for the reasons beside each."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our events say what happened once, with a reason of their own
    settings.persistence.diffbase_storage = NoEssence()
    settings.scanning.disabled = True  # else it watches all CRDs and namespaces, and needs the right to
    settings.peering.standalone = True  # one replica with strategy Recreate; a stray peering object would freeze it
    settings.watching.chunk_size = CHUNK
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 1
    settings.watching.label_selectors[RAY_GROUP, RAY_VERSION, RAYJOBS] = labels.UNSETTLED
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (1, 2, 4, 8, 15)
    # A worker per object, which lingers: with a limit of 50 that linger for a second, no more than 50 objects a second are
    # told of. Ours only add a key to a queue.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 0.1
    settings.process.ultimate_exiting_timeout = 20
    return settings
