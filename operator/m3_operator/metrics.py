"""What the operator tells Prometheus of itself, and how it knows that it is alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STALE_AFTER = 45.0
"""Seconds without a round of the work queue after which the operator is taken for dead. A round is due at each resync, which
cannot take longer than its requests' timeouts; with a probe each 10 s that must fail thrice, a restart comes within 90 s."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)


ENDS = {"JobComplete": "Complete", "JobFailed": "Failed"}


class Queue(Protocol):
    def __len__(self) -> int: ...

    def oldest(self) -> float: ...


class Metrics:
    """One operator's metrics, in a registry of their own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = clock()
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "m3_reconcile_duration_seconds", "Time to reconcile one job", buckets=BUCKETS, registry=self.registry
        )
        self.reconcile_errors = Counter(
            "m3_reconcile_errors", "Reconciles that failed and are tried again", ["error"], registry=self.registry
        )
        self.api_requests = Counter(
            "m3_kubernetes_requests", "Requests to the Kubernetes API", ["verb", "resource", "code"],
            registry=self.registry,
        )  # fmt: skip
        self.unsettled = Gauge("m3_jobs_unsettled", "Jobs that can still change", registry=self.registry)
        age = Gauge("m3_last_reconcile_age_seconds", "Seconds since the work queue last moved", registry=self.registry)
        age.set_function(self.age)
        depth = Gauge("m3_workqueue_depth", "Jobs that wait for a worker", registry=self.registry)
        oldest = Gauge("m3_workqueue_oldest_seconds", "How long the first of them has waited", registry=self.registry)
        self._depth, self._oldest = depth, oldest
        self.jobs = Gauge(
            "m3_jobs",
            "Jobs that can still change, by the word that `kubectl get` shows",
            ["condition"],
            registry=self.registry,
        )
        self.finished = Counter("m3_jobs_finished", "Jobs that have ended", ["condition"], registry=self.registry)
        self.attempts_failed = Counter("m3_attempts_failed", "Attempts that have failed", registry=self.registry)
        self.tracking_up = Gauge("m3_tracking_up", "1 where MLflow answered the last time", registry=self.registry)
        self.tracking_up.set(1)

    def watch(self, queue: Queue) -> None:
        """Show how much waits in `queue`, and how long."""
        self._depth.set_function(lambda: float(len(queue)))
        self._oldest.set_function(queue.oldest)

    def show_jobs(self, by_status: Mapping[str, int]) -> None:
        """Take these numbers of jobs for all there are."""
        self.jobs.clear()
        for status, number in by_status.items():
            self.jobs.labels(status).set(number)

    def count(self, event: str) -> None:
        """An event of a job's life was written down."""
        if event == "AttemptFailed":
            self.attempts_failed.inc()
        elif event in ENDS:
            self.finished.labels(ENDS[event]).inc()

    def beat(self) -> None:
        """The work queue has moved."""
        self._beat = self._clock()

    def age(self) -> float:
        return self._clock() - self._beat

    @property
    def is_alive(self) -> bool:
        return self.age() < STALE_AFTER

    def exposition(self) -> tuple[bytes, str]:
        """Body and content type of `/metrics`."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
