"""What the suite leaves behind in the components that ran all the time. These run last."""

import re

import pytest
from e2e.kube import SYSTEM

pytestmark = pytest.mark.last

FAULT = re.compile(r"Traceback \(most recent call last\)|\b(ERROR|CRITICAL)\b|Task exception was never retrieved")


def test_the_operator_has_logged_no_error(cluster, session_start):
    log = cluster.kubectl(
        "logs", f"--namespace={SYSTEM}", "deployment/m3-operator", f"--since-time={session_start}"
    ).stdout
    assert log != "", "an operator that says nothing is not proven innocent"
    assert [line for line in log.splitlines() if FAULT.search(line)] == []


@pytest.mark.parametrize("release", ["m3", "mlflow"])
def test_no_container_was_restarted(cluster, release):
    selector = f"--selector=app.kubernetes.io/instance={release}"
    pods = cluster.get("pods", f"--namespace={SYSTEM}", selector)["items"]
    statuses = [each for pod in pods for each in pod["status"]["containerStatuses"]]
    assert [(each["name"], each["restartCount"]) for each in statuses] == [(each["name"], 0) for each in statuses] != []


def test_no_pod_of_a_job_is_left(cluster):
    cluster.kubectl("wait", "--for=delete", "pods", "--selector=m3.dev/job", "--all-namespaces", "--timeout=60s")
