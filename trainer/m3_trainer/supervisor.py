"""The process that Ray starts as a job: it starts the training as its child, and outlives it.

What only an outsider can do is done here: say that the kernel killed the training for want of memory, keep its output as an
artifact of its run, end a run that its process could not end. Ray stops a job by SIGTERM to each of its processes, and SIGKILL
3 s later (`RAY_JOB_STOP_WAIT_TIME_S`). A training notices SIGTERM when its library next returns to Python, and a tree of a
million rows takes seconds: so the supervisor waits for half of that time, kills the training, and ends its run itself.

Imports only what starts in milliseconds: a job waits for this module before it begins.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3_trainer.errors import OOMKilled, Stopped
from m3_trainer.memory import Memory, shown
from m3_trainer.origin import RUN_FILE
from m3_trainer.output import ContainerLog, Kept, Lines, Output, Standard

ATTEMPT = ("-m", "m3_trainer", "attempt")
READ_BYTES = 64 * 1024
STOP_SECONDS = 1.5
PAUSE_SECONDS, DRAIN_SECONDS = 0.1, 2.0
"""A process that the training left behind may hold its output open: after the training's end it is read for this long."""


@dataclass(frozen=True)
class Pod:
    """What there is around the job: the log of the container (None outside of a pod), and the cgroup of its memory."""

    log: str | None
    memory: Memory

    @classmethod
    def around(cls, environment: Mapping[str, str]) -> Pod:
        is_pod = bool(environment.keys() & {"KUBERNETES_SERVICE_HOST", "RAY_CLUSTER_NAME"})
        return cls("/proc/1/fd/1" if is_pod else None, Memory.of_this_process())


def main(arguments: Sequence[str]) -> int:
    """Run one attempt of a job; gives the exit code."""
    return supervise([sys.executable, *ATTEMPT, *arguments], os.environ, Pod.around(os.environ))


def supervise(command: Sequence[str], environment: Mapping[str, str], pod: Pod) -> int:
    """Run the command to its end. Gives its exit code; 128 + the signal's number where it was killed, 130 where stopped."""
    kept, kills = Kept(), pod.memory.kills()
    output = Output(Standard(), kept, *_container_log(pod, environment))
    with Relay() as relay, tempfile.TemporaryDirectory(prefix="m3-job-") as folder:
        told = Path(folder) / "run.json"
        code = _run(command, {**environment, RUN_FILE: str(told), "PYTHONUNBUFFERED": "1"}, output, relay)
        end = _end(code, relay.is_stopped, pod.memory, kills)
        if end.error:
            output.say(end.error.report())
        if told.exists():
            _settle(told, end, output, kept, environment)
    output.end()
    return end.code


@dataclass(frozen=True)
class End:
    """How the training ended; `status` is what its run must have, where its process was killed and may not have said it."""

    code: int
    status: str | None = None
    why: str = ""
    error: OOMKilled | None = None


def _end(code: int, is_stopped: bool, memory: Memory, kills: int) -> End:
    if code >= 0:
        return End(code)
    if is_stopped:
        return End(Stopped.exit_code, "KILLED")
    if code == -signal.SIGKILL and memory.kills() > kills:
        error = _out_of_memory(memory.limit())
        return End(error.exit_code, "FAILED", str(error), error)
    return End(128 - code, "FAILED", f"the training process was ended by {signal.Signals(-code).name}")


def _container_log(pod: Pod, environment: Mapping[str, str]) -> list[ContainerLog]:
    prefix = f"[{environment.get('M3_JOB_NAME', 'm3')}/{environment.get('M3_ATTEMPT', '1')}] "
    return [ContainerLog(pod.log, prefix)] if pod.log else []


def _run(command: Sequence[str], environment: Mapping[str, str], output: Output, relay: Relay) -> int:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as child:
        relay.to(child)
        _copy(child, output, relay)
        return child.wait()


def _copy(child: subprocess.Popen[bytes], output: Output, relay: Relay) -> None:
    """Until the child has ended and its output too; a process that it left behind is not waited for."""
    assert child.stdout is not None  # asked for by PIPE
    lines, last = Lines(), float("inf")
    while time.monotonic() < last:
        if relay.is_overdue():
            child.kill()
        if select.select([child.stdout], [], [], PAUSE_SECONDS)[0]:
            if not (chunk := os.read(child.stdout.fileno(), READ_BYTES)):
                break
            for line in lines.feed(chunk):
                output.line(line)
        elif child.poll() is not None:
            break
        if last == float("inf") and child.poll() is not None:
            last = time.monotonic() + DRAIN_SECONDS
    output.line(_ended(lines.rest()))


def _ended(line: bytes) -> bytes:
    """The line that comes next must not be glued to it."""
    return line + b"\n" if line and not line.endswith(b"\n") else line


class Relay:
    """Passes SIGTERM and SIGINT on to the child, also those that came before there was one, and knows since when."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._since: float | None = None

    def __enter__(self) -> Relay:
        self._before = {number: signal.signal(number, self._pass) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def to(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        for number in self._early:
            child.send_signal(number)

    @property
    def is_stopped(self) -> bool:
        return self._since is not None

    def is_overdue(self) -> bool:
        """Whether the child was asked to end, and has had its time."""
        return self._since is not None and time.monotonic() - self._since > STOP_SECONDS

    def _pass(self, number: int, _: Any) -> None:
        self._since = self._since or time.monotonic()
        if self._child is None:
            self._early.append(number)
        else:
            self._child.send_signal(number)


def _out_of_memory(limit: int | None) -> OOMKilled:
    has = f"the memory of its pod ({shown(limit)})" if limit else "the memory of its node"
    return OOMKilled(
        f"the job must fit into {has}; the kernel killed it for wanting more. Raise spec.ray.head.resources.limits.memory, "
        "or train on fewer rows with spec.data.sampleSize"
    )


def _settle(told: Path, end: End, output: Output, kept: Kept, environment: Mapping[str, str]) -> None:
    """What is left to do for the run. MLflow may be away by now: what cannot be done is said, and changes no exit code."""
    from m3_trainer import mlflow_rest

    if (run := mlflow_rest.OwnRun.read(told)) is None:
        return
    try:
        if end.status:
            mlflow_rest.end_if_running(run, end.status, end.why, environment)
        mlflow_rest.store_log(run, kept.data() + output.error, environment)
    except mlflow_rest.FAULTS as fault:
        output.say(f"MLflow was not told how the job ended, or has no {mlflow_rest.LOG_FILE}: {fault}")
