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
    choice, head, begin = table.Choice.of(request.config), table.head(), time.monotonic()
    async with world.opened():
        ours = Stage(world)
        naive = Stage(world, naive_operator, ours.starting)
        plans = [
            *await all_plans(ours, choice.workers, choice.among((*WORKLOADS, START))),
            *await all_plans(naive, choice.workers, choice.among((CONTROL,))),
        ]
        chosen = [plan for plan in plans if choice.takes(plan)]
        played = list(zip(chosen, await play(chosen, choice.workers), strict=True))
    rows, control = ([row for plan, row in played if plan.stage is stage] for stage in (ours, naive))
    found = table.figures(rows, control, time.monotonic() - begin)
    table.write(head, found, keep=choice.is_all)
    assert not (told := failures(rows)), f"\n{told}"
    assert not choice.is_all or found["naive_converged_ratio"] < 1, "the control converges: the proxy proves nothing"
