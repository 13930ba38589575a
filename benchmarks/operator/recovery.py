"""From a SIGKILL to the next thing that the operator does right."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import contestants
import load
from apiserver import ApiServer, quiet
from load import RAYJOBS, TRAININGJOBS, Client
from mlflow_server import Mlflow
from throughput import warm_up

Object = dict[str, Any]


async def part(server: ApiServer, mlflow: Mlflow, number: int, rounds: int) -> list[Object]:
    """Killed when a third of the children is there. Kubernetes would start it again at once, as is done here."""
    return [await measure(server, mlflow, number, turn) for turn in range(rounds)]


async def measure(server: ApiServer, mlflow: Mlflow, number: int, turn: int) -> Object:
    namespace = f"recovery-{turn}"
    server.kubectl("create", "namespace", namespace)
    contestant = contestants.m3(mlflow.uri)
    async with load.connected(server, 64) as client:
        with contestant.run(server, namespace) as program:
            await warm_up(client, contestant, namespace)
            quiet(server)
            bodies = contestants.encoded(contestant, [f"job-{index}" for index in range(number)])
            await load.in_turn(lambda body=body: client.create(TRAININGJOBS, namespace, body) for body in bodies)
            await until(client, namespace, 1 + number // 3)
            program.kill()
            left = await client.count(RAYJOBS, namespace)
            version = await client.version(RAYJOBS, namespace)
            start = time.perf_counter()
            program.restart()
            acted = await first_action(client, namespace, version) - start
            await until(client, namespace, 1 + number)
            whole = time.perf_counter() - start
        children = await client.list(RAYJOBS, namespace)
        for resource in (TRAININGJOBS, RAYJOBS):
            await client.delete_all(resource, namespace)
    owners = {child["metadata"]["ownerReferences"][0]["uid"] for child in children}
    return {
        "jobs": number,
        "children_when_killed": left,
        "first_action_seconds": round(acted, 3),
        "all_children_seconds": round(whole, 3),
        "one_child_per_job": len(owners) == len(children) == 1 + number,
    }


async def until(client: Client, namespace: str, number: int) -> None:
    async with asyncio.timeout(60):
        while await client.count(RAYJOBS, namespace) < number:
            await asyncio.sleep(0.02)


async def first_action(client: Client, namespace: str, version: str) -> float:
    """When the first RayJob was made, or the first status of a job written, after `version`."""

    async def changed(resource: load.Resource) -> float:
        async with contextlib.aclosing(client.watch(resource, namespace, version)) as lines:
            async for line in lines:
                if json.loads(line)["type"] in ("ADDED", "MODIFIED"):
                    return time.perf_counter()
        raise SystemExit("the watch has ended")

    waiting = [asyncio.create_task(changed(resource)) for resource in (RAYJOBS, TRAININGJOBS)]
    try:
        done, _ = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        return min(task.result() for task in done)
    finally:
        for task in waiting:
            task.cancel()
