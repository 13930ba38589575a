"""The Handbook's twelve window columns from its raw ones: ours beside pandas' rolling, as the Handbook has them, on one core.

Each side is a process of its own on one and the same core, the table read before the clock starts. The peer is the method of
the Handbook's chapter 3 (a `rolling` for each key's rows, put together again), on as many of the last rows as `--rows` says:
it needs minutes for all. Ours computes these and, for the figure that the goal is about, all.
Usage: python benchmarks/windows.py [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
from harness import HANDBOOK, machine, timed, write

from m3_trainer.config import Window
from m3_trainer.data import windows

DAYS, DELAY_DAYS = (1, 7, 30), 7
RAW = ["TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"]
DECLARED = (
    Window(key="CUSTOMER_ID", of="TX_AMOUNT", days=DAYS),
    Window(key="TERMINAL_ID", of="TX_FRAUD", days=DAYS, delay_days=DELAY_DAYS),
)
PUBLISHED = [f"CUSTOMER_ID_{name}_{days}DAY_WINDOW" for days in DAYS for name in ("NB_TX", "AVG_AMOUNT")] + [
    f"TERMINAL_ID_{name}_{days}DAY_WINDOW" for days in DAYS for name in ("NB_TX", "RISK")
]
GOAL_ROWS_PER_SECOND = 1_000_000


def ours(frame: pd.DataFrame) -> pd.DataFrame:
    return windows.features(DECLARED, "TX_FRAUD", None, frame, "TX_DATETIME").set_axis(PUBLISHED, axis=1)


def theirs(frame: pd.DataFrame) -> pd.DataFrame:
    """One table of the two, in the order of the rows."""
    customers = [_customer(rows) for _, rows in frame.groupby("CUSTOMER_ID")]
    terminals = [_terminal(rows) for _, rows in frame.groupby("TERMINAL_ID")]
    return pd.concat([pd.concat(customers), pd.concat(terminals)], axis=1).loc[frame.index, PUBLISHED]


def _customer(rows: pd.DataFrame) -> pd.DataFrame:
    amount: Any = rows.set_index("TX_DATETIME")["TX_AMOUNT"]
    columns = {}
    for days in DAYS:
        window = amount.rolling(f"{days}D")
        count = window.count()
        columns[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"] = count.to_numpy()
        columns[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"] = (window.sum() / count).to_numpy()
    return pd.DataFrame(columns, index=rows.index)


def _terminal(rows: pd.DataFrame) -> pd.DataFrame:
    fraud: Any = rows.set_index("TX_DATETIME")["TX_FRAUD"]
    columns = {}
    unknown = fraud.rolling(f"{DELAY_DAYS}D")
    unknown_frauds, unknown_count = unknown.sum(), unknown.count()
    for days in DAYS:
        window = fraud.rolling(f"{DELAY_DAYS + days}D")
        count = window.count() - unknown_count
        columns[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"] = count.to_numpy()
        columns[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"] = ((window.sum() - unknown_frauds) / count).fillna(0).to_numpy()
    return pd.DataFrame(columns, index=rows.index)


def one_side(side: str, rows: int | None) -> dict[str, Any]:
    """What the process of one side prints; run on one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    assert HANDBOOK is not None
    frame = pd.read_parquet(HANDBOOK, columns=RAW).tail(rows or 10**9).reset_index(drop=True)
    wall, cpu = time.perf_counter(), time.process_time()
    found = {"ours": ours, "theirs": theirs}[side](frame)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = {"rows": len(frame), "seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}
    return figures | {"rows_per_second": round(len(frame) / wall), "means": found.mean().round(9).tolist()}


def differing_rows() -> dict[str, int]:
    """Rows of which any of the twelve differs from the published one by more than 1e-9, and how many of them share customer and
    second with another: the Handbook's sort has swapped some of these."""
    frame = pd.read_parquet(HANDBOOK, columns=[*RAW, *PUBLISHED])
    differ = ((ours(frame) - frame[PUBLISHED]).abs() > 1e-9).any(axis=1)
    twins = frame.duplicated(["CUSTOMER_ID", "TX_DATETIME"], keep=False)
    return {"all": int(differ.sum()), "of_one_customer_and_second": int((differ & twins).sum())}


def measured(side: str, runs: int, *options: str) -> dict[str, Any]:
    outputs = [timed([sys.executable, __file__, "--side", side, *options])["output"] for _ in range(runs)]
    middle = statistics.median(output["seconds"] for output in outputs)
    return outputs[0] | {
        "seconds": middle,
        "seconds_of_each": [output["seconds"] for output in outputs],
        "cpu_seconds": statistics.median(output["cpu_seconds"] for output in outputs),
        "rows_per_second": round(outputs[0]["rows"] / middle),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200_000, help="the last rows, for both sides")
    parser.add_argument("--side", choices=("ours", "theirs"), help="one side alone, on all rows unless --some")
    parser.add_argument("--some", type=int)
    asked = parser.parse_args()
    if HANDBOOK is None:
        raise SystemExit("the Handbook's transactions must lie at ../shared/data/transactions.parquet")
    if asked.side:
        print(json.dumps(one_side(asked.side, asked.some)))
        return
    some = ("--some", str(asked.rows))
    every, same, peer = measured("ours", asked.runs), measured("ours", asked.runs, *some), measured("theirs", 1, *some)
    assert np.allclose(same.pop("means"), peer.pop("means"), rtol=0, atol=1e-6)
    del every["means"]
    found = {
        "goal_rows_per_second": GOAL_ROWS_PER_SECOND,
        "rows_per_second": every["rows_per_second"],
        "differing_rows": differing_rows(),
        "ratio": round(same["seconds"] / peer["seconds"], 5),
        "ours_all_rows": every,
        "ours": same,
        "pandas_rolling": peer,
    }
    command = f"make bench-windows (--runs {asked.runs} --rows {asked.rows}; one core)"
    write("windows", {"command": command, "date": time.strftime("%Y-%m-%d")} | machine() | found)


if __name__ == "__main__":
    main()
