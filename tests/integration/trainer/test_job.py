"""The process of a job in the cluster against a real MLflow server: submitted again, stopped, killed, and what it leaves."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs import WORKLOAD, Job, children, error, result
from support import Ended, wait_until

from m3_trainer import supervisor
from m3_trainer.memory import Memory

SLOW = {
    "data": WORKLOAD["data"] | {"uri": "sample://transactions?rows=400000"},
    "model": {"hyperparameters": {"n_estimators": 5000}},
}
HUGE = SLOW | {"data": WORKLOAD["data"] | {"uri": "sample://transactions?rows=2000000"}}


# --- submitted again --------------------------------------------------------------------------------------------------
def test_a_finished_attempt_that_is_submitted_again_changes_nothing(job: Job) -> None:
    first = job.attempt()
    before = job.runs()[0]
    second = job.attempt(workload=WORKLOAD | {"data": {"uri": "none.csv", "target": "y"}})  # it does not even read
    assert result(first) | {"seconds": {}} == result(second)
    assert "attempt 1 has registered its model already" in second.out
    (run,) = job.runs()
    assert run.to_dictionary() == before.to_dictionary()
    expected = {
        "m3.job.uid": f"uid-{job.name}", "m3.job.attempt": "1", "m3.job.name": job.name, "m3.job.namespace": "fraud",
        "m3.operator": "m3-system/m3", "m3.model.name": job.name, "m3.model.version": "1",
    }  # fmt: skip
    assert run.data.tags.items() >= expected.items()
    assert run.info.status == "FINISHED"
    (version,) = job.versions()
    told = {"m3.job.uid": f"uid-{job.name}", "m3.job.attempt": "1", "m3.namespace": "fraud"}
    assert version.tags.items() >= told.items()
    assert job.client.get_registered_model(job.name).tags == {"m3.namespace": "fraud"}


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "FINISHED"])
def test_an_attempt_that_was_begun_before_ends_as_head_restarted(job: Job, status: str) -> None:
    client = job.client
    tags = {"m3.job.uid": f"uid-{job.name}", "m3.job.attempt": "1"}
    before = client.create_run(client.create_experiment(job.name), tags=tags).info.run_id
    client.update_run(before, status=status)
    ended = job.attempt()
    told = error(ended)
    assert (ended.code, told["reason"], told["retriable"]) == (9, "HeadRestarted", True)
    assert before in told["message"]
    (run,) = job.runs()
    assert (run.info.status, run.data.tags | tags) == (status, run.data.tags)
    assert client.list_artifacts(before) == []
    assert job.versions() == []


def test_a_version_that_nobody_was_told_of_gives_way_to_the_next_attempts(job: Job) -> None:
    for attempt, uid, is_told in ((1, "mine", True), (2, "mine", False), (2, "another", False)):
        made = result(job.attempt(attempt, M3_JOB_UID=uid))
        if not is_told:  # as if the job had died before its last words
            job.client.delete_tag(made["run"]["runId"], "m3.model.version")
    assert {str(version.version) for version in job.versions()} == {"1", "2", "3"}
    assert result(job.attempt(3, M3_JOB_UID="mine"))["model"]["version"] == "4"
    assert {str(version.version) for version in job.versions()} == {"1", "3", "4"}


def test_two_jobs_at_once_share_one_experiment_and_take_two_versions(job: Job) -> None:
    ended: list[Ended] = []
    threads = [
        threading.Thread(target=lambda uid=uid: ended.append(job.attempt(M3_JOB_UID=uid)))
        for uid in ("eleven", "twelve")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result(one)["model"]["version"] for one in ended} == {"1", "2"}


# --- how it ends ------------------------------------------------------------------------------------------------------
def test_the_whole_output_is_an_artifact_of_the_run(job: Job, tmp_path: Path) -> None:
    ended = job.attempt()
    (run,) = job.runs()
    assert job.log(run, tmp_path).decode() == ended.out
    assert "\nfit " in ended.out
    assert ended.err == ""


def test_a_failing_job_ends_with_one_line_for_the_operator(job: Job, tmp_path: Path) -> None:
    ended = job.attempt(workload=WORKLOAD | {"data": WORKLOAD["data"] | {"uri": "none.csv"}})
    told = error(ended)
    assert (ended.code, told["reason"], told["type"], told["retriable"]) == (3, "InvalidData", "DataError", False)
    assert told["message"].startswith("data.uri: the file none.csv must exist where the job runs")
    (run,) = job.runs()
    assert run.info.status == "FAILED"
    assert job.log(run, tmp_path).decode() == ended.out


def test_a_job_without_a_workload_says_so(job: Job) -> None:
    ended = job.attempt(M3_WORKLOAD="")
    assert (ended.code, error(ended)["reason"]) == (2, "InvalidSpec")


USER_CLASS = """
from sklearn.base import BaseEstimator, ClassifierMixin

