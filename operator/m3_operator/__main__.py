"""`python -m m3_operator`: read the settings, wait for the CRDs, run."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from typing import Any

import kopf

from m3_operator import handlers, lean, probes
from m3_operator.cluster import Cluster
from m3_operator.controller import Controller
from m3_operator.errors import ClusterError, SettingsError
from m3_operator.metrics import Metrics
from m3_operator.settings import Settings
from m3_operator.tracking import Tracking

logger = logging.getLogger("m3_operator")

RETRY = 2.0
"""Seconds between two looks for what must be there before the operator can start."""

GARBAGE = (50_000, 20, 50)
"""Python's own thresholds look through the whole heap again and again while a list is parsed: 2.5 s of 6 at 10,000 jobs."""


async def run(settings: Settings) -> None:
    asyncio.get_running_loop().set_exception_handler(handle_loop_error)
    metrics = Metrics()
    cluster, tracking = Cluster(settings, metrics), Tracking(settings.tracking_uri, settings.operator_id)
    controller = Controller(settings, cluster, tracking, metrics)
    await cluster.open()
    await tracking.open()
    server = await probes.serve(metrics, settings.probe_port)
    try:
        await _first_look(controller, metrics)
        await _operate(settings, controller)
    finally:
        await server.cleanup()
        await tracking.close()
        await cluster.close()


def handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """kopf leaves its watches to the loop's end, where closing one can fail in its own context manager: by then nothing
    is lost by it, and an ERROR would send somebody looking. Everything else is logged as usual.
    """
    if "asyncgen" in context:
        logger.debug("%s: %s", context.get("message"), context.get("exception"))
    else:
        loop.default_exception_handler(context)


async def _first_look(controller: Controller, metrics: Metrics) -> None:
    """Wait for the API server, the CRDs and the rights: charts may be installed in any order, and kopf looks only once."""
    while True:
        try:
            await controller.start()
            return
        except ClusterError as error:
            logger.warning("waits for the Kubernetes API: %s", error)
        metrics.beat()
        await asyncio.sleep(RETRY)


async def _operate(settings: Settings, controller: Controller) -> None:
    """Until SIGTERM, which kopf takes; or until one of the two, kopf and the controller, cannot go on."""
    registry, over = kopf.OperatorRegistry(), asyncio.Event()
    working = asyncio.ensure_future(controller.run())
    working.add_done_callback(lambda _: over.set())
    handlers.register(registry, controller, before_end=working.cancel)
    await kopf.operator(
        registry=registry,
        settings=handlers.configured(),
        clusterwide=settings.clusterwide,
        namespaces=settings.watch_namespaces,
        stop_flag=over,
        memories=lean.NoMemories(),
        insights=await lean.insights(),
    )
    await asyncio.wait([working])
    if not working.cancelled():
        working.result()


def main() -> int:
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    gc.set_threshold(*GARBAGE)
    asyncio.run(run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
