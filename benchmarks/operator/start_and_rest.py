"""What a job costs the API until it runs, and what running jobs cost at rest."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import contestants
import fake_kuberay
import load
from apiserver import ApiServer, count
from load import TRAININGJOBS, Client
from mlflow_server import Mlflow

NAMESPACE = "start-and-rest"
REST_SECONDS = 32.0
"""Three ticks of the operator's."""

Object = dict[str, Any]


async def part(server: ApiServer, mlflow: Mlflow, number: int) -> Object:
    """`number` jobs, each with an MLflow run, from apply to running, and then three ticks with nothing new."""
    server.kubectl("create", "namespace", NAMESPACE)
    contestant = contestants.m3(mlflow.uri)
    async with load.connected(server, 64) as client:
        with contestant.run(server, NAMESPACE):
            server.skip_audit()
            async with fake_kuberay.running(client, NAMESPACE):
                bodies = contestants.encoded(contestant, [f"job-{index}" for index in range(number)])
                await load.in_turn(lambda body=body: client.create(TRAININGJOBS, NAMESPACE, body) for body in bodies)
                jobs = await until_running(client, number)
            start = started(server, number)
            await make_runs(mlflow, jobs)
            await asyncio.sleep(12)  # the tick that finds the runs, and what it writes
            resting = await rest(server, mlflow)
        for resource in (load.TRAININGJOBS, load.RAYJOBS):
            await client.delete_all(resource, NAMESPACE)
    return {"start": start, "rest_running": {"jobs": number} | resting}


def started(server: ApiServer, number: int) -> Object:
    requests = [request for request in server.audited("m3") if not request.is_watch]
    # a tick's lists are the same for one job and for all: they are in the figures of the rest
    own = [request for request in requests if request.verb != "list"]
    return {
        "jobs": number,
        "requests_per_job": round(sum(not request.is_event for request in own) / number, 3),
        "events_per_job": round(sum(request.is_event for request in own) / number, 3),
        "requests": count(requests),
    }


async def until_running(client: Client, number: int, timeout: float = 180) -> list[Object]:
    end = time.monotonic() + timeout
    while True:
        jobs = await client.list(TRAININGJOBS, NAMESPACE)
        running = sum(is_running(job) for job in jobs)
        if running == number:
            return jobs
        if time.monotonic() > end:
            raise SystemExit(f"{running} of {number} jobs run after {timeout:g} s")
        await asyncio.sleep(1)


def is_running(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Running" and condition["status"] == "True" for condition in conditions)


async def make_runs(mlflow: Mlflow, jobs: list[Object]) -> None:
    """The run that each job's trainer would have made by now, with its progress."""
    experiment = mlflow.post("experiments/create", name=jobs[0]["spec"]["tracking"]["experimentName"])["experiment_id"]
    async with aiohttp.ClientSession(f"{mlflow.uri}/api/2.0/mlflow/") as session:

        async def make(job: Object) -> None:
            tags = [{"key": key, "value": value} for key, value in tags_of(job).items()]
            body = {"experiment_id": experiment, "start_time": int(time.time() * 1000), "tags": tags}
            async with session.post(
                "runs/create", data=json.dumps(body), headers={"Content-Type": "application/json"}
            ) as answer:
                answer.raise_for_status()

        await load.in_turn((lambda job=job: make(job) for job in jobs), 4)


def tags_of(job: Object) -> dict[str, str]:
    meta = job["metadata"]
    return {
        "m3.job.uid": meta["uid"],
        "m3.job.attempt": "1",
        "m3.job.name": meta["name"],
        "m3.job.namespace": meta["namespace"],
        "m3.operator": "m3-system/m3",
        "m3.progress.percentage": "40",
    }


async def rest(server: ApiServer, mlflow: Mlflow, seconds: float = REST_SECONDS) -> Object:
    """Calls per tick; a tick shows as one list of the RayJobs."""
    server.skip_audit()
    mlflow.skip_log()
    await asyncio.sleep(seconds)
    requests = [request for request in server.audited("m3") if not request.is_watch]
    asked = mlflow.asked()
    ticks = sum(request.verb == "list" and request.resource == "rayjobs" for request in requests)
    searches = sum(line.endswith("/runs/search") for line in asked)
    return {
        "seconds": seconds,
        "ticks": ticks,
        "kubernetes_calls_per_tick": round(len(requests) / max(1, ticks), 2),
        "mlflow_calls_per_tick": round(len(asked) / max(1, ticks), 2),
        "mlflow_searches": searches,
        "writes": sum(request.writes for request in requests),
        "requests": count(requests),
    }
