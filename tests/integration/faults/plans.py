"""Every plan: which faults there are is read off an undisturbed run, and each is played by itself, beside others.

reference runs ──→ places that all of them have ──→ Fault at each ──→ one namespace, proxy and operator per plan ──→ Row
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from integration.fault_proxy import (
    ANSWERS,
    CUTS,
    EVENT_FAULTS,
    KILLS,
    LOST,
    STALE,
    TRAVEL,
    Call,
    Fault,
    FaultProxy,
    Place,
)
from integration.faults.oracle import difference, one_each, outcome, went_astray
from integration.faults.scene import LIMIT, Process, Scene, our_operator
from integration.faults.workloads import START, Workload
from integration.faults.world import JOBS, PATHS, RAYJOBS, NotSeen, Object, World, until

Operators = Callable[[World, str, FaultProxy, Path], Process]

DROP_HEALS, CUT_HEALS = 20.0, 75.0
"""Seconds that the issue allows."""
CUT = 120.0
DEPTHS = (1, 2, 3, 4, 5)
REFERENCES = 3
TRIES = 3
STRIKES = 25.0
"""Seconds behind the end of a workload in which its last calls come: a resync's, two resyncs later at most."""
STARTS = 3
"""Operators that start at a time: Python's start is all CPU, and whoever starts beside twenty others is late for everything."""


class NotStruck(NotSeen):
    """The operator has not come by the fault's place."""


@dataclass
class Run:
    """One workload from its beginning to its end."""

    outcome: Object
    calls: list[Call]
    waits: dict[str, float]
    """Seconds that each thing took which the operator had to bring about."""


@dataclass
class Row:
    """A plan, and what came of it."""

    workload: str
    fault: str
    place: str
    converged: bool = False
    seconds: float = 0.0
    healed_seconds: float | None = None
    """Of what the operator owed: the longest delay behind the undisturbed run; for a cut, counted from the healed line."""
    restarts: int | None = None
    """Times that the operator has ended by itself, and was started again, if any."""
    tries: int | None = None
    """Times that the plan was played, where the operator did not always come by the fault's place."""
    note: str = ""

    @property
    def kind(self) -> str:
        return self.fault.split(" ")[0]

    def as_json(self) -> Object:
        return {name: value for name, value in vars(self).items() if value not in (None, "")}


