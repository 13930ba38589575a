"""What one job costs when there are 100 of them, and when there are 10,000."""

from __future__ import annotations

from typing import Any

import contestants
import load
from apiserver import ApiServer, quiet, wait_for
from mlflow_server import Mlflow
from throughput import warm_up

SIZES = (100, 300, 1_000, 3_000, 10_000)
TIMEOUT = 600.0

Object = dict[str, Any]


async def part(server: ApiServer, mlflow: Mlflow, sizes: tuple[int, ...]) -> list[Object]:
    return [await measure(server, mlflow, size) for size in sizes]


async def measure(server: ApiServer, mlflow: Mlflow, number: int) -> Object:
    namespace = f"scale-{number}"
    server.kubectl("create", "namespace", namespace)
    contestant = contestants.m3(mlflow.uri)
    async with load.connected(server) as client:
        with contestant.run(server, namespace) as program:
            await warm_up(client, contestant, namespace)
            quiet(server)
            before = program.usage()
            bodies = contestants.encoded(contestant, [f"job-{index}" for index in range(number)])
            server.skip_audit()
            wave = await load.wave(client, namespace, contestant.parents, contestant.children, bodies, TIMEOUT)
            until_written(server, number)
            after = program.usage()
        for resource in (contestant.parents, contestant.children):
            await client.delete_all(resource, namespace)
    return {
        "jobs": number,
        "seconds": round(wave.children_seconds, 3),
        "wall_ms_per_job": round(wave.children_seconds * 1000 / number, 3),
        "cpu_ms_per_job": round((after.cpu_seconds - before.cpu_seconds) * 1000 / number, 3),
        "rss_mb": round(after.rss_mb, 1),
    }


def until_written(server: ApiServer, number: int) -> None:
    """Until every job's status says that its RayJob is there: the operator puts that off while others wait for theirs."""

    def are_written() -> bool:
        requests = server.audited("m3")
        return sum(each.verb == "patch" and each.resource == "trainingjobs/status" for each in requests) >= number

    wait_for(are_written, TIMEOUT, f"all of {number} statuses are written", every=1.0)
