"""The operator dies, events are lost, names are taken: in the end there is one RayJob per attempt, and the status is true."""

import asyncio
import socket
import urllib.request

import pytest
from kubernetes import client

from m3_operator import cluster
from m3_operator.errors import Refused
from m3_operator.metrics import Metrics
from m3_operator.settings import Settings

at_work = pytest.mark.usefixtures("operator")


def rayjob_of(job, attempt=1, owner=None):
    meta = job["metadata"]
    owner = owner or meta["uid"]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": f"{meta['name']}-{meta['uid'][:4]}-{attempt}",
            "labels": {"m3.dev/job": meta["name"], "m3.dev/job-uid": owner, "m3.dev/attempt": str(attempt)},
            "ownerReferences": [
                {
                    "apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "name": meta["name"], "uid": owner,
                    "controller": True,
                }
            ],
        },
        "spec": {"entrypoint": "python -m m3_trainer job"},
    }  # fmt: skip


def post(namespace, rayjob):
    return namespace.objects.create_namespaced_custom_object("ray.io", "v1", namespace.name, "rayjobs", rayjob)


def test_a_rayjob_made_before_a_crash_is_adopted(make_operator, namespace, kuberay):
    """What is left when the operator is killed between POST and the status that records it."""
    job = namespace.create("fraud-rf")
    made = post(namespace, rayjob_of(job))
    kuberay.start(made)
    make_operator().start()
    namespace.wait_for_condition("fraud-rf", "Running")
    assert [rayjob["metadata"]["uid"] for rayjob in namespace.rayjobs()] == [made["metadata"]["uid"]]
    assert len(namespace.status("fraud-rf")["attempts"]) == 1


def test_a_rayjob_that_no_watch_has_told_of_is_adopted_on_409(make_operator, namespace, wait_for):
    """Without its labels it is in no list and no watch: the POST finds it."""
    job = namespace.create("fraud-rf")
    rayjob = rayjob_of(job)
    del rayjob["metadata"]["labels"]
    made = post(namespace, rayjob)
    make_operator().start()
    wait_for(lambda: namespace.status("fraud-rf").get("attempts"), 10)
    assert [rayjob["metadata"]["uid"] for rayjob in namespace.rayjobs()] == [made["metadata"]["uid"]]


def test_a_restarted_operator_makes_no_second_rayjob(make_operator, namespace, kuberay):
    operator = make_operator().start()
    job = namespace.create("fraud-rf")
    rayjob = namespace.wait_for_rayjob(job)
    for _ in range(3):
        operator.kill()
        operator.start()
    kuberay.start(rayjob)
    namespace.wait_for_condition("fraud-rf", "Running")
    operator.kill()
    kuberay.succeeded(rayjob)
    operator.start()
    namespace.wait_for_condition("fraud-rf", "Complete")
    assert [found["metadata"]["uid"] for found in namespace.rayjobs()] == [rayjob["metadata"]["uid"]]


def test_what_happens_while_the_operator_is_down_is_found_afterwards(make_operator, namespace):
    job = namespace.create("fraud-rf")
    make_operator().start()
    namespace.wait_for_rayjob(job)


def test_lost_events_heal_by_the_resync(make_operator, namespace, kuberay, deaf_proxy):
    """An operator whose watches never tell it anything still does all of its work, from its lists."""
    operator = make_operator(M3_RESYNC_SECONDS="1", KUBECONFIG=str(deaf_proxy)).start()
    operator.wait_for_first_look()
    job = namespace.create("fraud-rf")
    rayjob = namespace.wait_for_rayjob(job, timeout=10)
    kuberay.start(rayjob)
    namespace.wait_for_condition("fraud-rf", "Running", timeout=10)
    kuberay.succeeded(rayjob)
    namespace.wait_for_condition("fraud-rf", "Complete", timeout=10)
    operator.stop()  # before the proxy goes


def test_somebody_elses_rayjob_is_left_alone(make_operator, namespace):
    job = namespace.create("fraud-rf")
    rayjob = rayjob_of(job)
    del rayjob["metadata"]["ownerReferences"], rayjob["metadata"]["labels"]
    made = post(namespace, rayjob)
    make_operator().start()
    failed = namespace.wait_for_condition("fraud-rf", "Failed")
    assert failed["reason"] == "NameConflict"
    assert "must be" in failed["message"] or "delete it" in failed["message"]
    assert namespace.rayjobs()[0]["metadata"]["uid"] == made["metadata"]["uid"]