@dataclass
class Stage:
    """Plays runs, some at a time."""

    world: World
    operators: Operators = our_operator
    starting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STARTS))
    _played: int = 0

    @contextlib.asynccontextmanager
    async def _set(self, fault: Fault | None):
        """A scene with everything in its place, and nothing left of it afterwards."""
        namespace = await self.world.namespace()
        self._played += 1
        folder = self.world.folder / namespace
        folder.mkdir()
        process: Process | None = None

        async def kill() -> None:
            assert process is not None
            await process.kill()

        ledger = self.world.ledger(namespace)
        api = self.world.api
        proxy = FaultProxy(api.server, self.world.session, fault, kill, ledger.versions)
        await proxy.start()
        process = self.operators(self.world, namespace, proxy, folder)
        await api.ask("POST", f"{PATHS[RAYJOBS]}/namespaces/{namespace}/{RAYJOBS}", BYSTANDER)
        await until(lambda: ledger.get(RAYJOBS, "bystander"), 20, "the ledger")
        scene = Scene(self.world, namespace, proxy, process)
        try:
            yield scene
        finally:
            await process.end()
            await scene.close()
            await proxy.close()
            await self._sweep(namespace)

    async def _sweep(self, namespace: str) -> None:
        for kind in (JOBS, RAYJOBS):
            await self.world.api.ask("DELETE", f"{PATHS[kind]}/namespaces/{namespace}/{kind}")

    async def _awake(self, scene: Scene) -> None:
        """Until the operator has started, or stands where it is made to fail before that."""
        async with self.starting:
            await scene.process.start()
            watches = scene.proxy.watches
            await until(
                lambda: (watches[JOBS] and watches[RAYJOBS]) or scene.proxy.has_fired, 120, "the operator's start"
            )
            await scene.calm()

    async def reference(self, workload: Workload) -> Run:
        """The undisturbed run."""
        async with self._set(None) as scene:
            await self._awake(scene)
            await workload.script(scene)
            await self._at_rest(scene)
            found = await self._outcome(scene)
            assert not one_each(found), found
            assert not scene.process.exits, scene.process.log.read_text()
            return Run(found, scene.proxy.calls, {wait.name: wait.seconds for wait in scene.waits})

    async def _outcome(self, scene: Scene) -> Object:
        return outcome(scene, await self.world.tracking.runs(scene.namespace))

    async def _at_rest(self, scene: Scene) -> None:
        """Until an operator that was started again has had its first look, and nothing more is done."""
        proxy, starts = scene.proxy, scene.process.starts

        def looked() -> bool:
            lists = [call.at for call in proxy.calls if call.place.what.startswith(f"LIST {JOBS}")]
            return bool(lists) and lists[-1] > starts[-1]

        def quiet() -> bool:
            doing = [call.at for call in proxy.calls if call.is_mutating or call.is_event]
            return time.monotonic() - max([*doing, starts[-1]]) > REST

        await until(looked, LIMIT, "the look around of an operator that was started again")
        await until(quiet, LIMIT, "rest")

    async def play(self, workload: Workload, fault: Fault, reference: Run) -> Row:
        """Whether the operator asks once more may hang on a moment: where it has not, nothing was tested, so once more."""
        for tries in range(1, TRIES + 1):
            row = Row(workload.name, fault.words, str(fault.place), tries=tries if tries > 1 else None)
            if await self._play(row, workload, fault, reference):
                break
        return row

    async def _play(self, row: Row, workload: Workload, fault: Fault, reference: Run) -> bool:
        """Fill in the row; False where the fault has not struck, though nothing else went wrong."""
        begin = time.monotonic()
        async with self._set(fault) as scene:
            error = await self._verdict(row, scene, workload, reference)
            exits = [code for code in scene.process.exits if code != -9]
            row.restarts = len(exits) or None
        row.converged = error is None and not scene.mishaps
        notes = [error and f"{type(error).__name__}: {error}", exits and f"ended by itself: {exits}"]
        row.note = "; ".join(str(note) for note in [*notes, *scene.mishaps] if note)
        row.seconds = round(time.monotonic() - begin, 1)
        return not isinstance(error, NotStruck)

    async def _verdict(self, row: Row, scene: Scene, workload: Workload, reference: Run) -> Exception | None:
        """What was waited for in vain says little by itself: a second RayJob may have put its word over the first one's."""
        try:
            await self._judge(row, scene, workload, reference)
        except NotSeen as error:
            return type(error)("; ".join([str(error), *one_each(await self._outcome(scene))]))
        except AssertionError as error:
            return error
        return None

    async def _judge(self, row: Row, scene: Scene, workload: Workload, reference: Run) -> None:
        """Raises AssertionError where the run has not come to what the reference came to."""
        proxy, fault = scene.proxy, scene.proxy.fault
        assert fault is not None
        await self._awake(scene)
        watch = asyncio.ensure_future(_alive_during(scene)) if fault.kind in CUTS else None
        try:
            await workload.script(scene)
            await self._struck(proxy)
            await until(lambda: proxy.is_over, LIMIT + fault.seconds, "the fault itself has not ended")
            await self._at_rest(scene)
            await self._reaches(scene, reference)
        finally:
            row.healed_seconds = _healed(scene, reference)
            if watch is not None:
                watch.cancel()
        _in_time(row, scene)
        if watch is not None and watch.done() and not watch.cancelled():
            watch.result()

    async def _struck(self, proxy: FaultProxy) -> None:
        try:
            await until(lambda: proxy.has_fired, STRIKES, "the fault's place")
        except NotSeen as error:
            raise NotStruck(str(error)) from error

    async def _reaches(self, scene: Scene, reference: Run) -> None:
        end = time.monotonic() + LIMIT
        while True:
            found = await self._outcome(scene)
            assert not (twice := one_each(found)), "; ".join(twice)
            told = difference(found, reference.outcome)
            if not told:
                return
            assert not went_astray(found, reference.outcome), told
            assert time.monotonic() < end, told
            await asyncio.sleep(0.5)


