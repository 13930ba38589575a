"""A job that is deleted leaves nothing behind but what it has told MLflow."""

import time
from contextlib import ExitStack

from e2e.kube import JOBS, Job


def runs_of(client, job) -> list:
    experiment = client.get_experiment_by_name(job.object["spec"]["tracking"]["experimentName"])
    return client.search_runs([experiment.experiment_id], f"tags.`m3.job.uid` = '{job.uid}'")


def test_deleting_a_running_job_takes_everything_with_it_in_30_seconds(cluster, small_job, mlflow_client):
    name = "deleted-while-it-runs"
    # Minutes of work in little memory: shallow trees. Deep ones would fill the pod's memory before they are stopped.
    long = {"hyperparameters": {"n_estimators": 10_000, "max_depth": 8}}
    document = small_job(name, model=long, data={"uri": "sample://transactions?rows=100000", "target": "TX_FRAUD"})
    with ExitStack() as stack:
        stack.callback(cluster.delete_job, name)
        jobs = stack.enter_context(cluster.watch("trainingjobs", f"--field-selector=metadata.name={name}"))
        cluster.apply(document)
        # not Running alone: that is said before the job's process has come to MLflow
        job = Job(jobs.first(lambda seen: "mlflow" in Job(seen.object).status, timeout=120).object)
        assert job.has("Running")
        selector = (f"--selector=m3.dev/job={name}", f"--namespace={JOBS}")
        for kind in ("rayjobs", "rayclusters", "pods"):
            assert cluster.get(kind, *selector)["items"] != [], f"no {kind} while it runs: the test would prove nothing"
        start = time.monotonic()
        cluster.kubectl("delete", "trainingjob", name, f"--namespace={JOBS}", "--wait=false")
        for kind in ("trainingjobs", "rayjobs", "rayclusters", "pods"):
            gone = (f"trainingjob/{name}", f"--namespace={JOBS}") if kind == "trainingjobs" else (kind, *selector)
            cluster.kubectl("wait", "--for=delete", *gone, "--timeout=30s")
        assert time.monotonic() - start <= 30
    (run,) = runs_of(mlflow_client, job)
    assert run.info.status == "KILLED"
    assert mlflow_client.search_model_versions(f"name = '{job.object['spec']['registry']['modelName']}'") == []
