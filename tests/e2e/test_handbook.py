"""The Fraud Detection Handbook's published figures, from its published data, by a RayJob and on this machine.

Protocol A of its chapter 3; the forest's row of the table there: ROC AUC 0.867, average precision 0.658, card
precision@100 0.287. The data lies outside the repository (conftest.py).
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
import yaml
from e2e.kube import JOBS
from harness import HANDBOOK

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "handbook" / "random-forest.yaml"
ROWS = {"train_rows": 67_240, "train_positives": 598, "test_rows": 58_264, "test_positives": 385}
PUBLISHED = {"roc_auc": 0.867, "average_precision": 0.658, "card_precision_at_k": 0.287}


@pytest.fixture(scope="module")
def stored(cluster) -> Iterator[None]:
    """The file in an S3 server inside the cluster, and a Secret from which jobs learn how to reach it."""
    minio = subprocess.run(
        [str(ROOT / "tests" / "cluster" / "cluster.sh"), "minio"],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert minio.returncode == 0, minio.stderr
    key, secret_key = "m3-test", "m3-test-secret"
    with cluster.forward("minio", "minio", 9000) as port:
        store = s3fs.S3FileSystem(key=key, secret=secret_key, endpoint_url=f"http://127.0.0.1:{port}")
        store.makedirs("handbook", exist_ok=True)
        store.put_file(str(HANDBOOK), "handbook/transactions.parquet")
    login = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_ENDPOINT_URL": "http://minio.minio.svc.cluster.local:9000",
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "data-credentials"}, "stringData": login}
    cluster.apply(secret)
    yield
    cluster.kubectl("delete", "secret", "data-credentials", f"--namespace={JOBS}")


@pytest.mark.usefixtures("stored")
def test_the_cluster_reproduces_the_published_figures(run_job, mlflow_client):
    document = yaml.safe_load(SAMPLE.read_text())
    document["spec"]["data"]["uri"] = "s3://handbook/transactions.parquet"
    job = run_job(document, timeout=300)
    assert job.has("Complete"), job.condition("Failed")
    metrics = mlflow_client.get_run(job.status["mlflow"]["runId"]).data.metrics
    assert {name: metrics[name] for name in ROWS} == ROWS
    assert {name: metrics[name] for name in PUBLISHED} == published()


def test_this_machine_reproduces_the_published_figures(m3, tmp_path):
    document = yaml.safe_load(SAMPLE.read_text())
    del document["spec"]["data"]["secretRef"]
    document["spec"]["data"]["uri"] = str(HANDBOOK)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    result = m3("run", "-f", file, "--home", tmp_path)
    assert result["rows"] == ROWS
    assert {name: result["metrics"][name] for name in PUBLISHED} == published()


def published() -> dict[str, Any]:
    return {name: pytest.approx(value, abs=0.001) for name, value in PUBLISHED.items()}
