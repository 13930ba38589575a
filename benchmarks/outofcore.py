"""Data of 2.6 times the memory limit: xgboost by external memory, inside a memory cgroup of that limit.

The limit is the kernel's: a cgroup (version 1 or 2) of its own around the process, as a pod has one; that takes root. The data
are doubles drawn at random in one Parquet file, so that no compression makes them small. Beside it: the script that a user would
write (pandas, XGBClassifier) in the same cgroup, and our own job without a limit, which reads all rows into memory.
Usage: python benchmarks/outofcore.py [--rows 3500000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import machine, write

COLUMNS, GROUP_ROWS = 100, 50_000
LIMIT = 2**30
ROOT = Path("/sys/fs/cgroup")
HYPERPARAMETERS = {"n_estimators": 30, "max_depth": 6, "learning_rate": 0.3, "tree_method": "hist"}
SCRIPT = """
import sys, pandas, xgboost
frame = pandas.read_parquet(sys.argv[1])
xgboost.XGBClassifier(n_estimators=30, max_depth=6, learning_rate=0.3).fit(frame.drop(columns="y"), frame["y"])
"""


def generate(path: Path, rows: int) -> None:
    """`rows` of 100 normal features and a target that six of them make likely."""
    import pyarrow as pa
    from pyarrow import parquet

    names = [f"x{number}" for number in range(COLUMNS)]
    schema = pa.schema([(name, pa.float64()) for name in names] + [("y", pa.int8())])
    rng = np.random.default_rng(1)
    with parquet.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, rows, GROUP_ROWS):
            x = rng.standard_normal((COLUMNS, min(GROUP_ROWS, rows - start)))
            logit = x[0] * x[1] + x[2] - np.abs(x[3]) + x[4] * (x[5] > 0) - 3
            y = (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.int8)
            writer.write_table(pa.table([*x, y], schema=schema), row_group_size=GROUP_ROWS)


@dataclass(frozen=True)
class Cgroup:
    """A memory cgroup: its folder, and the names that its version has for limit and peak."""

    folder: Path
    version: int

    @property
    def files(self) -> tuple[str, str]:
        return (
            ("memory.max", "memory.peak")
            if self.version == 2
            else ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
        )

    def around(self, command: list[str]) -> list[str]:
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh", *command]

    def peak(self) -> int:
        return int((self.folder / self.files[1]).read_text())


@contextmanager
def limited(size: int) -> Iterator[Cgroup]:
    version = 2 if (ROOT / "cgroup.controllers").exists() else 1
    group = Cgroup((ROOT if version == 2 else ROOT / "memory") / f"m3-outofcore-{os.getpid()}", version)
    group.folder.mkdir()
    try:
        (group.folder / group.files[0]).write_text(str(size))
        yield group
    finally:
        group.folder.rmdir()


def job(data: Path, folder: Path) -> list[str]:
    spec = {
        "data": {"uri": str(data), "target": "y"},
        "model": {"type": "xgboost", "hyperparameters": HYPERPARAMETERS},
        "training": {"testSize": 0.02},
    }
    path = folder / "job.json"
    path.write_text(
        json.dumps({"apiVersion": "m3.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "big"}, "spec": spec})
    )
    return [
        sys.executable,
        "-m",
        "m3_trainer",
        "run",
        "-f",
        str(path),
        "--home",
        str(folder / "home"),
        "--output",
        "json",
    ]


def run(command: list[str]) -> dict[str, Any]:
    """How it ended, its seconds, and the largest resident set of a process that was waited for."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        err.seek(0)
        code = os.waitstatus_to_exitcode(status)
        if code > 0:
            raise SystemExit(err.read())
        text = out.read()
    found = {"exit_code": code, "seconds": round(seconds, 1), "peak_rss_bytes": usage.ru_maxrss * 1024}
    if text.startswith("{"):
        told = json.loads(text)
        found |= {"average_precision": told["metrics"]["average_precision"], "seconds_of_steps": told["seconds"]}
    return found


def run_within(size: int, command: list[str]) -> dict[str, Any]:
    with limited(size) as group:
        found = run(group.around(command))
        return found | {"cgroup_version": group.version, "cgroup_peak_bytes": group.peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_500_000)
    parser.add_argument("--limit", type=int, default=LIMIT, help="bytes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), Path(name) / "rows.parquet"
        generate(data, asked.rows)
        ours = run_within(asked.limit, job(data, folder))
        script = run_within(asked.limit, [sys.executable, "-c", SCRIPT, str(data)])
        whole = run(job(data, folder))
        size = data.stat().st_size
    found = {
        "limit_bytes": asked.limit,
        "data_bytes": size,
        "data_to_limit": round(size / asked.limit, 2),
        "ratio": round(ours["seconds"] / whole["seconds"], 2),
        "ours_within_the_limit": ours,
        "script_within_the_limit": script,
        "ours_without_a_limit": whole,
    }
    write(
        "outofcore",
        {"command": f"make bench-outofcore (--rows {asked.rows})", "date": time.strftime("%Y-%m-%d")}
        | machine()
        | found,
    )


if __name__ == "__main__":
    main()