REST = 1.0
"""Seconds without a write or an event after which a run is over: longer than the operator's first back-off."""

BYSTANDER: Object = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "bystander"},
    "spec": {"entrypoint": "python -m of.somebody_else"},
}
"""A RayJob of nobody's job, in the same namespace: to be there at the end as it was at the beginning."""


async def _alive_during(scene: Scene) -> None:
    """The kubelet's part: `/healthz` must answer all the time, else it would start the operator again."""
    port = scene.process.environment["M3_PROBE_PORT"]
    while True:
        async with scene.world.session.get(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.status == 200, f"/healthz: {answer.status} {await answer.text()}"
        await asyncio.sleep(5)


def _healed(scene: Scene, reference: Run) -> float | None:
    proxy = scene.proxy
    if proxy.fired_at is None or proxy.fault is None:
        return None
    if proxy.fault.kind in CUTS:
        over = proxy.over_at
        later = [wait.end - over for wait in scene.waits if over is not None and wait.end >= over]
        return round(later[0], 1) if later else None
    late = [wait.seconds - reference.waits.get(wait.name, 0.0) for wait in scene.waits if wait.end >= proxy.fired_at]
    return round(max([*late, 0.0]), 1)


def _in_time(row: Row, scene: Scene) -> None:
    assert scene.proxy.fault is not None
    kind, healed = scene.proxy.fault.kind, row.healed_seconds or 0.0
    if kind == "drop":
        assert healed <= DROP_HEALS, f"a dropped event healed after {healed:g} s"
    if kind in CUTS:
        assert healed <= CUT_HEALS, f"the cut healed {healed:g} s after the line"
        assert not scene.process.exits, f"the operator has ended: {scene.process.exits}"


# --- which plans there are --------------------------------------------------------------------------------------------
def common_places(runs: Iterable[Run], phase: str) -> list[tuple[Place, Call]]:
    """The places of a phase that every one of the runs has, in the order of the first. (A slow run has a tick more.)"""
    first, *others = [[call for call in run.calls if call.place.phase == phase] for run in runs]
    return [(c.place, c) for c in first if all(c.place in {call.place for call in other} for other in others)]


def faults_at(call: Call) -> Iterator[Fault]:
    """Everything that can befall one call, or one event."""
    kinds: list[str] = []
    if call.is_event:
        kinds += EVENT_FAULTS
    else:
        kinds += ANSWERS
    if call.is_mutating:
        kinds += (*KILLS, *LOST)
    yield from (Fault(kind, call.place) for kind in kinds)
    if call.verb == "LIST" and call.place.phase == "life":
        yield from (Fault(kind, call.place, depth=depth) for kind in STALE for depth in DEPTHS)
    if call.is_mutating and "events" not in call.place.what:
        yield from (Fault(kind, call.place, depth=depth) for kind in TRAVEL for depth in DEPTHS)


def cuts(places: list[tuple[Place, Call]], seconds: float) -> Iterator[Fault]:
    """The line is cut as the RayJob is to be made, and as the operator is about to hear the last news of one."""
    made = next(place for place, call in places if call.place.what == f"POST {RAYJOBS}")
    *_, news = (place for place, call in places if call.place.what == f"EVENT {RAYJOBS}")
    yield from (Fault(kind, place, seconds=seconds) for place in (made, news) for kind in CUTS)


def plans_of(workload: Workload, runs: list[Run], seconds: float = CUT) -> list[Fault]:
    """Every plan of a workload."""
    places = common_places(runs, "start" if workload is START else "life")
    faults = [fault for _, call in places for fault in faults_at(call)]
    return [*(cuts(places, seconds) if workload is not START else ()), *faults]
