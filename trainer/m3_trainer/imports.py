"""Imports that take their time: without the garbage collector, and ahead of their need."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected(name: str) -> Iterator[None]:
    """A block that imports a module, and what belongs to it, for the first time.

    Its objects stay, and while they grow in number the collector looks through all of them again and again: a quarter of the time
    of importing scikit-learn and MLflow. Frozen, they are not looked at later either. Not so where the module is there already:
    what is garbage by then would be frozen, too.
    """
    if name in sys.modules:
        yield
        return
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def ahead(*names: str) -> threading.Thread:
    """Import modules beside what goes on; whoever needs one earlier waits for it. One that fails does so again where it is used,
    and is told of there. Not a daemon: the interpreter, when it ends, must not take an extension module down halfway through.
    """
    thread = threading.Thread(target=_import, args=(names,), name="imports")
    thread.start()
    return thread


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
