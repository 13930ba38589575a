"""A training as it goes, on a terminal: one line that moves, below the lines of the steps that are done."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from m3_trainer.progress import Watch

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def is_wanted() -> bool:
    """On a terminal that can move its cursor, and where nobody has asked for quiet."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return is_terminal and logging.getLogger("m3_trainer").isEnabledFor(logging.INFO)


@contextmanager
def watching() -> Iterator[Watch | None]:
    """A bar on standard error; None where a log is written, which gets plain lines."""
    if not is_wanted():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<20}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, refresh_per_second=4)
    with bar, _lines_above():
        yield Bar(bar, bar.add_task("", total=1.0, left=""))


@contextmanager
def _lines_above() -> Iterator[None]:
    """While a bar is shown, standard error is rich's, which writes above the bar: so handlers must write to that, too."""
    before = sys.__stderr__
    named = [logging.getLogger(), *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
    handlers = {each for logger in named for each in logger.handlers if isinstance(each, logging.StreamHandler)}
    moved = [each for each in handlers if each.stream is before]
    for each in moved:
        each.setStream(sys.stderr)
    try:
        yield
    finally:
        for each in moved:
            each.setStream(before)


class Bar:
    """What `m3_trainer.progress.Watch` asks for."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def step(self, name: str) -> None:
        self._bar.update(self._task, description=name, left="")

    def share(self, done: float, seconds_left: int | None) -> None:
        left = "" if seconds_left is None else f"about {seconds_left} s left"
        self._bar.update(self._task, completed=done, left=left)
