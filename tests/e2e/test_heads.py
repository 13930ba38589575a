"""Ray's head is killed under a job: the attempt is over, the work is not done twice. And a cluster that outlives its jobs."""

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from e2e.kube import JOBS, Job

WARM = Path(__file__).parents[2] / "manifests" / "samples" / "raycluster.yaml"
KUBERAY = "ray-system"
# half a minute of work in little memory
LONG = {
    "model": {"hyperparameters": {"n_estimators": 1500, "max_depth": 6}},
    "data": {"uri": "sample://transactions?rows=100000&seed=1", "target": "TX_FRAUD"},
}


def runs_of(client, job):
    experiment = client.get_experiment_by_name(job.object["spec"]["tracking"]["experimentName"])
    runs = client.search_runs([experiment.experiment_id], f"tags.`m3.job.uid` = '{job.uid}'")
    return {int(run.data.tags["m3.job.attempt"]): run for run in runs}


def versions_of(client, job):
    """Its own: a cluster that is used again has those of earlier sessions."""
    found = client.search_model_versions(f"name = '{job.object['spec']['registry']['modelName']}'")
    return [version for version in found if version.tags["m3.job.uid"] == job.uid]


def kill(cluster, pod):
    cluster.kubectl("delete", "pod", pod, f"--namespace={JOBS}", "--force", "--grace-period=0")


def head_of(job):
    return job.status["attempts"][-1]["headPodName"]


def is_in_attempt(number):
    def check(seen):
        job = Job(seen.object)
        attempts = job.status.get("attempts", [])
        return job.has("Running") and bool(attempts) and attempts[-1]["number"] == number

    return check


@pytest.fixture
def watched(cluster):
    """Apply a job, and give the watch that sees it."""
    with ExitStack() as stack:

        def apply(document):
            name = document["metadata"]["name"]
            cluster.delete_job(name)
            stack.callback(cluster.delete_job, name)
            watch = stack.enter_context(cluster.watch("trainingjobs", f"--field-selector=metadata.name={name}"))
            cluster.apply(document)
            return watch

        yield apply


def test_a_head_that_is_killed_in_the_middle_ends_the_attempt(cluster, small_job, watched, mlflow_client):
    jobs = watched(small_job("head-killed", **LONG, backoffLimit=1))
    job = Job(jobs.first(is_in_attempt(1), timeout=120).object)
    tick, end = threading.Event(), time.monotonic() + 60
    while 1 not in runs_of(mlflow_client, job):
        assert time.monotonic() < end, "no run after 60 s"
        tick.wait(0.1)
    kill(cluster, head_of(job))
    job = Job(jobs.first(lambda seen: Job(seen.object).is_finished, timeout=240).object)
    assert job.has("Complete")
    assert [(each["number"], each["reason"]) for each in job.status["attempts"]] == [
        (1, "HeadRestarted"),
        (2, "Succeeded"),
    ]
    rayjobs = cluster.get("rayjobs", f"--namespace={JOBS}", f"--selector=m3.dev/job={job.name}")["items"]
    assert [each["metadata"]["labels"]["m3.dev/attempt"] for each in rayjobs] == ["2"]
    runs = runs_of(mlflow_client, job)
    assert sorted(runs) == [1, 2]
    # the kubelet's SIGTERM ends it as KILLED where there is time for that
    assert (runs[1].info.status in ("FAILED", "KILLED"), runs[2].info.status) == (True, "FINISHED")
    assert [version.run_id for version in versions_of(mlflow_client, job)] == [runs[2].info.run_id]


@pytest.fixture
def claim(cluster):
    """A claim that outlives the job's pods."""
    name = "checkpoints"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}}
    cluster.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
    yield name
    cluster.kubectl("delete", "persistentvolumeclaim", name, f"--namespace={JOBS}", "--wait=false")


def test_the_next_attempt_goes_on_from_the_checkpoint(cluster, small_job, claim, watched, mlflow_client, tmp_path):
    # some time more than the 30 s after which a checkpoint is due
    long = LONG | {"model": {"hyperparameters": {"n_estimators": 2500, "max_depth": 6}}}
    storage = {"persistentVolumeClaim": claim}
    jobs = watched(small_job("checkpointed", **long, storage=storage, backoffLimit=1))
    job = Job(jobs.first(is_in_attempt(1), timeout=120).object)
    inside = ("exec", head_of(job), f"--namespace={JOBS}", "--")
    exists = ("test", "-e", f"/storage/m3/{job.uid}/checkpoint.skops")
    tick, end = threading.Event(), time.monotonic() + 120
    while cluster.kubectl(*inside, *exists, check=False).returncode != 0:
        assert time.monotonic() < end, "no checkpoint after 120 s"
        tick.wait(0.5)
    kill(cluster, head_of(job))
    job = Job(jobs.first(lambda seen: Job(seen.object).is_finished, timeout=240).object)
    assert [each["reason"] for each in job.status["attempts"]] == ["HeadRestarted", "Succeeded"]
    second = runs_of(mlflow_client, job)[2].info.run_id
    log = Path(mlflow_client.download_artifacts(second, "logs/driver.log", str(tmp_path)))
    assert "goes on from a checkpoint of " in log.read_text()


