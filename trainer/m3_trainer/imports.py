"""Imports that take their time, without the garbage collector.

Not ahead of their need, in a thread beside the fit: two threads that import modules which import each other, as scikit-learn's
do, may see one half made, and the fit then fails.
"""

from __future__ import annotations

import contextlib
import gc
import sys
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
