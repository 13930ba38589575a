"""Our operator beside Kubeflow Trainer and a kopf operator with a synchronous client, on one real API server; then what our
own promises: requests, rest, restart, scale, recovery; and, on the kind cluster where it is up, whole jobs.

    python benchmarks/operator/run.py [--only throughput,restart,…] [--objects 1000] [--rounds 3]

Parts that are measured alone take the place of the same parts in the result file; the others stay as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # for harness.py, which all benchmarks share

import apiserver
import figures
import mlflow_server
import plot
import recovery
import restart
import scale
import start_and_rest
import throughput
import whole_jobs
from harness import RESULTS, machine, write

Object = dict[str, Any]


def on_an_api_server(part: Callable[..., Any], *arguments: Any) -> Any:
    """Each part has an API server of its own: the same empty etcd for all."""
    with apiserver.running(apiserver.build_tools()) as server, mlflow_server.running() as mlflow:
        return asyncio.run(part(server, mlflow, *arguments))


def measure(name: str, options: argparse.Namespace) -> Any:
    number, rounds = options.objects, options.rounds
    match name:
        case "throughput":
            return figures.throughput(on_an_api_server(throughput.part, number, rounds))
        case "start_and_rest":
            return on_an_api_server(start_and_rest.part, number)
        case "restart":
            return on_an_api_server(restart.part, number * 10)
        case "scale":
            sizes = tuple(size for size in scale.SIZES if size <= number * 10)
            return on_an_api_server(scale.part, sizes)
        case "recovery":
            return figures.recovery(on_an_api_server(recovery.part, min(300, number), max(5, rounds)))
        case "apply_to_complete":
            return whole_jobs.apply_to_complete(rounds)
        case _:
            return whole_jobs.warm_cluster(rounds)


def versions() -> Object:
    found = {name: importlib.metadata.version(name) for name in ("aiohttp", "kopf", "kubernetes")}
    modules = {name: apiserver.module_version(name) for name in ("kubernetes", "kuberay", "trainer", "jobset")}
    return found | {f"go_{name}": version for name, version in modules.items()}


def head(command: str) -> Object:
    found = machine()
    found["versions"] |= versions()
    return {"command": command, "date": time.strftime("%Y-%m-%d")} | found


def known() -> Object:
    path = RESULTS / "operator.json"
    return json.loads(path.read_text()) if path.exists() else {}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(figures.PARTS), help="parts, separated by commas")
    parser.add_argument(
        "--objects", type=int, default=1000, help="objects per operator; restart and scale take ten times as many"
    )
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, in turn")
    parser.add_argument("--dry", action="store_true", help="print, and leave the result file as it is")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(figures.PARTS):
        parser.error(f"--only must name parts among {', '.join(figures.PARTS)}, not {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    options = parse()
    start = head("make bench-operator")
    parts = {name: part for name, part in known().items() if name in figures.PARTS}
    for name in options.only:
        began = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        parts[name] = measure(name, options)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if not options.dry:
            save(start, parts)
    result = figures.assemble(start, parts)
    if options.dry:
        print(json.dumps(result))
        return
    if "scale" in parts:
        plot.draw(parts["scale"], RESULTS / "operator-scale.svg")
    write("operator", result)


def save(start: Object, parts: Object) -> None:
    """After each part: twenty minutes of measuring are not lost with the last minute."""
    (RESULTS / "operator.json").write_text(json.dumps(figures.assemble(start, parts), indent=2) + "\n")


if __name__ == "__main__":
    main()
