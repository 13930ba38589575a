"""1,000 objects each: how long until there are 1,000 children, how many requests, how much memory and CPU."""

from __future__ import annotations

from typing import Any

import contestants
import load
from apiserver import ApiServer, count, quiet
from contestants import Contestant
from mlflow_server import Mlflow
from process import usage

TIMEOUT = 300.0

Object = dict[str, Any]


async def part(server: ApiServer, mlflow: Mlflow, number: int, rounds: int) -> list[Object]:
    """A row per contestant and round; in turn, so that what else the machine does meets all of them."""
    field = [
        contestants.m3(mlflow.uri),
        contestants.trainer("trainer", equal_limits=True),
        contestants.trainer("trainer_defaults", equal_limits=False),
        contestants.naive(),
    ]
    rows = []
    for turn in range(rounds):
        # each begins once
        order = field[turn % len(field) :] + field[: turn % len(field)]
        rows += [await measure(server, contestant, turn, number) for contestant in order]
    return rows


async def measure(server: ApiServer, contestant: Contestant, turn: int, number: int) -> Object:
    namespace = f"{contestant.name.replace('_', '-')}-{number}-{turn}"
    server.kubectl("create", "namespace", namespace)
    async with load.connected(server) as client:
        with contestant.run(server, namespace) as program:
            await warm_up(client, contestant, namespace)
            quiet(server)
            before, servers = program.usage(), server_seconds(server)
            server.skip_audit()
            bodies = contestants.encoded(contestant, [f"job-{index}" for index in range(number)])
            wave = await load.wave(client, namespace, contestant.parents, contestant.children, bodies, TIMEOUT)
            quiet(server)
            after, servers = program.usage(), server_seconds(server) - servers
            requests = server.audited(contestant.user)
            workers = contestants.workers_in_effect(program) if program.metrics else None
        for resource in (contestant.parents, contestant.children):
            await client.delete_all(resource, namespace)
    own = [request for request in requests if not request.is_watch]
    return {
        "operator": contestant.name,
        "objects": number,
        "seconds": round(wave.children_seconds, 3),
        "apply_seconds": round(wave.applied_seconds, 3),
        "server_cpu_seconds": round(servers, 2),
        "cpu_seconds": round(after.cpu_seconds - before.cpu_seconds, 2),
        "rss_mb": round(after.rss_mb, 1),
        "peak_rss_mb": round(after.peak_rss_mb, 1),
        "requests_per_object": round(sum(not request.is_event for request in own) / number, 3),
        "events_per_object": round(sum(request.is_event for request in own) / number, 3),
        "requests": count(own),
    } | ({"workers": workers} if workers else {})


async def warm_up(client: load.Client, contestant: Contestant, namespace: str) -> None:
    """One object and its child: imports, connections and the API server's own caches are not what is compared."""
    await load.wave(
        client, namespace, contestant.parents, contestant.children, contestants.encoded(contestant, ["warm-up"]), 60
    )


def server_seconds(server: ApiServer) -> float:
    """CPU of kube-apiserver and etcd so far: what an operator makes others do."""
    return sum(usage(pid).cpu_seconds for pid in server.pids)