class Model(ClassifierMixin, BaseEstimator):
    def fit(self, features, target):
        raise KeyError("no such table" * 10_000)

    def predict_proba(self, features):
        return features

    def save(self, folder): ...
    def load(folder): ...
"""


def test_an_error_in_a_class_of_the_users_own_is_told_with_its_file_and_line(job: Job, clean: Path) -> None:
    for text, message in (
        (USER_CLASS.replace(" * 10_000", ""), f"'no such table' ({clean / 'mine.py'}, line 6)"),
        (USER_CLASS, "'" + "no such table" * 307 + "no such "),  # 4,000 characters: Ray keeps 20,000 of all lines
    ):
        (clean / "mine.py").write_text(text)
        ended = job.attempt(len(message), WORKLOAD | {"model": {"type": "mine:Model"}}, PYTHONPATH=str(clean))
        told = error(ended)
        assert (ended.code, told["reason"], told["type"]) == (8, "UserCodeFailed", "KeyError"), ended.out
        assert told["message"] == message


@pytest.fixture
def started(job: Job) -> Iterator[Callable[[dict], subprocess.Popen[str]]]:
    """Starts a slow job, and returns when it trains."""
    processes = []

    def start(workload: dict[str, Any] = SLOW) -> subprocess.Popen[str]:
        processes.append(job.start(1, workload))
        wait_until(job.is_training, 90)
        return processes[-1]

    yield start
    for process in processes:
        for child in children(process.pid) if process.poll() is None else ():
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


# What one call of the library takes: a tree of two million rows, many seconds; of a few thousand, none that matters.
STOPPED = {"at once": SLOW, "in the middle of a long call": HUGE}
RAY_STOP_SECONDS = 3.0


@pytest.mark.parametrize("workload", STOPPED.values(), ids=STOPPED.keys())
def test_sigterm_to_every_process_ends_the_run_as_killed_before_ray_kills_them(
    job: Job, started: Callable[[dict], subprocess.Popen[str]], tmp_path: Path, workload: dict
) -> None:
    process = started(workload)
    for each in (process.pid, *children(process.pid)):
        os.kill(each, signal.SIGTERM)
    output, _ = process.communicate(timeout=RAY_STOP_SECONDS)
    assert process.returncode == 130
    (run,) = job.runs()
    assert run.info.status == "KILLED"
    assert "m3.error" not in run.data.tags
    assert job.log(run, tmp_path).decode() == output


def test_a_run_whose_process_was_killed_is_ended_by_the_supervisor(
    job: Job, started: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = started()
    (child,) = children(process.pid)
    os.kill(child, signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 137
    assert "M3_ERROR" not in output  # why it was killed is not known here
    (run,) = job.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["m3.error"] == "the training process was ended by SIGKILL"
    assert job.log(run, tmp_path).decode() == output


# --- the supervisor alone, around a command of the test's -------------------------------------------------------------
def supervise(
    code: str,
    capfd: pytest.CaptureFixture[str],
    log: Path | None = None,
    memory: Path | None = None,
    **environment: str,
) -> Ended:
    pod = supervisor.Pod(str(log) if log else None, Memory(memory))
    ended = supervisor.supervise([sys.executable, "-c", code], os.environ | environment, pod)
    captured = capfd.readouterr()
    return Ended(ended, captured.out, captured.err)


def test_what_a_job_writes_is_also_in_the_containers_log_line_by_line(tmp_path: Path, capfd) -> None:
    log = tmp_path / "container.log"
    log.touch()
    code = (
        "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.buffer.write(b'\\xff\\x00\\n');"
        "print('x' * 200_000); print('M3_ERROR {}'); print('after', end='')"
    )
    ended = supervise(code, capfd, log, M3_JOB_NAME="fraud-rf", M3_ATTEMPT="2")
    assert ended.code == 0
    lines = log.read_bytes().splitlines()
    assert lines[:3] == [b"[fraud-rf/2] one", b"[fraud-rf/2] two", b"[fraud-rf/2] \xff\x00"]
    assert lines[-2:] == [b"[fraud-rf/2] after", b"[fraud-rf/2] M3_ERROR {}"]
    assert max(map(len, lines)) <= 4096
    assert sum(line.count(b"x") for line in lines[3:-2]) == 200_000
    assert ended.out.splitlines()[-2:] == ["after", "M3_ERROR {}"]


def test_a_containers_log_that_nobody_reads_stops_no_job(tmp_path: Path, capfd) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    ended = supervise("print('line\\n' * 40_000)", capfd, tmp_path / "pipe")
    os.close(reader)
    assert (ended.code, ended.out.count("line")) == (0, 40_000)


@pytest.mark.parametrize("log", ["missing/log", "."], ids=["not there", "no file"])
def test_a_containers_log_that_cannot_be_written_to_is_no_error(tmp_path: Path, capfd, log: str) -> None:
    ended = supervise("print('line')", capfd, tmp_path / log)
    assert (ended.code, ended.out) == (0, "line\n")


def test_a_process_that_the_training_leaves_behind_is_not_waited_for(capfd) -> None:
    pause = "[sys.executable, '-c', 'import signal; signal.pause()']"
    behind = f"import os, subprocess, sys; print(subprocess.Popen({pause}).pid, flush=True); os._exit(7)"
    ended = supervise(behind, capfd)
    assert ended.code == 7
    os.kill(int(ended.out), signal.SIGKILL)


COUNTERS = {
    "version 1": ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n", "memory.limit_in_bytes"),
    "version 2": ("memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill {}\noom_group_kill 0\n", "memory.max"),
}


@pytest.mark.parametrize(("file", "text", "limit"), COUNTERS.values(), ids=COUNTERS.keys())
def test_a_kill_that_the_cgroup_counts_is_told_as_oomkilled(
    tmp_path: Path, capfd, file: str, text: str, limit: str
) -> None:
    (tmp_path / file).write_text(text.format(3))
    (tmp_path / limit).write_text(f"{1536 * 2**20}\n")
    counted = f"open({str(tmp_path / file)!r}, 'w').write({text.format(4)!r})"
    kill = f"import os; {counted}; print('at work', flush=True); os.kill(os.getpid(), 9)"
    ended = supervise(kill, capfd, memory=tmp_path)
    told = error(ended)
    assert (ended.code, told["reason"], told["retriable"]) == (137, "OOMKilled", False)
    assert told["message"] == (
        "the job must fit into the memory of its pod (1.5Gi); the kernel killed it for wanting more. Raise "
        "spec.ray.head.resources.limits.memory, or train on fewer rows with spec.data.sampleSize"
    )
    ended = supervise("import os; os.kill(os.getpid(), 9)", capfd, memory=tmp_path)  # killed, and not by want of memory
    assert (ended.code, ended.out) == (137, "")
