"""The client that makes the load, the same for every operator: 16 connections, as fast as they go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
from apiserver import ApiServer

CONNECTIONS = 16

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    group: str
    version: str
    plural: str

    def path(self, namespace: str, name: str = "", part: str = "") -> str:
        parts = ("/apis", self.group, self.version, "namespaces", namespace, self.plural, name, part)
        return "/".join(word for word in parts if word)


TRAININGJOBS = Resource("m3.dev", "v1alpha1", "trainingjobs")
RAYJOBS = Resource("ray.io", "v1", "rayjobs")
TRAINJOBS = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs")
JOBSETS = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets")


class Client:
    """The administrator's requests. Bodies are encoded before they are sent, so that no encoding is in the measured time."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def create(self, resource: Resource, namespace: str, body: bytes) -> Object:
        return await self._ask("POST", resource.path(namespace), body, "application/json")

    async def patch_status(self, resource: Resource, namespace: str, name: str, status: Object) -> Object:
        body = json.dumps({"status": status}).encode()
        return await self._ask("PATCH", resource.path(namespace, name, "status"), body, "application/merge-patch+json")

    async def list(self, resource: Resource, namespace: str) -> list[Object]:
        return (await self._ask("GET", resource.path(namespace)))["items"]

    async def count(self, resource: Resource, namespace: str) -> int:
        answer = await self._ask("GET", resource.path(namespace) + "?limit=1")
        return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount", 0))

    async def delete_all(self, resource: Resource, namespace: str) -> None:
        await self._ask("DELETE", resource.path(namespace))

    async def watch(self, resource: Resource, namespace: str, version: str) -> AsyncGenerator[bytes]:
        """Lines of a watch from `version` on. Undecoded: the one that counts must not be the one that is slow."""
        options = {"watch": "true", "resourceVersion": version}
        async with self._session.get(resource.path(namespace), params=options, read_bufsize=2**22) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                yield line

    async def version(self, resource: Resource, namespace: str) -> str:
        answer = await self._ask("GET", resource.path(namespace) + "?limit=1")
        return answer["metadata"]["resourceVersion"]

    async def _ask(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> Object:
        headers = {"Content-Type": content_type} if content_type else {}
        async with self._session.request(method, path, data=body, headers=headers) as answer:
            if answer.status >= 400:
                raise SystemExit(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()


@contextlib.asynccontextmanager
async def connected(server: ApiServer, connections: int = CONNECTIONS + 4) -> AsyncIterator[Client]:
    """A client whose watches do not take a connection from the load."""
    connector = aiohttp.TCPConnector(limit=connections, ssl=server.tls())
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    headers = {"Authorization": "Bearer admin"}
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=timeout, headers=headers) as session:
        yield Client(session)


async def in_turn(work: Iterable[Callable[[], Awaitable[object]]], at_once: int = CONNECTIONS) -> None:
    """Do all of `work`, `at_once` at a time."""
    rest = iter(work)

    async def one_after_another() -> None:
        for step in rest:
            await step()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_after_another())


@dataclass(frozen=True)
class Wave:
    """Seconds since the first apply."""

    applied_seconds: float
    children_seconds: float
    at: list[float]
    """When each child was there."""


async def wave(
    client: Client, namespace: str, parents: Resource, children: Resource, bodies: list[bytes], timeout: float
) -> Wave:
    """Create every parent; until a watch has told of as many children."""
    seen: list[float] = []
    version = await client.version(children, namespace)

    async def watch() -> None:
        async with contextlib.aclosing(client.watch(children, namespace, version)) as lines:
            async for line in lines:
                if line.startswith(b'{"type":"ADDED"'):
                    seen.append(time.perf_counter())
                if len(seen) >= len(bodies):
                    return

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    await in_turn(lambda body=body: client.create(parents, namespace, body) for body in bodies)
    applied = time.perf_counter() - start
    async with asyncio.timeout(timeout):
        await watching
    return Wave(applied, seen[-1] - start, [moment - start for moment in seen])
