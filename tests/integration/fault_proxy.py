"""A line between one operator and the real kube-apiserver that fails once, at one known place.

    operator ──HTTP──→ FaultProxy ──HTTPS──→ kube-apiserver
                       counts every call and every watch event, keeps their history, carries out one Fault

A place is "the n-th call (or watch event) of its kind since the job was made", not "the n-th call of all": an operator has two
watches and a tick at the same time, and which of them calls first is chance; the n-th write of a status is not.

Nothing of the API is played here. What the proxy does not disturb goes to the real server and comes from it.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

Object = dict[str, Any]

KILLS = ("kill-before", "kill-after")
"""SIGKILL before the call reaches the server; after the server has done it, before the operator hears of it."""
EVENT_FAULTS = ("drop", "delay", "replay", "expired")
"""The event is lost; it and all behind it come late; it comes a second time, later; ERROR 410 comes instead of it."""
ANSWERS = ("409", "410", "429", "500", "504", "reset", "hang")
"""What a call is answered with, without reaching the server."""
LOST = ("reset-after",)
"""The server does the call, and the operator never hears of it."""
STALE = ("stale",)
"""A list is answered as it was `depth` changes ago."""
TRAVEL = ("travel",)
"""Killed after a call; to the operator that is started then, each list is once what it was `depth` changes ago."""
CUTS = ("cut-held", "cut-dead")
"""Nothing passes, and every connection stays open; when the line heals, what was held is delivered (as by TCP, which
sends again), or the connections of before stay silent for ever (as behind a firewall that has lost its state)."""

MUTATING = ("POST", "PATCH", "PUT", "DELETE")
DELAY = 5.0
"""Seconds that a delayed event, and all behind it, come late."""
AGAIN_AFTER = 3.0
"""Seconds until an event is replayed, behind whatever has come meanwhile."""
RETRY_AFTER = 2

_REASONS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    504: "Timeout",
}
_RESOURCE = re.compile(
    r"^/apis?(?:/(?P<group>[a-z0-9.-]+\.[a-z0-9.-]+|apps|batch))?/v[0-9a-z]+(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)
_HOP = {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "accept-encoding"}


class Place(NamedTuple):
    """The n-th of the calls, or of the watch events, of one kind in one phase."""

    phase: str
    what: str
    nth: int

    def __str__(self) -> str:
        return f"{self.phase}: {self.what} #{self.nth}"


@dataclass(frozen=True)
class Fault:
    """One disturbance, at one place."""

    kind: str
    place: Place
    seconds: float = 0.0
    """How long a cut lasts."""
    depth: int = 1
    """How many changes a stale list is behind."""

    @property
    def words(self) -> str:
        return f"{self.kind} {self.depth}" if self.kind in (*STALE, *TRAVEL) else self.kind


@dataclass
class Call:
    """A call, or a watch event, as the proxy has seen it."""

    at: float
    place: Place
    path: str
    status: int | str = 0
    """HTTP status; of an event its type."""

    @property
    def is_event(self) -> bool:
        return self.place.what.startswith("EVENT ")

    @property
    def verb(self) -> str:
        return self.place.what.split(" ")[0]

    @property
    def is_mutating(self) -> bool:
        return self.verb in MUTATING


def named(method: str, path: str, query: Any, agent: str) -> str:
    """What a request asks for, in words that are the same in every run: `PATCH trainingjobs/status`."""
    found = _RESOURCE.match(path)
    if found is None or (method == "GET" and found["plural"] == "namespaces"):
        return f"{method} {path}"
    resource = found["plural"] + (f"/{found['sub']}" if found["sub"] else "")
    verb = method
    if method == "GET" and not found["name"]:
        verb = "WATCH" if query.get("watch") in ("true", "1") else "LIST"
    # two clients live in the operator's process: the framework's, and its own
    return f"{verb} {resource}{' (kopf)' if 'kopf' in agent.lower() and verb == 'LIST' else ''}"


def status_object(code: int, message: str) -> Object:
    """What a kube-apiserver answers with where it fails."""
    details = {"retryAfterSeconds": RETRY_AFTER} if code == 429 else {}
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": _REASONS[code], "details": details, "code": code,
    }  # fmt: skip


@dataclass
class Line:
    """What all connections run through. Connections are told apart by the client's port."""

    down: bool = False
    forgets: bool = False
    """Whether connections that lived while it was down are dead afterwards."""
    healed: asyncio.Event = field(default_factory=asyncio.Event)
    ports: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)

    def cut(self, forgets: bool) -> None:
        self.down, self.forgets = True, forgets
        self.dead = set(self.ports) if forgets else set()

    def heal(self) -> None:
        self.down = False
        self.healed.set()

    async def passes(self, port: int) -> None:
        """Return when something may pass on this connection; perhaps never."""
        if self.down and self.forgets:
            self.dead.add(port)
        while self.down and port not in self.dead:
            await self.healed.wait()
        if port in self.dead:
            await asyncio.Event().wait()  # ends when the client gives up, which cancels the handler


