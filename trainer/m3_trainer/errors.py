"""Everything a user of the trainer can be told to mend.

    M3Error                      exit 1
    ├── UserError                never retried: the same file fails again
    │   ├── InvalidSpec          exit 2   the file says something that cannot be
    │   ├── DataError            exit 3   the data is not what the file says it is
    │   ├── TrainingFailed       exit 6   the model refused to learn from it
    │   ├── UserCodeFailed       exit 8   a class of the user's own raised
    │   └── OOMKilled            exit 137 the kernel killed it for want of memory; told by the supervisor
    └── EnvironmentFault         retried in the cluster, with back-off
        ├── TrackingUnavailable  exit 4   MLflow does not answer, or refuses
        ├── StorageFull          exit 5   no space left where it writes
        ├── SourceUnavailable    exit 7   the data's store does not answer
        ├── NodesUnavailable     exit 16  the Ray cluster does not answer, or loses its nodes
        └── HeadRestarted        exit 9   this attempt was begun before, and not ended by this process

The message of each is one sentence or two: what must be true, what was found, what to do. `Stopped` is not an error of this
tree: somebody asked the job to end.
"""

from __future__ import annotations

import errno
import json
import traceback
from collections.abc import Iterator
from typing import ClassVar

MARK = "M3_ERROR "
"""Starts the last line of a failing job."""
MAX_MESSAGE = 4_000
"""Characters of a message in that line: Ray keeps the last 20,000 of a job's output, and half a line of JSON tells nothing."""


class M3Error(Exception):
    """Base of the tree; `reason` becomes the reason of the job's condition in the cluster."""

    reason: ClassVar[str] = "TrainingFailed"
    exit_code: ClassVar[int] = 1
    retriable: ClassVar[bool] = False

    def report(self) -> str:
        """The last line of a failing job: Ray puts it into the RayJob's message, so the reason is known with MLflow down."""
        message = str(self)[:MAX_MESSAGE]
        body = {"reason": self.reason, "type": self.kind, "message": message, "retriable": self.retriable}
        return MARK + json.dumps(body)

    @property
    def kind(self) -> str:
        """The class of the error as the user knows it."""
        return type(self).__name__


class UserError(M3Error):
    """The user's to mend."""


class InvalidSpec(UserError):
    """The file says something that cannot be."""

    reason = "InvalidSpec"
    exit_code = 2


class DataError(UserError):
    """The data is not what the file says it is."""

    reason = "InvalidData"
    exit_code = 3


class TrainingFailed(UserError):
    """The model refused to learn from the data."""

    exit_code = 6


class UserCodeFailed(UserError):
    """A class of the user's own raised: what, and where in the user's file."""

    reason = "UserCodeFailed"
    exit_code = 8

    def __init__(self, raised: BaseException, prefix: str = "", file: str | None = None) -> None:
        """`file` is the user's: where it called a library that raised, its own line is the one to look at."""
        frames = [frame for frame in traceback.extract_tb(raised.__traceback__) if not frame.filename.startswith("<")]
        own = [frame for frame in frames if frame.filename == file] or frames
        is_told = not own or isinstance(raised, SyntaxError)  # which says so itself
        where = "" if is_told else f" ({own[-1].filename}, line {own[-1].lineno})"
        super().__init__(f"{prefix}{raised}{where}")
        self._kind = type(raised).__name__

    @property
    def kind(self) -> str:
        return self._kind


class OOMKilled(UserError):
    """The kernel killed the training process: the pod's memory is too small, and the next attempt's would be the same."""

    reason = "OOMKilled"
    exit_code = 137


class EnvironmentFault(M3Error):
    """Not the user's mistake; another attempt may succeed."""

    retriable = True


class TrackingUnavailable(EnvironmentFault):
    """MLflow does not answer, or refuses."""

    reason = "TrackingUnavailable"
    exit_code = 4


class StorageFull(EnvironmentFault):
    """No space left where the job writes."""

    reason = "StorageFull"
    exit_code = 5


class SourceUnavailable(EnvironmentFault):
    """The store of the data does not answer."""

    reason = "SourceUnavailable"
    exit_code = 7


class NodesUnavailable(EnvironmentFault):
    """The Ray cluster does not answer, or loses its nodes again and again."""

    reason = "NodesUnavailable"
    exit_code = 16


class HeadRestarted(EnvironmentFault):
    """A run of this attempt is there, and it was not this process that began it: the next attempt begins afresh."""

    reason = "HeadRestarted"
    exit_code = 9


class Stopped(BaseException):
    """SIGTERM or Ctrl-C: a BaseException, as KeyboardInterrupt is, so that no handler of errors takes it for one."""

    exit_code = 130


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_disk_full(error: BaseException) -> bool:
    """SQLite and MLflow wrap the operating system's error, and keep only its text."""
    return any(
        getattr(link, "errno", None) == errno.ENOSPC
        or "disk is full" in str(link)
        or "No space left on device" in str(link)
        for link in chain(error)
    )


def last_line(error: BaseException) -> str:
    """What a library has to say, in one line: the last one, where SQLAlchemy adds the statement and a link after it."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(("[SQL", "(Background"))]
    return lines[-1].strip() if lines else type(error).__name__
