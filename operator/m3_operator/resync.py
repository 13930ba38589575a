"""The look around, once in a while for all jobs: what the watches have missed, and what nobody sends events of.

one list of the unsettled RayJobs, one of the unsettled TrainingJobs
one search of MLflow for the runs that are RUNNING; those of jobs that are gone are ended
only while a cluster does not start: one list of those jobs' pods, and of their mounts' events
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta

from m3_operator import orphans
from m3_operator.api import labels
from m3_operator.cluster import Cluster
from m3_operator.errors import ClusterError, Refused, TrackingError
from m3_operator.metrics import Metrics
from m3_operator.mlflow_run import Run, newest_by_attempt
from m3_operator.pod_status import Diagnosis, diagnose, is_creating
from m3_operator.rayjob_status import Child, Stage, observe
from m3_operator.settings import Settings
from m3_operator.store import Key
from m3_operator.tracking import Tracking
from m3_operator.world import World, display_of, experiment_of, key_of, slim

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that a round waits for MLflow."""
SOON = timedelta(seconds=5)
"""A cluster that is younger is not asked why it is not there yet."""
LOOKED_AT = 50
"""Jobs whose pods one round looks at, the oldest first: their uids make the selector, which is part of a URL."""


class Resync:
    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        tracking: Tracking,
        metrics: Metrics,
        world: World,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._tracking = tracking
        self._metrics = metrics
        self._world = world
        self._clock = clock
        self._knows_experiments = False

    async def look_at_jobs(self) -> None:
        """Raises ClusterError."""
        # The RayJobs first: one that is made between the two lists is newer than its list, and stays.
        rayjobs = await self._cluster.unsettled_rayjobs()
        children = [observe(item) for item in rayjobs.items]
        self._world.children.replace(
            [(Key(child.namespace, child.name), child, child.resource_version) for child in children],
            rayjobs.resource_version,
        )
        jobs = await self._cluster.unsettled_jobs()
        self._world.jobs.replace(
            [(key_of(job), slim(job), job["metadata"]["resourceVersion"]) for job in jobs.items], jobs.resource_version
        )
        self._metrics.unsettled.set(len(self._world.jobs))
        self._metrics.show_jobs(Counter(display_of(body) for _, body in self._world.jobs))

    # --- MLflow -------------------------------------------------------------------------------------------------------
    async def look_at_runs(self) -> None:
        """Never fails: what MLflow does not tell is Unknown."""
        try:
            async with asyncio.timeout(PATIENCE):
                found = await self._running()
                self._world.runs = newest_by_attempt(found)
                await self._end_orphans(found)
            self._world.tracking_answers = True
        except (TrackingError, TimeoutError) as error:
            self._world.tracking_answers = False
            logger.warning("%s", error or f"MLflow has not answered in {PATIENCE:g} s")
        self._metrics.tracking_up.set(self._world.tracking_answers)

    async def _running(self) -> list[Run]:
        if not self._knows_experiments:
            await self._tracking.learn_experiments()
            self._knows_experiments = True
        names = {name for _, body in self._world.jobs if (name := experiment_of(body))}
        return await self._tracking.running(names)

    async def _end_orphans(self, runs: list[Run]) -> None:
        jobs = {body["metadata"]["uid"]: body for _, body in self._world.jobs}
        for run in runs:
            job = jobs.get(run.job_uid)
            if job is not None and orphans.verdict(run, job) is None:
                continue
            if status := await self._verdict(run):
                if await self._tracking.end(run.run_id, status, int(self._clock().timestamp() * 1000)):
                    logger.info("%s/%s: run %s ended as %s", run.job_namespace, run.job_name, run.run_id, status)
                self._world.runs.pop((run.job_uid, run.attempt), None)

    async def _verdict(self, run: Run) -> str | None:
        """By the job as it is now: what the store holds may be a moment old."""
        if not run.job_name or not self._watches(run.job_namespace):
            return None
        try:
            return orphans.verdict(run, await self._cluster.job(run.job_namespace, run.job_name))
        except Refused as error:
            logger.debug("%s/%s: %s", run.job_namespace, run.job_name, error)
            return None
        except ClusterError as error:
            logger.warning("%s/%s: %s", run.job_namespace, run.job_name, error)
            return None

    def _watches(self, namespace: str) -> bool:
        return self._settings.clusterwide or namespace in self._settings.watch_namespaces

    # --- pods ---------------------------------------------------------------------------------------------------------
    async def look_at_pods(self) -> None:
        """Find out why clusters do not start. Never fails: what is not found out is not said."""
        waiting = sorted(self._waiting(), key=lambda child: child.created_at or self._clock())[:LOOKED_AT]
        by_namespace: defaultdict[str, list[Child]] = defaultdict(list)
        for child in waiting:
            by_namespace[child.namespace].append(child)
        found: dict[str, Diagnosis] = {}
        for namespace, children in by_namespace.items():
            try:
                found |= await self._diagnose(namespace, [child.owner_uid for child in children])
            except ClusterError as error:
                logger.warning("namespace %s: nobody knows why its clusters do not start: %s", namespace, error)
        self._world.diagnoses = found

    def _waiting(self) -> list[Child]:
        since = self._clock() - SOON
        return [
            child
            for _, child in self._world.children
            if child.stage is Stage.CLUSTER_STARTING and child.created_at is not None and child.created_at < since
        ]

    async def _diagnose(self, namespace: str, uids: list[str]) -> dict[str, Diagnosis]:
        pods = await self._cluster.pods(namespace, f"{labels.JOB_UID} in ({','.join(uids)})")
        events = await self._cluster.mount_events(namespace) if any(is_creating(pod) for pod in pods) else []
        return diagnose(pods, events)
