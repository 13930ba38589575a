"""What every benchmark needs: the machine's size, a timed process, a result file."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import random
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
SAMPLE = ROOT / "manifests/samples/trainingjob.yaml"
PORTS = itertools.cycle(random.sample(range(20_000, 32_000), 12_000))
HANDBOOK = next(
    (path for folder in ROOT.parents if (path := folder / "shared/data/transactions.parquet").exists()), None
)
"""The Fraud Detection Handbook's transactions, where they lie beside the repository; they are no part of it."""
VERSIONS = ("mlflow", "numpy", "pandas", "ray", "scikit-learn", "skops")


def unused_port() -> int:
    """A port that nobody listens on, and not the same one soon again. None that the kernel gives to connections: of those, one
    is taken now and then between this look and the server's bind."""
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise AssertionError("PORTS has no end")


def machine() -> dict[str, Any]:
    """Cores, memory and versions: a figure means little without them."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(memory, 1),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def timed(command: list[str]) -> dict[str, Any]:
    """Wall seconds of the whole process, and the JSON of its last line."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return {"wall_seconds": round(wall, 3), "output": json.loads(done.stdout.splitlines()[-1])}


Reading = tuple[float, float]
"""A moment, in seconds, and the most memory that the process has held by then, in MiB."""


def reading() -> Reading:
    """Not `ru_maxrss`: that begins with what the parent held."""
    status = Path("/proc/self/status").read_text()
    return time.perf_counter(), int(status.split("VmHWM:")[1].split()[0]) / 1024


def told(metrics: dict[str, float], steps: dict[str, tuple[Reading, Reading]]) -> dict[str, Any]:
    """What one side of a paired benchmark prints; `steps` by their beginning and end."""
    last = reading()
    return {
        "metrics": metrics,
        "seconds": {name: round(end[0] - start[0], 3) for name, (start, end) in steps.items()},
        "peak_mib_by_then": {name: round(end[1]) for name, (_, end) in steps.items()},
        "cpu_seconds": round(time.process_time(), 3),
        "peak_mib": round(last[1]),
    }


def write(name: str, result: dict[str, Any]) -> None:
    """`results/NAME.json`, and the same on one line, last."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