def test_the_rayjob_of_a_deleted_job_is_waited_for(make_operator, namespace, wait_for):
    """Same name, same four digits of the uid, another job: its RayJob goes, and then ours is made."""
    job = namespace.create("fraud-rf")
    gone = post(namespace, rayjob_of(job, owner="00000000-0000-0000-0000-000000000000"))
    make_operator().start()
    wait_for(lambda: namespace.condition("fraud-rf", "Running").get("reason") == "WaitingForName", 10)
    namespace.server.kubectl("-n", namespace.name, "delete", "rayjob", gone["metadata"]["name"])
    rayjob = wait_for(lambda: namespace.rayjob(gone["metadata"]["name"]), 10)
    assert rayjob["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]


def test_a_settled_job_costs_nothing(make_operator, namespace, kuberay, mlflow, wait_for):
    operator = make_operator(M3_MLFLOW_TRACKING_URI=mlflow.uri, M3_RESYNC_SECONDS="0.5").start()
    for name in ("one", "two"):
        rayjob = namespace.wait_for_rayjob(namespace.create(name))
        kuberay.succeeded(rayjob)
        namespace.wait_for_condition(name, "Registered", status="False")
    wait_for(lambda: operator.metric("m3_jobs_unsettled") == 0, 15)
    operator.kill()
    operator.start()
    wait_for(lambda: operator.metric("m3_kubernetes_requests_total") >= 6, 15, every=0.2)
    assert operator.metric("m3_reconcile_duration_seconds_count") == 0


def test_a_tick_looks_again_only_at_a_job_of_which_something_is_new(
    make_operator, namespace, kuberay, mlflow, wait_for
):
    operator = make_operator(M3_MLFLOW_TRACKING_URI=mlflow.uri, M3_RESYNC_SECONDS="0.5").start()
    job = namespace.create("fraud-rf")
    kuberay.start(namespace.wait_for_rayjob(job))
    run = mlflow.train(job, version=None, percentage=40)
    wait_for(lambda: (namespace.status("fraud-rf").get("progress") or {}).get("percentage") == 40, 10)

    def ticks(number):
        asked = operator.metric("m3_kubernetes_requests_total")
        wait_for(lambda: operator.metric("m3_kubernetes_requests_total") >= asked + 2 * number, 15, every=0.2)

    ticks(2)  # whatever the write has woken is over
    looks = operator.metric("m3_reconcile_duration_seconds_count")
    ticks(4)
    assert operator.metric("m3_reconcile_duration_seconds_count") == looks
    mlflow.progress(run, 70)
    wait_for(lambda: namespace.status("fraud-rf")["progress"]["percentage"] == 70, 10)


def test_three_requests_make_a_running_job(operator, namespace, kuberay):
    operator.wait_for_first_look()
    kuberay.start(namespace.wait_for_rayjob(namespace.create("fraud-rf")))
    namespace.wait_for_condition("fraud-rf", "Running")
    with urllib.request.urlopen(f"{operator.probes}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    writes = {
        line.split("{")[1].split("}")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if "requests_total{" in line
    }
    assert sum(count for labels, count in writes.items() if "rayjobs" in labels and "create" in labels) == 1
    assert sum(count for labels, count in writes.items() if "trainingjobs/status" in labels) <= 4
    assert not [labels for labels in writes if 'verb="get"' in labels and "apis" not in labels]


def test_sigterm_ends_it_in_order(make_operator, namespace):
    operator = make_operator().start()
    namespace.wait_for_rayjob(namespace.create("fraud-rf"))  # so it is at work
    assert operator.stop() == 0


def test_a_bad_setting_is_named(make_operator):
    operator = make_operator(M3_RESYNC_SECONDS="soon")
    operator.start()
    assert operator.process.wait(10) == 2
    assert operator.log.read_text() == "M3_RESYNC_SECONDS must be a number from 0.1 to 30, is 'soon'\n"


def test_the_operator_waits_for_the_api_server(make_operator, namespace, wait_for):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        kubeconfig = namespace.server.kubeconfig("operator").read_text()
        elsewhere = namespace.server.folder / "elsewhere.kubeconfig"
        elsewhere.write_text(kubeconfig.replace(str(namespace.server.port), str(nobody.getsockname()[1])))
        operator = make_operator(KUBECONFIG=str(elsewhere)).start()
        wait_for(lambda: "waits for the Kubernetes API" in operator.log.read_text(), 10)
        operator.stop()


def test_without_kuberay_the_operator_says_what_must_be_installed(namespace, monkeypatch):
    """Charts are installed in any order."""
    # not KUBECONFIG, which the client has read when it was imported
    kubeconfig = str(namespace.server.kubeconfig("operator"))
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
    monkeypatch.setattr(cluster, "RAY_VERSION", "v9")  # the API server answers as it does where the kind is not there

    async def ask():
        kubernetes = cluster.Cluster(Settings(watch_namespaces=(namespace.name,)), Metrics())
        await kubernetes.open()
        try:
            await kubernetes.unsettled_rayjobs()
        finally:
            await kubernetes.close()

    with pytest.raises(Refused, match=r"^CustomResourceDefinition rayjobs\.ray\.io must be installed$"):
        asyncio.run(ask())


@at_work
def test_an_edit_that_comes_between_is_not_overwritten(namespace, wait_for):
    job = namespace.create("fraud-rf")
    namespace.wait_for_rayjob(job)
    for seconds in range(100, 120):
        namespace.patch("fraud-rf", activeDeadlineSeconds=seconds)
    wait_for(lambda: namespace.status("fraud-rf").get("observedGeneration") == 21, 10)
    assert namespace.job("fraud-rf")["spec"]["activeDeadlineSeconds"] == 119
    assert isinstance(namespace.objects, client.CustomObjectsApi)
