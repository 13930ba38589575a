"""A job that is deleted leaves nothing behind but what it has told MLflow."""

import time
from contextlib import ExitStack

from e2e.kube import JOBS, Job


def test_deleting_a_running_job_takes_everything_with_it_in_30_seconds(cluster, small_job, mlflow_client):
    name = "deleted-while-it-runs"
    long = {"type": "random_forest", "hyperparameters": {"n_estimators": 5000}}
    document = small_job(name, model=long, data={"uri": "sample://transactions?rows=500000", "target": "TX_FRAUD"})
    with ExitStack() as stack:
        stack.callback(cluster.delete_job, name)
        jobs = stack.enter_context(cluster.watch("trainingjobs", f"--field-selector=metadata.name={name}"))
        cluster.apply(document)
        job = Job(jobs.first(lambda seen: Job(seen.object).has("Running"), timeout=120).object)
        selector = (f"--selector=m3.dev/job={name}", f"--namespace={JOBS}")
        for kind in ("rayjobs", "rayclusters", "pods"):
            assert cluster.get(kind, *selector)["items"] != [], f"no {kind} while it runs: the test would prove nothing"
        start = time.monotonic()
        cluster.kubectl("delete", "trainingjob", name, f"--namespace={JOBS}", "--wait=false")
        for kind in ("trainingjobs", "rayjobs", "rayclusters", "pods"):
            gone = (f"trainingjob/{name}", f"--namespace={JOBS}") if kind == "trainingjobs" else (kind, *selector)
            cluster.kubectl("wait", "--for=delete", *gone, "--timeout=30s")
        assert time.monotonic() - start <= 30
    assert mlflow_client.search_model_versions(f"name = '{job.object['spec']['registry']['modelName']}'") == []
