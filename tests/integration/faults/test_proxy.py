"""The proxy does what a plan says, once, at its place, and lets everything else through: seen by a client of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from integration.fault_proxy import RETRY_AFTER, Fault, FaultProxy, Place
from integration.faults.world import PATHS, RAYJOBS, Object, World, until

MAKE, HEAR, LOOK = f"POST {RAYJOBS}", f"EVENT {RAYJOBS}", f"LIST {RAYJOBS}"
SOON = 5.0
WHILE = 0.5
"""Seconds of silence that are taken for silence."""


@dataclass
class Client:
    """Of one proxy, in a namespace of its own."""

    world: World
    namespace: str
    proxy: FaultProxy
    session: aiohttp.ClientSession
    heard: list[str] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.proxy.url}/{PATHS[RAYJOBS]}/namespaces/{self.namespace}/{RAYJOBS}"

    async def make(self, name: str) -> tuple[int, dict[str, str]]:
        body = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": name},
            "spec": {"entrypoint": "python"},
        }
        async with self.session.post(self.url, json=body) as answer:
            await answer.read()
            return answer.status, dict(answer.headers)

    async def names(self) -> list[str]:
        async with self.session.get(self.url) as answer:
            return [item["metadata"]["name"] for item in (await answer.json())["items"]]

    def made(self) -> list[str]:
        """What is there, whatever the proxy says."""
        return [body["metadata"]["name"] for body in self.world.ledger(self.namespace).of(RAYJOBS)]

    async def listen(self) -> None:
        async with self.session.get(self.url, params={"watch": "true"}) as answer:
            async for line in answer.content:
                self.heard.append(_words(json.loads(line)))


def _words(event: Object) -> str:
    return f"{event['type']} {event['object']['metadata'].get('name', event['object'].get('code'))}"


@pytest.fixture
async def disturbed(world: World) -> AsyncIterator[Callable]:
    """Makes a client whose line fails as it is told."""
    async with world.opened(), contextlib.AsyncExitStack() as stack:

        async def make(kind: str, what: str, nth: int = 1, **more: float) -> Client:
            namespace = await world.namespace()
            fault = Fault(kind, Place("start", what, nth), **more)  # type: ignore[arg-type]
            session = await stack.enter_async_context(aiohttp.ClientSession(headers={"Authorization": "Bearer admin"}))

            async def kill() -> None:
                client.killed.append(time.monotonic())

            versions = world.ledger(namespace).versions
            proxy = await FaultProxy(world.api.server, world.session, fault, kill, versions).start()
            stack.push_async_callback(proxy.close)
            client = Client(world, namespace, proxy, session)
            return client

        yield make


@pytest.fixture
async def listening(disturbed: Callable) -> AsyncIterator[Callable]:
    """Makes one that watches, too."""
    watches: list[asyncio.Task[None]] = []

    async def make(kind: str, nth: int = 1) -> Client:
        client = await disturbed(kind, HEAR, nth)
        watches.append(asyncio.ensure_future(client.listen()))
        await until(lambda: client.proxy.watches[RAYJOBS], SOON, "the watch")
        return client

    yield make
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)


# --- calls ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [409, 410, 429, 500, 504])
async def test_a_call_is_answered_with_an_error_and_the_next_one_passes(disturbed: Callable, code: int) -> None:
    client = await disturbed(str(code), MAKE, nth=2)
    assert (await client.make("a"))[0] == 201
    status, headers = await client.make("b")
    assert (status, headers.get("Retry-After")) == (code, str(RETRY_AFTER) if code == 429 else None)
    assert (await client.make("c"))[0] == 201
    assert await client.names() == ["a", "c"]


@pytest.mark.parametrize(("kind", "made"), [("reset", []), ("reset-after", ["a"])])
async def test_a_call_is_reset_before_or_after_the_server_has_done_it(disturbed: Callable, kind, made) -> None:
    client = await disturbed(kind, MAKE)
    with pytest.raises(aiohttp.ClientError):
        await client.make("a")
    assert await client.names() == made


async def test_a_call_hangs_for_as_long_as_its_client_waits(disturbed: Callable) -> None:
    client = await disturbed("hang", MAKE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.make("a"), WHILE)
    assert await client.names() == []


@pytest.mark.parametrize(("kind", "made"), [("kill-before", []), ("kill-after", ["a"])])
async def test_the_operator_is_killed_before_or_after_the_server_has_done_a_call(
    disturbed: Callable, kind, made
) -> None:
    client = await disturbed(kind, MAKE)
    with pytest.raises(aiohttp.ClientError):
        await client.make("a")
    assert len(client.killed) == 1
    assert await client.names() == made


async def test_a_list_is_stale_once(disturbed: Callable) -> None:
    client = await disturbed("stale", LOOK, depth=1)
    for name in ("a", "b"):
        await client.make(name)
    await until(lambda: client.made() == ["a", "b"], SOON, "both")
    assert await client.names() == ["a"]
    assert await client.names() == ["a", "b"]


# --- events -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "heard"),
    [
        ("drop", ["ADDED a", "ADDED c"]),
        ("delay", ["ADDED a", "ADDED b", "ADDED c"]),
        ("replay", ["ADDED a", "ADDED b", "ADDED c", "ADDED b"]),
        ("expired", ["ADDED a", "ERROR 410"]),
    ],
)
async def test_what_befalls_the_second_event(listening: Callable, kind: str, heard: list[str]) -> None:
    client = await listening(kind, nth=2)
    for name in ("a", "b", "c"):
        assert (await client.make(name))[0] == 201
    if kind == "delay":
        await until(lambda: client.proxy.has_fired, SOON, "the event")
        assert client.heard == ["ADDED a"]
    await until(lambda: client.heard == heard, 2 * SOON, f"{heard}")


# --- the line ---------------------------------------------------------------------------------------------------------
async def test_what_is_asked_while_the_line_is_held_is_answered_when_it_heals(disturbed: Callable) -> None:
    client = await disturbed("cut-held", MAKE, seconds=2 * WHILE)
    begin = time.monotonic()
    assert (await client.make("a"))[0] == 201
    assert time.monotonic() - begin >= 2 * WHILE


async def test_a_connection_of_before_stays_dead_when_the_line_heals_and_a_new_one_lives(disturbed: Callable) -> None:
    client = await disturbed("cut-dead", MAKE, seconds=WHILE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.make("a"), 3 * WHILE)
    assert not client.proxy.is_down
    assert (await client.make("b"))[0] == 201
