"""A line to the API server on which watches never say anything; and which test comes last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientSession, web

OVER = web.AppKey("over", asyncio.Event)
SESSION = web.AppKey("session", ClientSession)
SERVER = web.AppKey("server", str)

HERE = Path(__file__).parent
ACCOUNT = HERE / "test_rights.py"
COLLECTED, LEFT_OUT = pytest.StashKey[set[Path]](), pytest.StashKey[set[Path]]()


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


# --- the account of the operator's rights -------------------------------------------------------------------------------
def pytest_make_collect_report(collector: pytest.Collector) -> None:
    if isinstance(collector, pytest.Module):
        collector.config.stash.setdefault(COLLECTED, set()).add(collector.path)


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash.setdefault(LEFT_OUT, set()).add(item.path)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    """It comes after everything that operators ask, and not at all where some of it is left out: it would say nothing."""
    result = yield
    account = [item for item in items if item.path == ACCOUNT]
    items[:] = [item for item in items if item.path != ACCOUNT]
    if is_whole(config):
        items.extend(account)
    elif account:
        config.hook.pytest_deselected(items=account)
    return result


def is_whole(config: pytest.Config) -> bool:
    """Whether every test of this folder is to run."""
    modules = set(HERE.glob("test_*.py"))
    named = any("::" in argument for argument in config.args)
    return (
        not named and modules <= config.stash.get(COLLECTED, set()) and not modules & config.stash.get(LEFT_OUT, set())
    )
