"""What newcomers meet: each has one message and an exit code."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from m3_trainer import kube

BIN = Path(sys.executable).parent
COMMANDS = {
    "status": ("status",),
    "wait": ("wait", "job"),
    "logs": ("logs", "job"),
    "cancel": ("cancel", "job"),
    "resume": ("resume", "job"),
    "submit": ("submit", "-f", "-"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_kubeconfig(m3, job_yaml, command):
    ended = m3(*command, text=job_yaml(), KUBECONFIG="")
    assert (ended.code, ended.out) == (10, "")
    assert ended.err == (
        f"error: a kubeconfig must say which cluster: there is none at {m3.folder}/.kube/config. Set KUBECONFIG, or bring a "
        "cluster up with `make cluster-up`; without a cluster, `m3 run -f FILE` trains on this machine\n"
    )


def test_a_kubeconfig_that_is_none(m3, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("clusters: {}\n")
    ended = m3("status", KUBECONFIG=str(broken))
    assert ended.code == 10
    assert ended.err.startswith(f"error: the kubeconfig {broken} must be readable: ")


def test_an_unknown_context(m3):
    ended = m3("status", "--context", "prod")
    assert (ended.code, ended.err) == (2, "error: --context: must be one of the kubeconfig's (test), is prod\n")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_an_api_server_that_is_down(m3, job_yaml, tmp_path, command):
    document = yaml.safe_load(m3.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "down").write_text(yaml.safe_dump(document))
    # `wait` is patient with a server that has answered once; this one never has
    ended = m3(*command, text=job_yaml(), KUBECONFIG=str(tmp_path / "down"))
    assert (ended.code, ended.out) == (10, "")
    assert ended.err == (
        "error: the API server at https://127.0.0.1:9 must answer: [Errno 111] Connection refused. Is the cluster running, "
        "and is it the right one (kubectl config current-context)?\n"
    )


def test_credentials_that_are_not_accepted(m3, tmp_path):
    document = yaml.safe_load(m3.kubeconfig.read_text())
    document["users"][0]["user"]["token"] = "expired"
    (tmp_path / "expired").write_text(yaml.safe_dump(document))
    ended = m3("status", KUBECONFIG=str(tmp_path / "expired"))
    assert (ended.code, ended.err) == (
        11,
        "error: the API server must accept your credentials, and does not (Unauthorized): log in to the cluster again\n",
    )


@pytest.mark.parametrize("command", [command for name, command in COMMANDS.items() if name not in ("status", "submit")])
def test_a_job_that_is_not_there(m3, namespace, command):
    ended = m3(*command)
    assert (ended.code, ended.err) == (
        12,
        f"error: TrainingJob `job` must be in namespace `{namespace.name}`, and is not; m3 status -A shows what there is\n",
    )


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_namespace_that_is_not_there(m3, job_yaml, command):
    ended = m3(*command, "-n", "nowhere", text=job_yaml())
    assert (ended.code, ended.err) == (
        12,
        "error: namespace `nowhere` must be there: kubectl create namespace nowhere, or name another with -n\n",
    )


def test_a_right_that_is_missing(as_user, namespace, job_yaml):
    ended = as_user("reader")("submit", "-f", "-", text=job_yaml())
    assert (ended.code, ended.err) == (
        11,
        "error: user `system:serviceaccount:m3-system:m3-operator` must have the right to patch trainingjobs.m3.dev in "
        f"namespace `{namespace.name}`: ask the cluster's administrator for it\n",
    )


def test_a_cluster_without_m3(m3, monkeypatch):
    """A group that this API server does not know is what ours is to a cluster without the CRDs."""
    monkeypatch.setenv("KUBECONFIG", str(m3.kubeconfig))
    monkeypatch.setattr(kube, "API", "/apis/absent.m3.dev/v1alpha1")
    cluster = kube.connect()
    for ask in (lambda: cluster.jobs(cluster.namespace), lambda: cluster.job(cluster.namespace, "job")):
        with pytest.raises(
            kube.NotInstalled, match=r"^the cluster must have M3 installed, and knows no TrainingJob: helm "
        ) as raised:
            ask()
        assert raised.value.exit_code == 12


def test_the_python_package_that_is_missing(m3, tmp_path):
    (tmp_path / "absent" / "kubernetes").mkdir(parents=True)
    (tmp_path / "absent" / "kubernetes" / "__init__.py").write_text("raise ModuleNotFoundError('kubernetes')\n")
    ended = m3("status", PYTHONPATH=str(tmp_path / "absent"))
    assert (ended.code, ended.err) == (
        10,
        "error: the Python package `kubernetes` must be there for commands that talk to a cluster: "
        "pip install 'm3-ml[cluster]'\n",
    )


def test_a_namespace_of_the_file_and_another_of_the_flag(m3, job_yaml):
    document = yaml.safe_load(job_yaml())
    document["metadata"]["namespace"] = "theirs"
    ended = m3("submit", "-f", "-", "-n", "ours", text=yaml.safe_dump(document))
    assert (ended.code, ended.err) == (
        2,
        "error: --namespace: must be the file's, theirs, or be left out, is ours\n",
    )


# --- completion -------------------------------------------------------------------------------------------------------
def complete(cli, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What bash asks for at the tab behind `line`."""
    words = {"_M3_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return subprocess.run(
        [BIN / "m3"], env=cli.environment(words | environment), capture_output=True, text=True, check=False, timeout=30
    )


def test_tab_completes_jobs_and_namespaces(m3, namespace):
    for name in ("fraud-one", "fraud-two", "other"):
        namespace.create(name)
    assert complete(m3, "m3 status fraud").stdout.split() == ["fraud-one", "fraud-two"]
    assert complete(m3, "m3 logs other").stdout.split() == ["other"]
    assert complete(m3, f"m3 status -n {namespace.name[:-1]}").stdout.split() == [namespace.name]


@pytest.mark.parametrize("server", ["", "https://127.0.0.1:9", "https://192.0.2.1:6443"])
def test_tab_is_quick_and_quiet_without_a_cluster(m3, tmp_path, server):
    document = yaml.safe_load(m3.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = server
    (tmp_path / "down").write_text(yaml.safe_dump(document))
    path = str(tmp_path / "down") if server else os.devnull
    start = time.monotonic()
    done = complete(m3, "m3 status fraud", KUBECONFIG=path)
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert time.monotonic() - start < 5
