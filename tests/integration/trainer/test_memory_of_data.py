"""Memory while rows are read: at most three times what the columns in use take, however many others there are.

Measured in a process of its own, by the kernel: the peak of its resident memory over what it had before.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy
from pyarrow import csv, parquet

ROWS, COLUMNS, USED = 400_000, 40, 16
PROBE = """
import json, sys
from pathlib import Path
from m3_trainer.config import Workload
from m3_trainer.train import prepare
from m3_trainer.data import frame, sources

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def read(workload):
    return sources.read(workload.data, frame.needed(workload))

work = {"read": read, "prepare": prepare}[sys.argv[1]]
small, large = (Workload.parse(each) for each in json.loads(sys.argv[2]))
work(small)  # imports, threads, pools
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
made = work(large)
peak = status("VmHWM") - before
used = read(large).frame.memory_usage(index=False, deep=True).sum()
print(json.dumps({"peak": peak, "used": int(used)}))
"""


def table(rows: int) -> pa.Table:
    rng = np.random.default_rng(1)
    numbers = {f"c{index}": rng.integers(0, 1_000_000, rows) / 8 for index in range(COLUMNS - 2)}
    return pa.table({"y": rng.integers(0, 2, rows)} | numbers | {"word": pa.array(["a few words"] * rows)})


def write(kind: str, folder: Path, rows: int) -> dict:
    """The table in a file or a database of this kind; `data` of a workload that reads it."""
    path, whole = folder / f"{rows}.{kind}", table(rows)
    if kind == "parquet":
        parquet.write_table(whole, path, row_group_size=100_000)
    elif kind == "db":
        numbers = ", ".join(f"(i + {index}) / 8.0 as {name}" for index, name in enumerate(whole.column_names[1:-1]))
        made = f"select i % 2 as y, {numbers}, 'a few words' as word from numbers"
        counted = f"with recursive numbers(i) as (select 1 union all select i + 1 from numbers where i < {rows}) {made}"
        with sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool).begin() as connection:
            connection.execute(sqlalchemy.text(f"create table rows as {counted}"))
        return {"uri": f"sqlite:///{path}", "query": "select * from rows"}
    elif kind == "csv.gz":
        with pa.CompressedOutputStream(str(path), "gzip") as file:
            csv.write_csv(whole, file)
    else:
        for part in range(4) if kind == "many" else [0]:
            one = path / f"{part}.csv" if kind == "many" else path
            one.parent.mkdir(exist_ok=True)
            csv.write_csv(whole.slice(part * rows // 4, rows // 4) if kind == "many" else whole, one)
    return {"uri": f"{path}/" if kind == "many" else str(path)}


def measure(work: str, kind: str, folder: Path, rows: int = ROWS) -> float:
    """Peak ÷ what the columns in use take."""
    features = {"include": [f"c{index}" for index in range(USED - 1)]}
    workloads = [
        {"data": {"target": "y"} | write(kind, folder, count), "features": features} for count in (1_000, rows)
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, work, json.dumps(workloads)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["used"] == rows * USED * 8
    return found["peak"] / found["used"]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "many", "parquet", "db"])
def test_reading_takes_at_most_three_times_the_columns_in_use(tmp_path: Path, kind: str) -> None:
    ratio = measure("read", kind, tmp_path)
    assert 1 <= ratio <= 3, ratio


def test_what_a_model_sees_is_made_within_that_too(tmp_path: Path) -> None:
    # rows enough that what is the same for any number of them (pools, blocks of the reader: 30 to 50 MB) weighs little
    ratio = measure("prepare", "parquet", tmp_path, rows=1_200_000)
    assert 1 <= ratio <= 3, ratio
