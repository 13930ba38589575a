"""Many plans: which are played, some at a time, and what is said of them meanwhile.

plans_of() of every workload ──→ all of them: every_plan.py, `make test-faults`
                            └──→ a part that has something of everything: test_faults.py, on every change
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from integration.fault_proxy import CUTS, KILLS, Fault
from integration.faults.oracle import difference
from integration.faults.plans import REFERENCES, Row, Run, Stage, plans_of
from integration.faults.workloads import Workload

T = TypeVar("T")

LONG = (*CUTS, "hang")
"""Kinds of fault that take longest: begun first, they do not make the others wait at the end."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A workload, what disturbs it, and what it comes to without."""

    stage: Stage
    workload: Workload
    fault: Fault
    reference: Run

    def __str__(self) -> str:
        return f"{self.workload.name}: {self.fault.words} at {self.fault.place}"

    async def play(self) -> Row:
        return await self.stage.play(self.workload, self.fault, self.reference)


async def all_plans(
    stage: Stage, workers: int, workloads: Iterable[Workload], references: int = REFERENCES
) -> list[Plan]:
    """Every plan of the workloads, as so many undisturbed runs of each tell. All of these must come to the same."""
    each = [workload for workload in workloads for _ in range(references)]
    runs = await in_parallel([lambda one=one: stage.reference(one) for one in each], workers)
    plans: list[Plan] = []
    for workload in dict.fromkeys(each):
        own = [run for one, run in zip(each, runs, strict=True) if one is workload]
        for run in own[1:]:
            assert not (told := difference(run.outcome, own[0].outcome)), f"{workload.name} undisturbed: {told}"
        plans += [Plan(stage, workload, fault, own[0]) for fault in plans_of(workload, own)]
    return plans


async def in_parallel(
    works: Sequence[Callable[[], Awaitable[T]]], workers: int, tell: Callable[[int, int, T], None] | None = None
) -> list[T]:
    """Results of `works`, `workers` at a time, in their order."""
    results: dict[int, T] = {}
    waiting = iter(enumerate(works))

    async def worker() -> None:
        for index, work in waiting:
            results[index] = await work()
            if tell is not None:
                tell(len(results), len(works), results[index])

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    return [results[index] for index in range(len(works))]


async def play(plans: list[Plan], workers: int) -> list[Row]:
    """A row for each plan, in their order."""
    order = sorted(range(len(plans)), key=lambda index: plans[index].fault.kind not in LONG)
    rows = await in_parallel([plans[index].play for index in order], workers, say)
    return [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]


def say(done: int, of: int, row: Row) -> None:
    """Progress, on the real stderr: what pytest captures is shown too late."""
    if not row.converged or done % 20 == 0 or done == of:
        print(f"{done}/{of} {told(row)}", file=sys.__stderr__, flush=True)


def told(row: Row) -> str:
    verdict = "converged" if row.converged else "FAILED"
    return f"{row.workload}: {row.fault} at {row.place}: {verdict} {row.note}".rstrip()


def failures(rows: Iterable[Row]) -> str:
    """The list to read, one plan a line; empty where all have converged."""
    return "\n".join(told(row) for row in rows if not row.converged)


# --- a part of them ---------------------------------------------------------------------------------------------------
def representative(plans: Iterable[Plan], number: int) -> list[Plan]:
    """The same `number` of the plans each time: first whatever brings something that must not be missing, then whatever
    brings most that is not there yet. One cut of each kind, for they take minutes.
    """
    left = sorted(plans, key=lambda plan: hashlib.sha256(str(plan).encode()).digest())
    chosen: list[Plan] = []
    for wanted in (_indispensable, _features):
        seen = {feature for plan in chosen for feature in wanted(plan)}
        while len(chosen) < number and left:
            best = max(left, key=lambda plan: len(wanted(plan) - seen))
            if not (new := wanted(best) - seen):
                break
            seen |= new
            chosen.append(best)
            left.remove(best)
    return chosen


def _indispensable(plan: Plan) -> set[tuple[str, ...]]:
    """Each workload, each kind of fault, each kind of write killed before and after."""
    kind = plan.fault.kind
    killed = {(kind, plan.fault.place.what)} if kind in KILLS else set()
    return {(plan.workload.name,), (kind,)} | killed


def _features(plan: Plan) -> set[tuple[str, ...]]:
    if plan.fault.kind in CUTS:
        return set()
    return {(plan.fault.kind, plan.fault.place.what), (plan.workload.name, plan.fault.kind)}
