"""What the operator tells Prometheus of itself, and how it knows that it is alive."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STALE_AFTER = 45.0
"""Seconds without a round of the work queue after which the operator is taken for dead. A round is due at each resync, which
cannot take longer than its requests' timeouts; with a probe each 10 s that must fail thrice, a restart comes within 90 s."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)


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
        depth.set_function(lambda: float(self.depth()))
        self.depth: Callable[[], int] = lambda: 0

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
