"""A line to the API server on which watches never say anything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientSession, web

OVER = web.AppKey("over", asyncio.Event)
SESSION = web.AppKey("session", ClientSession)
SERVER = web.AppKey("server", str)


async def _pass_on(request: web.Request) -> web.StreamResponse:
    if request.query.get("watch") == "true":
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await request.app[OVER].wait()
        return response
    session, server = request.app[SESSION], request.app[SERVER]
    headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")}
    content = await request.read()
    async with session.request(
        request.method, f"{server}{request.path_qs}", headers=headers, data=content or None, ssl=False
    ) as answer:
        kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
        return web.Response(status=answer.status, body=await answer.read(), headers=kept)


@pytest.fixture
def deaf_proxy(namespace, tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig that leads to the API server by way of a proxy that keeps every watch event to itself."""
    ready, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    found: dict[str, int] = {}

    async def serve() -> None:
        application = web.Application(client_max_size=2**24)
        application[OVER] = over
        application[SESSION] = ClientSession(auto_decompress=True)
        application[SERVER] = f"https://127.0.0.1:{namespace.server.port}"
        application.router.add_route("*", "/{path:.*}", _pass_on)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found["port"] = runner.addresses[0][1]
        ready.set()
        await over.wait()
        await runner.cleanup()
        await application[SESSION].close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    document = yaml.safe_load(namespace.server.kubeconfig("operator").read_text())
    document["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{found['port']}"}
    path = tmp_path / "deaf.kubeconfig"
    path.write_text(yaml.safe_dump(document))
    yield path
    loop.call_soon_threadsafe(over.set)
    thread.join(10)
