"""The world around one operator, without the operator: an API server's namespace, who acts in it, and what happened in it.

    World                 one per session: the real API server and MLflow, and a watch on everything that changes
    └── Ledger            one per namespace: its objects as they are, and every create and delete, in their order

The ledger is made by a watch of its own, past the proxy: it sees what happened, whatever the operator was made to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import ssl
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import aiohttp
import yaml

Object = dict[str, Any]
T = TypeVar("T")
P = ParamSpec("P")

ROOT = Path(__file__).parents[3]
JOBS, RAYJOBS = "trainingjobs", "rayjobs"
PATHS = {JOBS: "apis/m3.dev/v1alpha1", RAYJOBS: "apis/ray.io/v1"}
PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds before each further try of a call to MLflow."""
TICK = 0.05
"""Seconds between two looks at what is waited for; looks are at memory, not at the API server."""


class NotSeen(AssertionError):
    """What was waited for did not come."""


async def until(what: Callable[[], T | None], seconds: float, name: str) -> T:
    """The first true value of `what`. Raises NotSeen after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > end:
            raise NotSeen(f"{name}: not within {seconds:g} s; last seen: {str(value)[:300]}")
        await asyncio.sleep(TICK)
    return value


class Change(NamedTuple):
    """A create or a delete."""

    version: int
    verb: str
    kind: str
    name: str
    uid: str


@dataclass
class Ledger:
    """What is, and what was, in one namespace."""

    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    _versions: set[int] = field(default_factory=set)

    def note(self, verb: str, kind: str, body: Object) -> None:
        meta = body["metadata"]
        key = (kind, meta["name"])
        version = int(meta["resourceVersion"])
        self._versions.add(version)
        if verb == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = body
        if verb in ("ADDED", "DELETED"):
            self.history.append(Change(version, verb, kind, meta["name"], meta["uid"]))

    def versions(self) -> list[str]:
        """Resource versions of all changes, oldest first. (Each kind is told of by a watch of its own.)"""
        return [str(version) for version in sorted(self._versions)]

    def get(self, kind: str, name: str) -> Object | None:
        return self.objects.get((kind, name))

    def of(self, kind: str) -> list[Object]:
        return [body for (found, _), body in sorted(self.objects.items()) if found == kind]


class Api:
    """The API server as its administrator uses it, past every proxy."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self.server = server
        self._session = session

    async def ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        headers = {"Authorization": "Bearer admin", "Content-Type": kind}
        data = json.dumps(body) if body is not None else None
        async with self._session.request(method, f"{self.server}/{path}", data=data, headers=headers) as answer:
            text = await answer.text()
            if answer.status == 404:
                return {}
            assert answer.status < 400, f"{method} {path}: {answer.status} {text}"
            return json.loads(text)

    async def version(self, kind: str) -> str:
        """The resource version of now."""
        return (await self.ask("GET", f"{PATHS[kind]}/{kind}?limit=1"))["metadata"]["resourceVersion"]

    async def watch(self, kind: str, version: str) -> AsyncIterator[tuple[str, Object]]:
        """Everything of a kind that happens after `version`, in all namespaces, for ever."""
        headers = {"Authorization": "Bearer admin"}
        while True:
            query = f"watch=true&resourceVersion={version}&allowWatchBookmarks=true"
            async with self._session.get(
                f"{self.server}/{PATHS[kind]}/{kind}?{query}",
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    assert event["type"] != "ERROR", event
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]


