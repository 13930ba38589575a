"""What several suites need."""

import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

M3 = [sys.executable, "-m", "m3_trainer"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def wait_until(condition: Callable[[], object], seconds: float, say: Callable[[], object] = lambda: "") -> None:
    """Return as soon as the condition holds; fail after that many seconds, with what `say` has to say."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s: {say()}"
        pause.wait(0.05)


def unused_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
