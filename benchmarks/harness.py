"""What every benchmark needs: the machine's size, a timed process, a result file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
VERSIONS = ("mlflow", "numpy", "pandas", "ray", "scikit-learn", "skops")


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


def write(name: str, result: dict[str, Any]) -> None:
    """`results/NAME.json`, and the same on one line, last."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
