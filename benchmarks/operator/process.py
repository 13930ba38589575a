"""A child process, and what the kernel knows of it."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from apiserver import wait_for

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, resident memory now and at its highest, in MB (10^6 bytes)."""

    cpu_seconds: float
    rss_mb: float
    peak_rss_mb: float


def usage(pid: int) -> Usage:
    """Of one process, from Linux's /proc; none of the measured operators has children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    lines = (line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    memory = {name: value.split()[0] for name, value in lines if name in ("VmRSS", "VmHWM")}
    cpu = (int(fields[11]) + int(fields[12])) / TICKS
    return Usage(cpu, int(memory["VmRSS"]) * 1024 / 1e6, int(memory["VmHWM"]) * 1024 / 1e6)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


class Program:
    """A process whose output is in a file."""

    metrics = ""
    """Where it tells of its metrics, if it does."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, name: str) -> None:
        self._command, self._environment, self._folder = command, environment, folder
        self.log = folder / f"{name}.log"
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self._folder, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def usage(self) -> Usage:
        return usage(self.pid)

    def wait_until(self, url: str, seconds: float = 60) -> None:
        wait_for(lambda: answers(url) or self._process.poll() is not None, seconds, f"{url} answers")
        if self._process.poll() is not None:
            raise SystemExit(f"{' '.join(self._command)} has ended:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self._start()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
