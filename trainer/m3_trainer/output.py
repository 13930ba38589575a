"""The output of a job on its way: to standard output, to the container's log, and, bounded, into memory."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from m3_trainer.errors import MARK

MAX_LINE = 64 * 1024
"""Bytes held back for the end of a line; a longer line goes on in pieces."""
MAX_WRITE = 4096
"""A write of this size into a pipe is never mixed with another process's (PIPE_BUF): the container's log has several writers."""
PATIENCE_SECONDS = 1.0
FIRST_BYTES, NEWEST_BYTES = 1024 * 1024, 7 * 1024 * 1024


class Sink(Protocol):
    def write(self, line: bytes) -> None: ...


class Lines:
    """Cuts a stream into lines, each with its line break; what is no text passes as it is."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
        if len(self._rest) >= MAX_LINE:
            yield self.rest()

    def rest(self) -> bytes:
        """What is left of a last line without a line break."""
        rest, self._rest = self._rest, b""
        return rest


class Output:
    """Every line to every sink; a line of `M3_ERROR` is held back, because it must be the last."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks, self._error = sinks, b""

    def line(self, line: bytes) -> None:
        if line.startswith(MARK.encode()):
            line, self._error = self._error, line
        if line:
            for sink in self._sinks:
                sink.write(line)

    def say(self, text: str) -> None:
        self.line(text.encode() + b"\n")

    @property
    def error(self) -> bytes:
        """The line of `M3_ERROR`, or nothing."""
        return self._error

    def end(self) -> None:
        """Write what was held back."""
        error, self._error = self._error, b""
        for sink in self._sinks if error else ():
            sink.write(error)


class Standard:
    """Standard output, which Ray keeps as the driver's log. That its disk is full is no reason to end a training."""

    def write(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(1, line) :]
        except OSError:
            return


class ContainerLog:
    """The log of the pod's first process, which `kubectl logs` shows: its pipe, opened once more, without waiting for it.

    Each line has a prefix that names job and attempt, because on a shared cluster several jobs write there. Nothing that goes
    wrong here is an error: the log is also kept in MLflow.
    """

    def __init__(self, path: str, prefix: str) -> None:
        self._prefix, self._patience = prefix.encode(), PATIENCE_SECONDS
        self._file = _opened(path)

    def write(self, line: bytes) -> None:
        size = MAX_WRITE - len(self._prefix) - 1
        line = line.rstrip(b"\r\n")
        for start in range(0, max(1, len(line)), size):
            self._put(self._prefix + line[start : start + size] + b"\n")

    def _put(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            if select.select([], [self._file], [], self._patience)[1]:
                os.write(self._file, data)
                self._patience = PATIENCE_SECONDS
            else:
                self._patience = 0.0  # whoever reads it has stopped: the training does not wait for each line
        except BlockingIOError:
            self._patience = 0.0
        except OSError:
            self._file = None


def _opened(path: str) -> int | None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND)
        if os.path.samestat(os.fstat(file), os.fstat(1)):  # this is the pod's first process
            os.close(file)
            return None
        return file
    except (OSError, ValueError):
        return None


class Kept:
    """The first megabyte and the newest seven, in memory: a job that ends because the disk is full has its log as well."""

    def __init__(self, first: int = FIRST_BYTES, newest: int = NEWEST_BYTES) -> None:
        self._room, self._newest_bytes = first, newest
        self._first: list[bytes] = []
        self._newest: deque[bytes] = deque()
        self._size = self._left_out = 0

    def write(self, line: bytes) -> None:
        if not self._newest and len(line) <= self._room:
            self._room -= len(line)
            self._first.append(line)
            return
        self._newest.append(line)
        self._size += len(line)
        while self._size > self._newest_bytes:
            gone = len(self._newest.popleft())
            self._size, self._left_out = self._size - gone, self._left_out + gone

    def data(self) -> bytes:
        gap = [f"\n… {self._left_out:,} bytes left out …\n".encode()] if self._left_out else []
        return b"".join([*self._first, *gap, *self._newest])
