"""What several suites need."""

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