@pytest.fixture
def without_kuberay(cluster):
    """Stop KubeRay, so that it cannot hear of the job's end; and start it again."""

    def scale(replicas):
        cluster.kubectl("scale", "deployment", "--all", f"--namespace={KUBERAY}", f"--replicas={replicas}")

    def stop():
        scale(0)
        cluster.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={KUBERAY}", "--timeout=60s")

    yield stop, lambda: scale(1)
    scale(1)
    cluster.kubectl(
        "wait", "--for=condition=Available", "deployment", "--all", f"--namespace={KUBERAY}", "--timeout=120s"
    )


def test_a_head_that_is_killed_after_registration_leaves_one_run_and_one_version(
    cluster, small_job, watched, mlflow_client, without_kuberay
):
    stop_kuberay, start_kuberay = without_kuberay
    jobs = watched(small_job("killed-after-registration", **LONG))
    job = Job(jobs.first(is_in_attempt(1), timeout=120).object)
    stop_kuberay()
    tick, end = threading.Event(), time.monotonic() + 120
    while not versions_of(mlflow_client, job):
        assert time.monotonic() < end, "no version after 120 s"
        tick.wait(0.05)
    kill(cluster, head_of(job))
    start_kuberay()
    job = Job(jobs.first(lambda seen: Job(seen.object).is_finished, timeout=180).object)
    assert job.has("Complete")
    assert [each["reason"] for each in job.status["attempts"]] == ["Succeeded"]
    (run,) = runs_of(mlflow_client, job).values()
    (version,) = versions_of(mlflow_client, job)
    assert (run.info.status, version.run_id) == ("FINISHED", run.info.run_id)
    job = Job(jobs.first(lambda seen: Job(seen.object).has("Registered"), timeout=30).object)
    assert job.status["model"]["version"] == version.version


class TestWarmCluster:
    @pytest.fixture(scope="class")
    def warm(self, cluster):
        document = yaml.safe_load(WARM.read_text())
        name = document["metadata"]["name"]
        cluster.apply(document)
        cluster.kubectl(
            "wait", "--for=condition=HeadPodReady", f"raycluster/{name}", f"--namespace={JOBS}", "--timeout=120s"
        )
        yield {"clusterSelector": {"ray.io/cluster": name}}
        cluster.kubectl("delete", "raycluster", name, f"--namespace={JOBS}")
        cluster.kubectl(
            "wait", "--for=delete", "pods", f"--selector=ray.io/cluster={name}", f"--namespace={JOBS}", "--timeout=60s"
        )

    def test_a_job_runs_on_it_and_leaves_it_there(self, cluster, small_job, run_job, warm):
        job = run_job(small_job("on-a-warm-cluster", ray=warm), timeout=120)
        assert job.has("Complete")
        assert job.status["attempts"][0]["rayClusterName"] == "warm"
        assert cluster.get("raycluster", "warm", f"--namespace={JOBS}")["metadata"].get("deletionTimestamp") is None

    def test_what_crashes_on_it_is_tried_again(self, cluster, small_job, watched, mlflow_client, warm):
        jobs = watched(small_job("crashed-on-a-warm-cluster", **LONG, ray=warm, backoffLimit=1))
        job = Job(jobs.first(is_in_attempt(1), timeout=120).object)
        inside = ("exec", head_of(job), f"--namespace={JOBS}", "--")
        kill_all = (
            "import os, signal\n"
            "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
            "    if int(pid) != os.getpid() and b'm3_trainer' in open(f'/proc/{pid}/cmdline', 'rb').read():\n"
            "        os.kill(int(pid), signal.SIGKILL)\n"
        )
        cluster.kubectl(*inside, "python", "-c", kill_all)
        job = Job(jobs.first(lambda seen: Job(seen.object).is_finished, timeout=180).object)
        assert job.has("Complete")
        assert [each["reason"] for each in job.status["attempts"]] == ["JobCrashed", "Succeeded"]
        assert len(versions_of(mlflow_client, job)) == 1
