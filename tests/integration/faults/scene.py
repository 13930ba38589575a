"""One plan on the stage: an operator behind a proxy, everybody else who acts in its namespace, and what came of it.

Played here, as their originals act and only where they act: KubeRay (by the suite's FakeKubeRay), the job's process towards
MLflow, the garbage collector, and the kubelet, which starts an operator again that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from harness import unused_port
from integration.conftest import FakeKubeRay, Namespace
from integration.fault_proxy import FaultProxy
from integration.faults.nursery import FORKS, become
from integration.faults.world import JOBS, PATHS, RAYJOBS, NotSeen, Object, World, until
from kubernetes import client

JOB = "fraud-rf"
LIMIT = 100.0
"""Seconds for whatever must come. The longest that is known: a hung first call of the framework's (30 s) and its back-off, a
hung watch (70 s); twice that on a busy machine would be a fault by itself."""
CALM = 0.2
"""Seconds without a call or an event after which an operator is taken to have nothing more to say."""


class Wait(NamedTuple):
    """Something that the operator had to bring about."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass
class Process:
    """An operator as the kubelet runs it: started again whenever it ends."""

    command: list[str]
    """A module's name, and its arguments."""
    environment: dict[str, str]
    folder: Path
    starts: list[float] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    """How it ended each time, but for the end of the plan: -9 for SIGKILL."""
    _running: BaseProcess | None = None
    _keeper: asyncio.Task[None] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "operator.log"

    async def start(self) -> None:
        await self._spawn()
        self._keeper = asyncio.ensure_future(self._keep())

    async def _spawn(self) -> None:
        self.starts.append(time.monotonic())
        self._running = FORKS.Process(
            target=become, args=(self.command, self.environment, self.folder, self.log), daemon=True
        )
        self._running.start()

    async def _keep(self) -> None:
        while True:
            assert self._running is not None
            self.exits.append(await _exit_code(self._running))
            if len(self.exits) > 1:
                await asyncio.sleep(2.0)  # the kubelet's back-off, in short
            await self._spawn()

    async def kill(self) -> None:
        assert self._running is not None
        before = len(self.exits)
        self._running.kill()
        await until(lambda: len(self.exits) > before, 10, "the end of a killed operator")

    async def end(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._running is not None:
            self._running.kill()
            await _exit_code(self._running)


async def _exit_code(process: BaseProcess) -> int:
    """When it has ended: -9 for SIGKILL."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@dataclass
class Scene:
    """What a workload's script acts on."""

    world: World
    namespace: str
    proxy: FaultProxy
    process: Process
    waits: list[Wait] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    """MLflow run of each RayJob that has started."""
    mishaps: list[str] = field(default_factory=list)
    """What has failed behind the stage, where nothing must."""
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = self.world.ledger(self.namespace)
        self._sync_api = self.world.server.api()
        objects = client.CustomObjectsApi(self._sync_api)
        space = Namespace(self.namespace, self.world.server, objects, client.CoreV1Api(self._sync_api))
        self._kuberay = FakeKubeRay(space)
        self._stagehands = asyncio.ensure_future(self._set_in_motion())
        self._stagehands.add_done_callback(self._note_mishap)

    async def close(self) -> None:
        tasks = [self._stagehands, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sync_api.close()

    def _note_mishap(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.mishaps.append(f"{type(error).__name__}: {error}")

    # --- what a user does ---------------------------------------------------------------------------------------------
    async def create(self, **spec: Any) -> None:
        workload = {
            "data": {"uri": "sample://transactions?rows=1000&seed=7", "target": "TX_FRAUD"},
            "tracking": {"experimentName": self.namespace},
        }
        body = {
            "apiVersion": "m3.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": JOB},
            "spec": workload | spec,
        }
        self.proxy.phase = "life"
        await self._ask("POST", JOBS, "", body)
        await until(lambda: self.job, 20, "the job in the ledger")

    async def patch(self, **spec: Any) -> None:
        await self._ask("PATCH", JOBS, JOB, {"spec": spec}, "application/merge-patch+json")

    async def delete(self) -> None:
        await self._ask("DELETE", JOBS, JOB)

    async def _ask(self, method: str, kind: str, name: str, body: Object | None = None, content: str = "") -> Object:
        path = f"{PATHS[kind]}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")
        return await self.world.api.ask(method, path, body, content or "application/json")

    # --- what is to be seen -------------------------------------------------------------------------------------------
    @property
    def job(self) -> Object | None:
        return self.ledger.get(JOBS, JOB)

    @property
    def status(self) -> Object:
        return (self.job or {}).get("status") or {}

    def has(self, kind: str, status: str = "True", reason: str | None = None) -> bool:
        found = [condition for condition in self.status.get("conditions", ()) if condition["type"] == kind]
        return any(c["status"] == status and reason in (None, c["reason"]) for c in found)

    def rayjobs(self) -> list[Object]:
        """The RayJobs that are of some job."""
        return [body for body in self.ledger.of(RAYJOBS) if _owner(body)]

    def rayjob(self, attempt: int) -> Object | None:
        return next((body for body in self.rayjobs() if _attempt(body) == attempt), None)

    async def expect(self, name: str, what: Callable[[], object]) -> None:
        """Wait until the operator has brought `what` about."""
        begin = time.monotonic()
        cut = self.proxy.fault.seconds if self.proxy.fault else 0.0
        try:
            await until(what, LIMIT + cut, name)
        finally:
            self.waits.append(Wait(name, begin, time.monotonic()))

    async def calm(self, seconds: float = CALM, limit: float = 5.0) -> None:
        """Until the operator has said nothing for a while. Only for order: nothing that is judged hangs on it."""
        with contextlib.suppress(NotSeen):
            await until(lambda: time.monotonic() - self.proxy.last_activity > seconds, limit, "calm")

    # --- what goes on by itself ---------------------------------------------------------------------------------------
    async def _set_in_motion(self) -> None:
        """Each RayJob starts when it is there, as often as there is one; what has lost its owner goes."""
        done = 0
        while True:
            for change in self.ledger.history[done:]:
                done += 1
                await self._react(change.verb, change.kind, change.name)
            await asyncio.sleep(TICK_OF_OTHERS)

    async def _react(self, verb: str, kind: str, name: str) -> None:
        if kind == JOBS:
            for body in self.rayjobs() if verb == "DELETED" else ():
                await self._collect(body)
        elif verb == "DELETED":
            if (task := self._tasks.pop(name, None)) is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await self._sigterm(name)
        elif (body := self.ledger.get(RAYJOBS, name)) and _owner(body) and not await self._collect(body):
            self._tasks[name] = asyncio.ensure_future(self._start(body))
            self._tasks[name].add_done_callback(self._note_mishap)

    async def _collect(self, rayjob: Object) -> bool:
        """The garbage collector's part: whether a RayJob goes because its owner is gone. It asks, as the real one does."""
        owner = await self._ask("GET", JOBS, JOB)
        if owner and owner["metadata"]["uid"] == _owner(rayjob):
            return False
        await self._ask("DELETE", RAYJOBS, rayjob["metadata"]["name"])
        return True

    async def _sigterm(self, rayjob: str) -> None:
        """What a job's process does in its last second."""
        if run := self.runs.pop(rayjob, None):
            await self.world.tracking.end(run, "KILLED", {})

    async def _start(self, rayjob: Object) -> None:
        """KubeRay takes some time: the operator notes a RayJob down before, if it is there to do so."""
        name, attempt = rayjob["metadata"]["name"], _attempt(rayjob)
        with contextlib.suppress(NotSeen):
            await until(lambda: self._is_noted(name), KUBERAY_TAKES, "the attempt in the status")
        for step in (self._kuberay.initializing, self._kuberay.cluster_ready):
            await self.calm(limit=1.0)
            if not await self._as_kuberay(step, rayjob):
                return
        await self.calm(limit=1.0)
        uid = _owner(rayjob)
        tags = {"m3.job.uid": uid, "m3.job.attempt": str(attempt), "m3.operator": operator_id(self.namespace)}
        progress = {"m3.job.name": JOB, "m3.job.namespace": self.namespace, "m3.progress.percentage": "60"}
        run = await self.world.tracking.start(self.namespace, tags | progress)
        self.runs[name] = run
        await self._as_kuberay(self._kuberay.running, rayjob)

    def _is_noted(self, rayjob: str) -> bool:
        return any(attempt["rayJobName"] == rayjob for attempt in self.status.get("attempts", ()))

    async def succeed(self) -> None:
        """The job's process ends well: its run first, as in life, and then what KubeRay says of it."""
        tags = {"m3.model.name": "fraud_detector", "m3.model.version": "3", "m3.data.rows": "1000"}
        await self._end("FINISHED", tags | {"m3.progress.percentage": "100"}, self._kuberay.succeeded)

    async def crash(self) -> None:
        """It ends as a process does that is killed: without a word."""
        await self._end("FAILED", {}, lambda rayjob: self._kuberay.failed(rayjob, "Killed"))

    async def _end(self, status: str, tags: dict[str, str], say: Callable[[Object], None]) -> None:
        for name in [name for name in self.runs if self.ledger.get(RAYJOBS, name)]:
            await self.world.tracking.end(self.runs.pop(name), status, tags, average_precision=0.5)
            if (rayjob := self.ledger.get(RAYJOBS, name)) is not None:
                await self._as_kuberay(say, rayjob)

    async def _as_kuberay(self, say: Callable[[Object], None], rayjob: Object) -> bool:
        """False where the RayJob is gone."""
        try:
            await asyncio.to_thread(say, rayjob)
        except client.ApiException as error:
            if error.status != 404:
                raise
            return False
        return True


KUBERAY_TAKES = 0.5
TICK_OF_OTHERS = 0.05


def _owner(rayjob: Object) -> str:
    """uid of the job that a RayJob belongs to; empty for one that is no job's."""
    return next((reference["uid"] for reference in rayjob["metadata"].get("ownerReferences", ())), "")


def _attempt(rayjob: Object) -> int:
    return int(rayjob["metadata"].get("labels", {}).get("m3.dev/attempt", "1"))


def operator_id(namespace: str) -> str:
    """Of its own for each plan: an operator ends the runs that carry its id and have no job."""
    return f"{namespace}/m3"


def our_operator(world: World, namespace: str, proxy: FaultProxy, folder: Path) -> Process:
    """`python -m m3_operator` with the chart's rights and its default settings, led through the proxy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("M3_", "KUBE"))}
    environment |= {
        "KUBECONFIG": str(kubeconfig(proxy.url, "operator", folder)),
        "M3_WATCH_NAMESPACES": namespace,
        "M3_NAMESPACE": "m3-system",
        "M3_OPERATOR_ID": operator_id(namespace),
        "M3_MLFLOW_TRACKING_URI": world.tracking.uri,
        "M3_PROBE_PORT": str(unused_port()),
    }
    return Process(["m3_operator"], environment, folder)


def naive_operator(_: World, namespace: str, proxy: FaultProxy, folder: Path) -> Process:
    """`kopf run naive_operator.py`, with more rights than it needs."""
    port = str(unused_port())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("M3_", "KUBE"))}
    environment |= {"KUBECONFIG": str(kubeconfig(proxy.url, "admin", folder)), "M3_PROBE_PORT": port}
    options = ["--standalone", f"--namespace={namespace}", f"--liveness=http://127.0.0.1:{port}/healthz"]
    program = str(Path(__file__).with_name("naive_operator.py"))
    return Process(["kopf", "run", *options, program], environment, folder)


def kubeconfig(url: str, user: str, folder: Path) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        f"""apiVersion: v1
kind: Config
clusters: [{{name: proxy, cluster: {{server: "{url}"}}}}]
users: [{{name: {user}, user: {{token: {user}}}}}]
contexts: [{{name: proxy, context: {{cluster: proxy, user: {user}}}}}]
current-context: proxy
"""
    )
    return path
