"""`python -m m3_operator`: read the settings, wait for the CRDs, run."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import kopf

from m3_operator import handlers, probes
from m3_operator.cluster import Cluster
from m3_operator.controller import Controller
from m3_operator.errors import ClusterError, SettingsError
from m3_operator.metrics import Metrics
from m3_operator.settings import Settings
from m3_operator.tracking import Tracking

logger = logging.getLogger("m3_operator")

RETRY = 2.0
"""Seconds between two looks for what must be there before the operator can start."""


async def run(settings: Settings) -> None:
    metrics = Metrics()
    cluster, tracking = Cluster(settings, metrics), Tracking(settings.tracking_uri, settings.operator_id)
    controller = Controller(settings, cluster, tracking, metrics)
    await cluster.open()
    await tracking.open()
    server = await probes.serve(metrics, settings.probe_port)
    try:
        await _wait_for_crds(cluster, metrics)
        await _operate(settings, controller)
    finally:
        await server.cleanup()
        await tracking.close()
        await cluster.close()


async def _wait_for_crds(cluster: Cluster, metrics: Metrics) -> None:
    """kopf looks once, at its start, for what there is to watch; and charts may be installed in any order."""
    while True:
        try:
            if not (missing := await cluster.lacks()):
                return
            logger.warning("waits for CustomResourceDefinitions: %s", ", ".join(missing))
        except ClusterError as error:
            logger.warning("waits for the Kubernetes API: %s", error)
        metrics.beat()
        await asyncio.sleep(RETRY)


async def _operate(settings: Settings, controller: Controller) -> None:
    registry = kopf.OperatorRegistry()
    handlers.register(registry, controller)
    await controller.start()
    watching = asyncio.ensure_future(
        kopf.operator(
            registry=registry,
            settings=handlers.configured(),
            clusterwide=settings.clusterwide,
            namespaces=settings.watch_namespaces,
        )
    )
    working = asyncio.ensure_future(controller.run())
    # kopf ends at SIGTERM, or when it cannot go on; the controller never ends by itself. Either end is both's.
    await asyncio.wait([watching, working], return_when=asyncio.FIRST_COMPLETED)
    for task in (watching, working):
        task.cancel()
    results = await asyncio.gather(watching, working, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def main() -> int:
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    asyncio.run(run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
