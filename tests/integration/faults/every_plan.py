"""`make test-faults`: every plan of every workload, and the naive operator's beside them, into benchmarks/results/faults.json.

make test-faults ARGS='--workload=retry --kind=drop'    a part of them; nothing is written
make test-faults ARGS=--only-failed                     those that have not converged in the result file
"""

from __future__ import annotations

import time

import pytest
from integration.faults import table
from integration.faults.campaign import all_plans, failures, play
from integration.faults.plans import Stage
from integration.faults.scene import naive_operator
from integration.faults.workloads import CONTROL, START, WORKLOADS
from integration.faults.world import World


@pytest.mark.timeout(0)
async def test_every_plan(world: World, request: pytest.FixtureRequest) -> None:
    choice, begin = table.Choice.of(request.config), time.monotonic()
    async with world.opened():
        ours = Stage(world)
        naive = Stage(world, naive_operator, ours.starting)
        plans = [
            *await all_plans(ours, choice.workers, choice.among((*WORKLOADS, START))),
            *await all_plans(naive, choice.workers, choice.among((CONTROL,))),
        ]
        chosen = [plan for plan in plans if choice.takes(plan)]
        rows = await play(chosen, choice.workers)
    found = table.figures(
        [row for plan, row in zip(chosen, rows, strict=True) if plan.stage is ours],
        [row for plan, row in zip(chosen, rows, strict=True) if plan.stage is naive],
        time.monotonic() - begin,
    )
    table.write(found, keep=choice.is_all)
    assert found["converged"] == found["plans"], "\n" + failures(
        row for plan, row in zip(chosen, rows, strict=True) if plan.stage is ours
    )
    assert not choice.is_all or found["naive_converged_ratio"] < 1, (
        "the naive operator converges: the proxy proves nothing"
    )
