"""A restart with 10,000 settled jobs, against the operator that has none."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import contestants
import load
from apiserver import ApiServer, count
from fake_kuberay import now
from load import RAYJOBS, TRAININGJOBS, Client
from mlflow_server import Mlflow
from start_and_rest import rest

from m3_operator.api import labels

STARTED_AFTER, TICKED_AFTER = 8.0, 16.0
"""Seconds after its first sign of life: its start is over and its first tick has not come; its first tick is over."""

Object = dict[str, Any]


async def part(server: ApiServer, mlflow: Mlflow, number: int) -> Object:
    empty, full = "restart-empty", "restart-settled"
    for namespace in (empty, full):
        server.kubectl("create", "namespace", namespace)
    without = await start(server, mlflow, empty)
    async with load.connected(server) as client:
        began = time.perf_counter()
        await settle(client, full, number)
        made = round(time.perf_counter() - began, 1)
        with_jobs = await start(server, mlflow, full)
        for resource in (TRAININGJOBS, RAYJOBS):
            await client.delete_all(resource, full)
    more = with_jobs["rss_mb"] - without["rss_mb"]
    return {
        "jobs": number,
        "made_in_seconds": made,
        "empty": without,
        "settled": with_jobs,
        "rss_kb_per_job": round(more * 1000 / number, 2),
    }


async def start(server: ApiServer, mlflow: Mlflow, namespace: str) -> Object:
    server.skip_audit()
    contestant = contestants.m3(mlflow.uri)
    began = time.perf_counter()
    with contestant.run(server, namespace) as program:
        alive = time.perf_counter() - began
        await asyncio.sleep(STARTED_AFTER)
        calls, used = server.audited("m3"), program.usage()
        await asyncio.sleep(TICKED_AFTER - STARTED_AFTER)
        later, ticked = server.audited("m3"), program.usage()
        resting = await rest(server, mlflow)
    return {
        "alive_after_seconds": round(alive, 2),
        "calls": len(calls),
        "calls_with_first_tick": len(later),
        "writes": sum(request.writes for request in later),
        "requests": count(calls),
        "cpu_seconds": round(used.cpu_seconds, 2),
        "cpu_seconds_with_first_tick": round(ticked.cpu_seconds, 2),
        "rss_mb": round(ticked.rss_mb, 1),
        "peak_rss_mb": round(ticked.peak_rss_mb, 1),
        "rest": resting,
    }


async def settle(client: Client, namespace: str, number: int) -> None:
    """Jobs that are over, as the operator leaves them, with their RayJobs."""

    async def one(index: int) -> None:
        name = f"job-{index}"
        body = contestants.encode(contestants.training_job(name))
        job = await client.create(TRAININGJOBS, namespace, body)
        rayjob = await client.create(RAYJOBS, namespace, contestants.encode(settled_rayjob(job)))
        status = settled_status(rayjob["metadata"]["name"])
        written = await client.patch_status(TRAININGJOBS, namespace, name, status)
        assert written["status"]["settled"] is True, written

    await load.in_turn(lambda index=index: one(index) for index in range(number))


def settled_rayjob(job: Object) -> Object:
    """The child of an attempt that has ended. A short spec: the operator's selector leaves it to the API server."""
    meta = job["metadata"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": meta["name"], "uid": meta["uid"]}
    marks = {labels.JOB: meta["name"], labels.JOB_UID: meta["uid"], labels.ATTEMPT: "1", labels.SETTLED: "true"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": f"{meta['name']}-{meta['uid'][:4]}-1", "labels": marks, "ownerReferences": [owner]},
        "spec": {"entrypoint": "python -m m3_trainer job", "clusterSelector": {"ray.io/cluster": "gone"}},
    }


def settled_status(rayjob: str) -> Object:
    run = "0123456789abcdef0123456789abcdef"
    moment = now()

    def condition(kind: str, status: str, reason: str, message: str) -> Object:
        told = {"type": kind, "status": status, "reason": reason, "message": message}
        return told | {"lastTransitionTime": moment, "observedGeneration": 1}

    return {
        "observedGeneration": 1,
        "settled": True,
        "startTime": moment,
        "completionTime": moment,
        "conditions": [
            condition("Running", "False", "JobSucceeded", f"RayJob {rayjob} has ended"),
            condition("Complete", "True", "JobSucceeded", f"attempt 1: RayJob {rayjob} succeeded"),
            condition("Registered", "True", "ModelRegistered", "fraud_detector version 3"),
        ],
        "attempts": [
            {"number": 1, "rayJobName": rayjob, "startTime": moment, "completionTime": moment, "reason": "JobSucceeded"}
        ],
        "progress": {"percentage": 100, "metrics": [{"name": "average_precision", "value": 0.61}]},
        "mlflow": {"experimentId": "1", "runId": run, "url": f"https://mlflow.example/#/experiments/1/runs/{run}"},
        "model": {"name": "fraud_detector", "version": "3", "uri": "models:/fraud_detector/3"},
    }
