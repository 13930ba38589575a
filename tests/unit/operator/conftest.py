"""Jobs, RayJobs and runs for tables: a test says what matters to it, and the rest is as usual."""

from __future__ import annotations

import copy
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import pytest

from m3_operator.api.v1alpha1 import TrainingJob
from m3_operator.draft import Observed, Plan
from m3_operator.mlflow_run import Run
from m3_operator.rayjob_status import Child, observe
from m3_operator.reconcile import reconcile
from m3_operator.settings import Settings

# What a change is judged by must not depend on chance; on a laptop each run looks somewhere else.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

UID = "58dc5ec8-46b1-4355-9323-60c4eeacd34e"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
Object = dict[str, Any]


class Make:
    """Makers of test objects."""

    uid = UID
    noon = NOON
    settings = Settings(tracking_uri="http://mlflow:5000", ui_url="https://mlflow.example")

    def after(self, seconds: float) -> datetime:
        return NOON + timedelta(seconds=seconds)

    def body(self, status: Object | None = None, **spec: Any) -> Object:
        body: Object = {
            "apiVersion": "m3.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": "fraud-rf", "namespace": "shop", "uid": UID, "generation": 1, "resourceVersion": "7"},
            "spec": {"data": {"uri": "s3://bucket/transactions.parquet", "target": "TX_FRAUD"}} | spec,
        }
        return body if status is None else body | {"status": status}

    def job(self, status: Object | None = None, **spec: Any) -> TrainingJob:
        return TrainingJob.parse(self.body(status, **spec))

    def rayjob(
        self, deployment: str = "", job: str = "", attempt: int = 1, uid: str = UID, queue: str = "", **status: Any
    ) -> Object:
        words = {"jobDeploymentStatus": deployment, "jobStatus": job} | status
        return {
            "metadata": {
                "name": f"fraud-rf-58dc-{attempt}",
                "namespace": "shop",
                "uid": "a",
                "resourceVersion": "8",
                "creationTimestamp": "2026-11-24T12:00:00Z",
                "labels": {"m3.dev/job": "fraud-rf"} | ({"kueue.x-k8s.io/queue-name": queue} if queue else {}),
                "ownerReferences": [{"kind": "TrainingJob", "name": "fraud-rf", "uid": uid, "controller": True}],
            },
            "status": {name: value for name, value in words.items() if value},
        }

    def child(self, deployment: str = "", job: str = "", **more: Any) -> Child:
        return observe(self.rayjob(deployment, job, **more))

    def run(self, **more: Any) -> Run:
        known: Object = {"run_id": "r1", "experiment_id": "1", "job_uid": UID, "attempt": 1, "status": "FINISHED"}
        return Run(**(known | {"model_name": "fraud_detector", "model_version": "3"} | more))

    def plan(self, job: TrainingJob, seconds: float = 0, **observed: Any) -> Plan:
        return reconcile(job, Observed(self.settings, **observed), self.after(seconds))

    def apply(self, body: Object, plan: Plan) -> Object:
        """The job's manifest after the plan's status was written."""
        return body | {"status": merged(body.get("status") or {}, plan.status or {})}


def merged(old: Object, patch: Object) -> Object:
    """RFC 7386, by the book."""
    result = copy.deepcopy(old)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            before = result.get(name)
            result[name] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[name] = value
    return result


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


def conditions_of(status: Object | None) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in (status or {}).get("conditions", ())}


@pytest.fixture(scope="session", name="conditions_of")
def conditions_of_fixture():
    return conditions_of
