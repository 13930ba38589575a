"""A job of the cluster as a process on this machine, and what it has left in MLflow."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from support import M3, Ended

WORKLOAD = {
    "data": {"uri": "sample://transactions?rows=20000", "target": "TX_FRAUD", "timeColumn": "TX_DATETIME"},
    "model": {"hyperparameters": {"n_estimators": 5, "max_depth": 5}},
}


@dataclass(frozen=True)
class Job:
    """One TrainingJob's processes, in an experiment and under a model's name of its own."""

    name: str
    server: str
    run: Callable[..., Ended]

    def environment(self, attempt: int = 1, workload: dict[str, Any] = WORKLOAD) -> dict[str, str]:
        own = {"tracking": {"experimentName": self.name}, "registry": {"modelName": self.name}}
        return {
            "M3_WORKLOAD": json.dumps(own | workload), "M3_JOB_NAME": self.name, "M3_JOB_NAMESPACE": "fraud",
            "M3_JOB_UID": f"uid-{self.name}", "M3_ATTEMPT": str(attempt), "M3_OPERATOR_ID": "m3-system/m3",
            "MLFLOW_TRACKING_URI": self.server,
        }  # fmt: skip

    def attempt(self, attempt: int = 1, workload: dict[str, Any] = WORKLOAD, **environment: str) -> Ended:
        return self.run("job", **self.environment(attempt, workload) | environment)

    def start(self, attempt: int, workload: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
        environment = os.environ | self.environment(attempt, workload) | environment
        return subprocess.Popen([*M3, "job"], env=environment, stdout=subprocess.PIPE, text=True)

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.server)

    def runs(self, attempt: int = 1) -> list[Run]:
        experiment = self.client.get_experiment_by_name(self.name)
        wanted = f"tags.`m3.job.attempt` = '{attempt}'"
        return self.client.search_runs([experiment.experiment_id], wanted) if experiment else []

    def versions(self) -> list[ModelVersion]:
        return list(self.client.search_model_versions(f"name = '{self.name}'"))

    def log(self, run: Run, folder: Path) -> bytes:
        where = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path="logs/driver.log", dst_path=str(folder), tracking_uri=self.server
        )
        return Path(where).read_bytes()

    def is_training(self, attempt: int = 1) -> bool:
        return any(run.data.tags.get("m3.phase") == "training" for run in self.runs(attempt))


def result(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.out + ended.err
    return json.loads(ended.out.splitlines()[-1])


def error(ended: Ended) -> dict[str, Any]:
    assert ended.out.splitlines()[-1].startswith("M3_ERROR "), ended.out + ended.err
    return json.loads(ended.out.splitlines()[-1].removeprefix("M3_ERROR "))


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