class FaultProxy:
    """One proxy for one operator. To be made, used and closed in one event loop."""

    def __init__(
        self,
        server: str,
        session: aiohttp.ClientSession,
        fault: Fault | None = None,
        kill: Callable[[], Coroutine[Any, Any, object]] | None = None,
        versions: Callable[[], list[str]] = list,
    ) -> None:
        """
        server: URL of the kube-apiserver.
        session: trusts the server's certificate, reads lines of a watch of any length.
        kill: sends SIGKILL to the operator, and returns when it is dead.
        versions: resource versions of the changes in the operator's namespace so far, oldest first; for stale lists.
        """
        self._server = server
        self._session = session
        self.fault = fault
        self._kill = kill
        self._versions = versions
        self.phase = "start"
        self.calls: list[Call] = []
        self.fired_at: float | None = None
        self.over_at: float | None = None
        """When the fault had been carried out: of a cut, when the line was healed."""
        self.watches: Counter[str] = Counter()
        """Watches that are open now, by resource."""
        self._counts: Counter[tuple[str, str]] = Counter()
        self._past: str | None = None
        self._told_of_the_past: set[str] = set()
        self._line = Line()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    # --- its life -----------------------------------------------------------------------------------------------------
    async def start(self) -> FaultProxy:
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # a handler ends with its client: what hangs, hangs no longer than somebody waits for it
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def has_fired(self) -> bool:
        return self.fired_at is not None

    @property
    def is_over(self) -> bool:
        return self.over_at is not None

    @property
    def is_down(self) -> bool:
        return self._line.down

    @property
    def last_activity(self) -> float:
        return self.calls[-1].at if self.calls else 0.0

    # --- what passes --------------------------------------------------------------------------------------------------
    def _note(self, what: str, path: str, status: int | str = 0) -> Call:
        self._counts[self.phase, what] += 1
        call = Call(time.monotonic(), Place(self.phase, what, self._counts[self.phase, what]), path, status)
        self.calls.append(call)
        return call

    def _strikes(self, call: Call, kinds: tuple[str, ...]) -> bool:
        """Whether the fault, being one of `kinds`, is due here. It strikes once."""
        fault = self.fault
        if self.has_fired or fault is None or fault.kind not in kinds or fault.place != call.place:
            return False
        self.fired_at = time.monotonic()
        if fault.kind not in (*CUTS, "replay"):
            self.over_at = self.fired_at
        return True

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        agent = request.headers.get("User-Agent", "")
        call = self._note(named(request.method, request.path, request.query, agent), request.path)
        port = _port(request)
        self._line.ports.add(port)
        if self._strikes(call, CUTS):
            self._cut()
        await self._line.passes(port)
        if self._strikes(call, ANSWERS):
            return await self._answer_with(request, call)
        if self._strikes(call, ("kill-before",)):
            await self._kill_operator()
        if call.verb == "WATCH":
            return await self._watch(request, call, port)
        return await self._pass_on(request, call, port)

    async def _answer_with(self, request: web.Request, call: Call) -> web.StreamResponse:
        assert self.fault is not None
        call.status = kind = self.fault.kind
        if kind == "hang":
            await asyncio.Event().wait()
        if kind == "reset":
            _reset(request)
            return web.Response(status=500)
        headers = {"Retry-After": str(RETRY_AFTER)} if kind == "429" else None
        return web.json_response(
            status_object(int(kind), f"{call.place}: made to fail"), status=int(kind), headers=headers
        )

    async def _pass_on(self, request: web.Request, call: Call, port: int) -> web.StreamResponse:
        path = request.path_qs
        if version := self._version_to_show(call):
            path += f"{'&' if request.query_string else '?'}resourceVersion={version}&resourceVersionMatch=Exact"
        content = await request.read()
        async with self._session.request(
            request.method,
            f"{self._server}{path}",
            headers=_headers(request),
            data=content or None,
            skip_auto_headers=("Content-Type",),  # Kubernetes takes a body of no type for JSON
        ) as answer:
            body, call.status = await answer.read(), answer.status
            kind = answer.headers.get("Content-Type", "application/json")
        if self._strikes(call, ("kill-after", *TRAVEL)):
            await self._kill_operator()
        if self._strikes(call, LOST):
            _reset(request)
        await self._line.passes(port)
        return web.Response(status=call.status, body=body, headers={"Content-Type": kind})

    def _version_to_show(self, call: Call) -> str | None:
        """The resource version of a list that is to be stale: the API server still knows how it looked."""
        if self._strikes(call, STALE):
            return self._version_before()
        if call.verb == "LIST" and self._past and call.place.what not in self._told_of_the_past:
            self._told_of_the_past.add(call.place.what)
            return self._past
        return None

    def _version_before(self) -> str:
        assert self.fault is not None
        known = self._versions()
        return known[max(len(known) - 1 - self.fault.depth, 0)]

    async def _watch(self, request: web.Request, call: Call, port: int) -> web.StreamResponse:
        resource = call.place.what.split(" ")[1]
        async with self._session.get(
            f"{self._server}{request.path_qs}", headers=_headers(request), timeout=aiohttp.ClientTimeout(total=None)
        ) as answer:
            call.status = answer.status
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            self.watches[resource] += 1
            try:
                await self._stream(answer, response, resource, port)
            finally:
                self.watches[resource] -= 1
        return response

    async def _stream(self, answer: Any, response: web.StreamResponse, resource: str, port: int) -> None:
        async for line in answer.content:
            kind = json.loads(line).get("type", "")
            if kind in ("ADDED", "MODIFIED", "DELETED"):
                event = self._note(f"EVENT {resource}", "", kind)
                if self._strikes(event, ("expired",)):
                    gone = {"type": "ERROR", "object": status_object(410, "too old resource version")}
                    await response.write(json.dumps(gone).encode() + b"\n")
                    return
                if not await self._arrives(event, line, response):
                    continue
            await self._line.passes(port)
            await response.write(line)

    async def _arrives(self, event: Call, line: bytes, response: web.StreamResponse) -> bool:
        """Whether an event is to be passed on, after what befalls it."""
        if self._strikes(event, CUTS):
            self._cut()
        elif self._strikes(event, ("drop",)):
            return False
        elif self._strikes(event, ("delay",)):
            await asyncio.sleep(DELAY)
        elif self._strikes(event, ("replay",)):
            self._later(self._again(line, response))
        return True

    async def _again(self, line: bytes, response: web.StreamResponse) -> None:
        await asyncio.sleep(AGAIN_AFTER)
        await response.write(line)
        self.over_at = time.monotonic()

    # --- what happens -------------------------------------------------------------------------------------------------
    async def _kill_operator(self) -> None:
        """Never returns to a client that is dead: the handler is cancelled as its connection ends."""
        assert self._kill is not None
        assert self.fault is not None
        if self.fault.kind in TRAVEL:
            self._past = self._version_before()
        await asyncio.shield(self._later(self._kill()))
        raise asyncio.CancelledError

    def _cut(self) -> None:
        assert self.fault is not None
        self._line.cut(forgets=self.fault.kind == "cut-dead")
        self._later(self._heal_after(self.fault.seconds))

    async def _heal_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.over_at = time.monotonic()
        self._line.heal()

    def _later(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """In a task of its own, which outlives the connection that it began on."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        return task


def _headers(request: web.Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.lower() not in _HOP}


def _port(request: web.Request) -> int:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return peer[1] if peer else 0


def _reset(request: web.Request) -> None:
    """End the connection with RST, not FIN: what was on its way is lost."""
    if (transport := request.transport) is None:
        return
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
