"""Gather, decide, do: what one job needs, and once in a while what all of them need.

Whatever happens (an event, a timer, the resync) ends as a key in the work queue, and each key takes the same way:

    newest job ─→ gather: its RayJob, its MLflow run ─→ reconcile() ─→ POST, label, delete ─→ one status write ─→ events
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from m3_operator.api.meta import ObjectMeta
from m3_operator.api.reasons import Reason
from m3_operator.api.v1alpha1 import TrainingJob, TrainingJobStatus
from m3_operator.cluster import Cluster
from m3_operator.errors import ClusterError, Conflict, Refused, TrackingError
from m3_operator.metrics import Metrics
from m3_operator.mlflow_run import NoRun, Run, newest_by_attempt
from m3_operator.rayjob_status import Child, Failure, observe
from m3_operator.reconcile import Observed, Plan, attempt_to_look_at, is_recorded, reconcile, refuse, wants_run
from m3_operator.resources import names
from m3_operator.settings import Settings
from m3_operator.store import Key, Store
from m3_operator.tracking import Tracking
from m3_operator.workqueue import Workqueue
from m3_trainer.schema import explain

logger = logging.getLogger(__name__)

WORKERS = 32
"""Jobs at a time: each mostly waits for the API server."""
PATIENCE = 10.0
"""Seconds that the resync waits for MLflow."""
HEARTBEAT = Key("", "heartbeat")
"""A key of no job: goes through the queue at each resync, and so shows that the queue moves."""

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """A job as the models see it. `job` is None where they refuse it, and `faults` say why."""

    meta: ObjectMeta
    status: TrainingJobStatus
    job: TrainingJob | None
    faults: list[str]

    @property
    def experiment(self) -> str | None:
        return self.job.spec.tracking.experiment_name if self.job else None


def read(body: Object) -> Reading:
    try:
        job = TrainingJob.parse(body)
    except ValidationError as error:
        meta = ObjectMeta.parse(body["metadata"])
        status = TrainingJobStatus.parse(body.get("status") or {})
        return Reading(meta, status, None, explain(error, TrainingJob))
    return Reading(job.metadata, job.status or TrainingJobStatus(), job, [])


def started(body: Object) -> tuple[str, datetime] | None:
    """Experiment and start of a job that has started. Not by way of the models: the resync asks it of every job."""
    start = (body.get("status") or {}).get("startTime")
    experiment = body.get("spec", {}).get("tracking", {}).get("experimentName")
    return (experiment, datetime.fromisoformat(start)) if start and experiment else None


def is_at_rest(body: Object) -> bool:
    """Whether nothing but its deletion, or an edit, can make work of this job."""
    status = body.get("status") or {}
    return status.get("settled") is True and status.get("observedGeneration") == body["metadata"].get("generation")


def has_time_to_live(body: Object) -> bool:
    return body.get("spec", {}).get("ttlSecondsAfterFinished") is not None


def key_of(body: Object) -> Key:
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


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
        self._jobs: Store[Object] = Store()
        self._children: Store[Child] = Store()
        self._runs: dict[tuple[str, int], Run] = {}
        self._tracking_answers = True
        self._queue: Workqueue[Key] = Workqueue(self._attend)
        metrics.depth = self._queue.__len__

    # --- what is seen -------------------------------------------------------------------------------------------------
    def job_seen(self, body: Object) -> None:
        key = key_of(body)
        if is_at_rest(body) and not has_time_to_live(body):
            self._jobs.drop(key)
            return
        self._jobs.put(key, body, body["metadata"]["resourceVersion"])
        self._queue.add(key)

    def job_gone(self, body: Object) -> None:
        self._jobs.drop(key_of(body))

    def rayjob_seen(self, body: Object) -> None:
        child = observe(body)
        if self._children.put(Key(child.namespace, child.name), child, child.resource_version):
            self._queue.add(Key(child.namespace, child.job))

    def rayjob_gone(self, body: Object) -> None:
        """Deleted, or labelled as settled: a watch with a label selector tells both alike."""
        child = observe(body)
        self._children.drop(Key(child.namespace, child.name))
        if not child.is_settled:
            self._queue.add(Key(child.namespace, child.job))

    # --- the loops ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Read the state once before any event comes: a watch tells of a job before it tells of its RayJob."""
        await self._look_around()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run(WORKERS))
            group.create_task(self._resync_for_ever())

    async def _resync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self.resync()
            except ClusterError as error:
                logger.warning("resync: tried again in %g s: %s", self._settings.resync_seconds, error)
            self._queue.add(HEARTBEAT)

    async def resync(self) -> None:
        """See what the watches have missed, ask MLflow once for all, and look at every job that can still change."""
        await self._look_around()
        await self._look_at_runs()
        for key, _ in self._jobs:
            self._queue.add(key)
        for key, child in self._children:
            self._queue.add(Key(key.namespace, child.job))

    async def _look_around(self) -> None:
        # The RayJobs first: one that is made between the two lists is newer than its list, and stays.
        rayjobs = await self._cluster.unsettled_rayjobs()
        children = [observe(item) for item in rayjobs.items]
        self._children.replace(
            [(Key(child.namespace, child.name), child, child.resource_version) for child in children],
            rayjobs.resource_version,
        )
        jobs = await self._cluster.unsettled_jobs()
        self._jobs.replace(
            [(key_of(job), job, job["metadata"]["resourceVersion"]) for job in jobs.items], jobs.resource_version
        )
        self._metrics.unsettled.set(len(self._jobs))

    async def _look_at_runs(self) -> None:
        known = [known for _, body in self._jobs if (known := started(body))]
        if not known:
            self._runs, self._tracking_answers = {}, True
            return
        try:
            async with asyncio.timeout(PATIENCE):
                experiments, first = {name for name, _ in known}, min(start for _, start in known)
                self._runs = newest_by_attempt(await self._tracking.runs_since(experiments, first))
            self._tracking_answers = True
        except (TrackingError, TimeoutError) as error:
            self._tracking_answers = False
            logger.warning("%s", error or f"MLflow has not answered in {PATIENCE:g} s")

    # --- one job ------------------------------------------------------------------------------------------------------
    async def _attend(self, key: Key) -> float | None:
        self._metrics.beat()
        if key == HEARTBEAT:
            return None
        try:
            with self._metrics.reconcile_seconds.time():
                return await self._sync(key)
        except ClusterError as error:
            self._metrics.reconcile_errors.labels(type(error).__name__).inc()
            raise

    async def _sync(self, key: Key, refusal: Failure | None = None) -> float | None:
        body = self._jobs.get(key) or await self._cluster.job(*key)
        if body is None:
            return None
        reading = read(body)
        observed = await self._gather(reading, refusal)
        plan = self._decide(reading, observed)
        if (refused := await self._act(key, plan)) is not None:
            return await self._sync(key, refused)
        await self._write(key, body, plan)
        return plan.requeue_after

    async def _gather(self, reading: Reading, refusal: Failure | None) -> Observed:
        child = await self._child(reading)
        return Observed(
            settings=self._settings,
            child=child,
            owner_is_alive=child is None or await self._owner_is_alive(reading.meta, child),
            refusal=refusal,
            run=await self._run(reading, child),
        )

    async def _child(self, reading: Reading) -> Child | None:
        meta, number = reading.meta, attempt_to_look_at(reading.status)
        key = Key(meta.namespace, names.rayjob(meta, number))
        child = self._children.get(key)
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
        known = self._runs.get((reading.meta.uid, number), NoRun.NOT_ASKED)
        if reading.experiment is None or not wants_run(reading.status, child):
            return known
        if not self._tracking_answers:
            return NoRun.UNAVAILABLE  # the resync finds out when it answers again
        try:
            return await self._tracking.run(reading.experiment, reading.meta.uid, number) or NoRun.NOT_FOUND
        except TrackingError as error:
            logger.warning("%s/%s: %s", reading.meta.namespace, reading.meta.name, error)
            return NoRun.UNAVAILABLE

    def _decide(self, reading: Reading, observed: Observed) -> Plan:
        if reading.job is None:
            return refuse(reading.meta, reading.status, reading.faults, observed, self._clock())
        return reconcile(reading.job, observed, self._clock())

    async def _act(self, key: Key, plan: Plan) -> Failure | None:
        """Do what the plan says; the reason where Kubernetes refuses the RayJob."""
        for body in plan.apply:
            try:
                await self._create(key, body)
            except Refused as error:
                return _refusal(error)
        for name in plan.settle:
            await self._cluster.settle_rayjob(key.namespace, name)
            self._children.drop(Key(key.namespace, name))
        for name in plan.delete:
            logger.info("%s: deletes RayJob %s", key, name)
            await self._cluster.delete_rayjob(key.namespace, name)
            self._children.drop(Key(key.namespace, name))
        return None

    async def _create(self, key: Key, body: Object) -> None:
        name = body["metadata"]["name"]
        try:
            child = observe(await self._cluster.create_rayjob(body))
            logger.info("%s: RayJob %s created", key, name)
        except Conflict:
            # Ours from before a crash, or somebody else's. Look at it, and decide again.
            found = await self._cluster.rayjob(key.namespace, name)
            if found is not None:
                child = observe(found)
                self._children.put(Key(key.namespace, name), child, child.resource_version)
            raise
        self._children.put(Key(key.namespace, name), child, child.resource_version)

    async def _write(self, key: Key, body: Object, plan: Plan) -> None:
        if plan.delete_job:
            logger.info("%s: its time to live is over", key)
            await self._cluster.delete_job(*key, body["metadata"]["uid"])
            self._jobs.drop(key)
            return
        written = await self._patch(key, body, plan.status) if plan.status else body
        if written is None or is_at_rest(written):
            self._jobs.drop(key)
        else:
            self._jobs.put(key, written, written["metadata"]["resourceVersion"])
        for event in plan.events if written else ():
            logger.info("%s: %s: %s", key, event.reason, event.message)
            await self._tell(key, body, event)

    async def _patch(self, key: Key, body: Object, status: Object) -> Object | None:
        try:
            return await self._cluster.patch_status(body, status)
        except Conflict:
            # The job has changed meanwhile: what was decided may be wrong now.
            self._jobs.drop(key)
            raise

    async def _tell(self, key: Key, body: Object, event: Any) -> None:
        try:
            await self._cluster.post_event(body, event)
        except ClusterError as error:
            logger.warning("%s: event %s is lost: %s", key, event.reason, error)


def _refusal(error: Refused) -> Failure:
    if error.status == 422:
        return Failure(Reason.INVALID_RAY_JOB, str(error))
    return Failure(Reason.REQUEST_REFUSED, str(error), retriable=True)