def patient(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Tried again where MLflow does not answer, as MLflow's own client does, which a job has: a busy server resets a
    connection now and then, and that is not what the plans are about."""

    @functools.wraps(call)
    async def tried_again(*args: P.args, **options: P.kwargs) -> T:
        for pause in PAUSES:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                return await call(*args, **options)
            await asyncio.sleep(pause)
        return await call(*args, **options)

    return tried_again


class Tracking:
    """MLflow as a job uses it: its run is got or created by (uid, attempt)."""

    def __init__(self, uri: str, session: aiohttp.ClientSession) -> None:
        self.uri = uri
        self._session = session
        self._experiments: dict[str, str] = {}

    async def _ask(self, path: str, **body: Any) -> Object:
        async with self._session.post(f"{self.uri}/api/2.0/mlflow/{path}", json=body) as answer:
            text = await answer.text()
            if answer.status >= 500:
                answer.raise_for_status()
            assert answer.status == 200, f"{path}: {answer.status} {text}"
            return json.loads(text)

    async def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            there = await self._ask("experiments/search", filter=f"name = '{name}'", max_results=1)
            found = there.get("experiments") or [await self._ask("experiments/create", name=name)]
            self._experiments[name] = found[0]["experiment_id"]
        return self._experiments[name]

    @patient
    async def runs(self, experiment: str) -> list[Object]:
        query = {"experiment_ids": [await self._experiment(experiment)], "order_by": ["attributes.start_time ASC"]}
        return (await self._ask("runs/search", **query, max_results=100)).get("runs", [])

    @patient
    async def start(self, experiment: str, tags: dict[str, str]) -> str:
        """Get or create the run of a job's attempt; its id."""
        for run in await self.runs(experiment):
            found = {tag["key"]: tag["value"] for tag in run["data"].get("tags", ())}
            if all(found.get(key) == tags[key] for key in ("m3.job.uid", "m3.job.attempt")):
                return run["info"]["run_id"]
        made = await self._ask(
            "runs/create",
            experiment_id=await self._experiment(experiment),
            start_time=int(time.time() * 1000),
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        return made["run"]["info"]["run_id"]

    @patient
    async def end(self, run: str, status: str, tags: dict[str, str], **metrics: float) -> None:
        await self._ask(
            "runs/log-batch",
            run_id=run,
            tags=[{"key": key, "value": value} for key, value in tags.items()],
            metrics=[{"key": key, "value": value, "timestamp": 0, "step": 0} for key, value in metrics.items()],
        )
        await self._ask("runs/update", run_id=run, status=status, end_time=int(time.time() * 1000))


class World:
    """What all plans share."""

    def __init__(self, server: Any, mlflow_uri: str, folder: Path) -> None:
        """`server` is the fixture `api_server`."""
        self.server = server
        self.folder = folder
        self._mlflow_uri = mlflow_uri
        self._ledgers: dict[str, Ledger] = {}
        self._roles = _roles(server.bin)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[World]:
        trust = ssl.create_default_context(cafile=str(self.server.certificate))
        # one line of a watch is a whole object; and each operator holds two watches
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=2**22) as session:
            self.session = session
            self.api = Api(f"https://127.0.0.1:{self.server.port}", session)
            async with aiohttp.ClientSession() as plain:
                self.tracking = Tracking(self._mlflow_uri, plain)
                since = {kind: await self.api.version(kind) for kind in (JOBS, RAYJOBS)}
                watches = [asyncio.ensure_future(self._follow(kind, version)) for kind, version in since.items()]
                try:
                    yield self
                finally:
                    for watch in watches:
                        watch.cancel()
                    await asyncio.gather(*watches, return_exceptions=True)

    async def _follow(self, kind: str, version: str) -> None:
        async for verb, body in self.api.watch(kind, version):
            self.ledger(body["metadata"]["namespace"]).note(verb, kind, body)

    def ledger(self, namespace: str) -> Ledger:
        return self._ledgers.setdefault(namespace, Ledger())

    async def namespace(self) -> str:
        """A new namespace, with the rights that the chart gives an operator in it."""
        name = f"fault-{uuid.uuid4().hex[:8]}"
        await self.api.ask("POST", "api/v1/namespaces", {"metadata": {"name": name}})
        for role in self._roles:
            plural = f"{role['kind'].lower()}s"
            path = f"apis/rbac.authorization.k8s.io/v1/namespaces/{name}/{plural}"
            await self.api.ask("POST", path, role | {"metadata": role["metadata"] | {"namespace": name}})
        return name


def _roles(tools: Path) -> list[Object]:
    """The chart's Role and RoleBinding for a watched namespace."""
    done = subprocess.run(
        [
            str(tools / "helm"), "template", "m3", str(ROOT / "charts" / "m3"), "--namespace=m3-system",
            "--set=watchNamespaces={anywhere}", "--show-only=templates/rbac.yaml", "--kube-version=1.34.3",
        ],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    roles = [role for role in yaml.safe_load_all(done.stdout) if role and role["metadata"]["namespace"] == "anywhere"]
    assert roles, done.stdout
    return roles
