"""Cost per job against their number, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

LINES = {"cpu_ms_per_job": "CPU of the operator", "wall_ms_per_job": "time until its RayJob is there"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    mpl.rcParams["svg.hashsalt"] = "m3"  # the same figures make the same file
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    jobs = [row["jobs"] for row in rows]
    for field, label in LINES.items():
        axes.plot(jobs, [row[field] for row in rows], marker="o", label=label)
    axes.set_xscale("log")
    axes.set_xticks(jobs, [f"{number:,}" for number in jobs])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set(xlabel="TrainingJobs, created at once", ylabel="milliseconds per job", title="What one more job costs")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
