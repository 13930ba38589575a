"""KubeRay's side of a job's start: the status that it writes, in its order, some seconds apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from load import RAYJOBS, Client

INITIALIZING_AFTER, READY_AFTER, RUNNING_AFTER = 0.5, 3.0, 5.0
"""Seconds after the RayJob's creation. On a real cluster the middle one is 12 s and more."""

Object = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stages(name: str) -> list[tuple[float, Object]]:
    cluster = {"desiredWorkerReplicas": 1, "maxWorkerReplicas": 1, "minWorkerReplicas": 1, "desiredCPU": "2"}
    started = {"jobId": f"{name}-x7k2p", "rayClusterName": f"{name}-8wq4z", "startTime": now()}
    ready = {"rayClusterStatus": cluster | {"state": "ready", "readyWorkerReplicas": 1, "availableWorkerReplicas": 1}}
    return [
        (INITIALIZING_AFTER, {"jobDeploymentStatus": "Initializing"} | started),
        (1.0, {"jobDeploymentStatus": "Initializing", "rayClusterStatus": cluster}),
        (READY_AFTER, {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"} | ready),
        (RUNNING_AFTER, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayJobInfo": {"startTime": now()}}),
    ]


async def _start(client: Client, namespace: str, name: str) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for after, status in stages(name):
        await asyncio.sleep(max(0.0, begun + after - loop.time()))
        await client.patch_status(RAYJOBS, namespace, name, status)


@contextlib.asynccontextmanager
async def running(client: Client, namespace: str) -> AsyncIterator[None]:
    """Starts every RayJob of the namespace that is made from now on."""
    first = await client.version(RAYJOBS, namespace)

    async def watch(group: asyncio.TaskGroup) -> None:
        version = first
        while True:  # the API server ends the watch of whoever is slow, without a word
            async for line in client.watch(RAYJOBS, namespace, version):
                event = json.loads(line)
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "ADDED":
                    group.create_task(_start(client, namespace, event["object"]["metadata"]["name"]))

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            await watch(group)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
