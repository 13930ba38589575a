"""Gather, decide, do: what one job needs.

Whatever happens (an event, a timer, the resync) ends as a key in the work queue, and each key takes the same way:

    newest job ─→ gather: its RayJob, its MLflow run ─→ reconcile() ─→ POST, label, delete ─→ one status write ─→ events
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from m3_operator.api import labels
from m3_operator.api.meta import ObjectMeta
from m3_operator.api.reasons import Reason
from m3_operator.cluster import Cluster
from m3_operator.draft import Event, Observed, Plan, Verdict, is_recorded
from m3_operator.errors import ClusterError, Conflict, Refused, TrackingError
from m3_operator.metrics import Metrics
from m3_operator.mlflow_run import NoRun, RegisteredModel, Run
from m3_operator.pod_status import Diagnosis, memory_kill
from m3_operator.rayjob_status import Child, Failure, Stage, observe, refused_by_kubernetes
from m3_operator.reconcile import attempt_to_look_at, reconcile, refuse, wants_nothing, wants_pods, wants_run
from m3_operator.resources import names
from m3_operator.resync import Resync
from m3_operator.settings import Settings
from m3_operator.store import Key
from m3_operator.tracking import Tracking
from m3_operator.workqueue import PATIENCE, Workqueue
from m3_operator.world import Facts, Reading, Subject, World, has_time_to_live, is_at_rest, is_new, key_of, read, slim

logger = logging.getLogger(__name__)

WORKERS = 8
"""Jobs at a time: each mostly waits for the API server, and more would only wait there instead of here, before all others."""
LISTED_PER_SECOND = 500
"""From 5,000 unsettled jobs on the resync comes less often: a list of 10,000, with their RayJobs, is 80 MB."""
HEARTBEAT = Key("", "heartbeat")
"""A key of no job: goes through the queue at each resync, and so shows that the queue moves."""

Object = dict[str, Any]


class Controller:
    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        tracking: Tracking,
        metrics: Metrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._tracking = tracking
        self._metrics = metrics
        self._clock = clock
        self._world = World()
        self._idle: dict[Key, tuple[Subject, Facts]] = {}
        """Jobs that needed nothing when they were last looked at, and what was known of them then."""
        self._resync = Resync(settings, cluster, tracking, metrics, self._world, clock)
        self._queue: Workqueue[Key] = Workqueue(self._attend)
        metrics.watch(self._queue)

    # --- what is seen -------------------------------------------------------------------------------------------------
    def job_seen(self, body: Object) -> None:
        key, version = key_of(body), body["metadata"]["resourceVersion"]
        if is_at_rest(body) and not has_time_to_live(body):
            self._world.jobs.drop(key, version)
            return
        if self._world.jobs.put(key, slim(body), version):
            self._queue.add(key, urgent=is_new(body))

    def job_gone(self, body: Object) -> None:
        self._world.jobs.drop(key_of(body), body["metadata"]["resourceVersion"])

    def rayjob_seen(self, body: Object) -> None:
        child = observe(body)
        is_news = self._world.children.put(Key(child.namespace, child.name), child, child.resource_version)
        # one that nobody has taken up yet says no more than our own POST, whose answer comes later than this event
        if is_news and child.stage is not Stage.CREATED:
            self._queue.add(Key(child.namespace, child.job))

    def rayjob_gone(self, body: Object) -> None:
        """Deleted, or labelled as settled: a watch with a label selector tells both alike."""
        child = observe(body)
        self._world.children.drop(Key(child.namespace, child.name), child.resource_version)
        if not child.is_settled:
            self._queue.add(Key(child.namespace, child.job))

    # --- the loops ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Read the state once before any event comes: a watch tells of a job before it tells of its RayJob."""
        await self._resync.look_at_jobs()
        self._wake_all()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(WORKERS))
            group.create_task(self._resync_for_ever())

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(max(self._settings.resync_seconds, len(self._world.jobs) / LISTED_PER_SECOND))
            try:
                await self.resync()
            except ClusterError as error:
                logger.warning("resync: tried again in %g s: %s", self._settings.resync_seconds, error)
            self._queue.add(HEARTBEAT)

    async def resync(self) -> None:
        """See what the watches have missed, and look at every job that can still change. Raises ClusterError."""
        await self._resync.look_at_jobs()
        await self._resync.look_at_runs()
        await self._resync.look_at_pods()
        self._wake_all()

    def _wake_all(self) -> None:
        self._idle = {key: known for key, known in self._idle.items() if self._world.facts(known[0]) == known[1]}
        for key, body in self._world.jobs:
            if key not in self._idle:
                self._queue.add(key, urgent=is_new(body))
        for key, child in self._world.children:
            if self._world.jobs.get(job := Key(key.namespace, child.job)) is None:
                self._queue.add(job)

    # --- one job ------------------------------------------------------------------------------------------------------
    async def _attend(self, key: Key) -> float | None:
        self._metrics.beat()
        if key == HEARTBEAT:
            return None
        try:
            with self._metrics.reconcile_seconds.time():
                return await self._sync(key)
        except Exception as error:  # of whatever kind: the work queue tries again, and an alert looks at this figure
            self._metrics.reconcile_errors.labels(type(error).__name__).inc()
            raise

    async def _sync(self, key: Key) -> float | None:
        body = self._world.jobs.get(key) or await self._cluster.job(*key)
        if body is None:
            return None
        reading = read(body)
        observed = await self._gather(reading)
        plan = self._decide(reading, observed)
        while (hindrance := await self._act(key, plan)) is not None:
            observed = replace(observed, **hindrance)
            plan = self._decide(reading, observed)
        if plan.apply and self._queue.is_in_a_burst:
            # Whoever waits for a RayJob goes first. What is to be written about this one follows from its being there.
            return PATIENCE
        await self._write(key, body, plan)
        self._note(key, reading, observed, plan)
        return plan.requeue_after

    def _note(self, key: Key, reading: Reading, observed: Observed, plan: Plan) -> None:
        """Whether the resync may leave this job alone until it learns something new of it."""
        self._idle.pop(key, None)
        is_held = self._world.jobs.get(key) is not None
        if is_held and plan.is_idle and wants_nothing(reading.meta, reading.status, observed.child):
            number = attempt_to_look_at(reading.status)
            child = Key(key.namespace, names.rayjob(reading.meta, number))
            subject = Subject(key, reading.meta.uid, number, child)
            self._idle[key] = (subject, self._world.facts(subject))

    # gather
    async def _gather(self, reading: Reading) -> Observed:
        child = await self._child(reading)
        return Observed(
            settings=self._settings,
            child=child,
            owner_is_alive=child is None or await self._owner_is_alive(reading.meta, child),
            run=await self._run(reading, child),
            diagnosis=self._world.diagnoses.get(reading.meta.uid),
            death=await self._death(reading, child),
            model=await self._model(reading, child),
        )

    async def _child(self, reading: Reading) -> Child | None:
        meta, number = reading.meta, attempt_to_look_at(reading.status)
        key = Key(meta.namespace, names.rayjob(meta, number))
        child = self._world.children.get(key)
        if child is None and is_recorded(reading.status):
            # Its absence would end the attempt: ask, rather than believe a watch.
            found = await self._cluster.rayjob(*key)
            child = observe(found) if found else None
        return child

    async def _owner_is_alive(self, meta: ObjectMeta, child: Child) -> bool:
        if child.owner_uid == meta.uid or child.owner_kind != "TrainingJob":
            return True
        owner = await self._cluster.job(child.namespace, child.owner_name)
        found = (owner or {}).get("metadata", {})
        return found.get("uid") == child.owner_uid and "deletionTimestamp" not in found

    async def _run(self, reading: Reading, child: Child | None) -> Run | NoRun:
        number = attempt_to_look_at(reading.status)
        known = self._world.runs.get((reading.meta.uid, number), NoRun.NOT_ASKED)
        if reading.experiment is None or not wants_run(reading.status, child):
            return known
        if not self._world.tracking_answers:
            return NoRun.UNAVAILABLE  # the resync finds out when it answers again
        try:
            return await self._tracking.run(reading.experiment, reading.meta.uid, number) or NoRun.NOT_FOUND
        except TrackingError as error:
            logger.warning("%s/%s: %s", reading.meta.namespace, reading.meta.name, error)
            return NoRun.UNAVAILABLE

    async def _death(self, reading: Reading, child: Child | None) -> Diagnosis | None:
        if child is None or not wants_pods(reading.status, child):
            return None
        selector = f"{labels.JOB_UID}={reading.meta.uid},{labels.ATTEMPT}={attempt_to_look_at(reading.status)}"
        try:
            return memory_kill(await self._cluster.pods(child.namespace, selector))
        except ClusterError as error:
            logger.warning("%s/%s: %s", child.namespace, child.job, error)
            return None

    async def _model(self, reading: Reading, child: Child | None) -> RegisteredModel | NoRun:
        name = reading.model_at_stake
        if name is None or not wants_run(reading.status, child):
            return NoRun.NOT_ASKED
        if not self._world.tracking_answers:
            return NoRun.UNAVAILABLE
        try:
            return await self._tracking.model(name)
        except TrackingError as error:
            logger.warning("%s/%s: %s", reading.meta.namespace, reading.meta.name, error)
            return NoRun.UNAVAILABLE

    # decide
    def _decide(self, reading: Reading, observed: Observed) -> Plan:
        if reading.job is None:
            return refuse(reading.meta, reading.status, reading.faults, observed, self._clock())
        return reconcile(reading.job, observed, self._clock())

    # do
    async def _act(self, key: Key, plan: Plan) -> Object | None:
        """Do what the plan says; where that cannot be, what was learned by it, for another decision."""
        for body in plan.apply:
            try:
                await self._create(key, body)
            except Refused as error:
                return {"refusal": _refusal(error)}
        for name in plan.settle:
            await self._cluster.settle_rayjob(key.namespace, name)
            self._world.children.drop(Key(key.namespace, name))
        for name in plan.delete:
            logger.info("%s: deletes RayJob %s", key, name)
            await self._cluster.delete_rayjob(key.namespace, name)
            self._world.children.drop(Key(key.namespace, name))
        return await self._record(key, plan.verdict) if plan.verdict else None

    async def _create(self, key: Key, body: Object) -> None:
        name = body["metadata"]["name"]
        try:
            created = await self._cluster.create_rayjob(body)
            child = observe(body | {"metadata": created["metadata"]})
            logger.info("%s: RayJob %s created", key, name)
        except Conflict:
            # Ours from before a crash, or somebody else's. Look at it, and decide again.
            found = await self._cluster.rayjob(key.namespace, name)
            if found is not None:
                child = observe(found)
                self._world.children.put(Key(key.namespace, name), child, child.resource_version)
            raise
        self._world.children.put(Key(key.namespace, name), child, child.resource_version)

    async def _record(self, key: Key, verdict: Verdict) -> Object | None:
        tags = {"m3.promotion.decision": verdict.decision, "m3.promotion.reason": verdict.reason}
        try:
            if verdict.move and not await self._tracking.move(verdict.move):
                return {"model": await self._tracking.model(verdict.model)}
            await self._tracking.tag_version(verdict.model, verdict.version, tags)
        except TrackingError as error:
            logger.warning("%s: %s", key, error)
            return {"model": NoRun.UNAVAILABLE}
        return None

    async def _write(self, key: Key, body: Object, plan: Plan) -> None:
        if plan.delete_job:
            logger.info("%s: its time to live is over", key)
            await self._cluster.delete_job(*key, body["metadata"]["uid"])
            self._world.jobs.drop(key)
            return
        written = await self._patch(key, body, plan.status) if plan.status else body
        if written is None or is_at_rest(written):
            self._world.jobs.drop(key)
        else:
            self._world.jobs.put(key, slim(written), written["metadata"]["resourceVersion"])
        for event in plan.events if written else ():
            logger.info("%s: %s: %s", key, event.reason, event.message)
            self._metrics.count(event.reason)
            await self._tell(key, body, event)

    async def _patch(self, key: Key, body: Object, status: Object) -> Object | None:
        try:
            return await self._cluster.patch_status(body, status)
        except Conflict:
            # The job has changed meanwhile: what was decided may be wrong now.
            self._world.jobs.drop(key)
            raise

    async def _tell(self, key: Key, body: Object, event: Event) -> None:
        try:
            await self._cluster.post_event(body, event)
        except ClusterError as error:
            logger.warning("%s: event %s is lost: %s", key, event.reason, error)


def _refusal(error: Refused) -> Failure:
    if error.status == 422:
        return Failure(Reason.INVALID_RAY_JOB, str(error))
    return refused_by_kubernetes(str(error), Reason.REQUEST_REFUSED)
