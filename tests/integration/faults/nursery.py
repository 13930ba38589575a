"""Where operators are born: forked from a process that has imported what they need.

Python's start and imports are a second of CPU, and all plans together start three thousand operators. What follows the imports
is what `python -m m3_operator` does, in a process of its own with the environment that it is given.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

from kubernetes.aio.config import kube_config as aio_kube_config
from kubernetes.config import kube_config

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["m3_operator.handlers", "m3_operator.probes", "kopf.cli"])


def become(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
    """Be `python -m <command>` in `folder`, whose words go to `log`."""
    os.environ.clear()
    os.environ.update(environment)
    for client in (kube_config, aio_kube_config):
        client.KUBE_CONFIG_DEFAULT_LOCATION = environment["KUBECONFIG"]  # they have read it at their import
    os.chdir(folder)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
