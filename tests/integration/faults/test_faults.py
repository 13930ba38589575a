"""About fifty plans that have something of everything, on every change; `make test-faults` plays all of them.

All are played at once, for an operator mostly waits; and so is the control, without which "all converge" would say little.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from integration.fault_proxy import ANSWERS, CUTS, EVENT_FAULTS, KILLS, LOST, STALE, TRAVEL
from integration.faults.campaign import Plan, all_plans, failures, play, representative
from integration.faults.plans import Row, Stage
from integration.faults.scene import naive_operator
from integration.faults.workloads import CONTROL, START, WORKLOADS
from integration.faults.world import World

pytestmark = pytest.mark.timeout(900)

PLANS = 50
WORKERS = 20
REFERENCES = 2
WRITES = (
    "POST rayjobs", "PATCH rayjobs", "DELETE rayjobs", "PATCH trainingjobs/status", "DELETE trainingjobs", "POST events",
)  # fmt: skip


@dataclass(frozen=True)
class Played:
    plans: list[Plan]
    rows: list[Row]
    control: list[Row]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played(world: World) -> AsyncIterator[Played]:
    async with world.opened():
        ours = Stage(world)
        naive = Stage(world, naive_operator, ours.starting)
        every, every_naive = await asyncio.gather(
            all_plans(ours, WORKERS, (*WORKLOADS, START), REFERENCES), all_plans(naive, 1, (CONTROL,), REFERENCES)
        )
        plans, control = representative(every, PLANS), [plan for plan in every_naive if _is_telling(plan)]
        rows = await play([*plans, *control], WORKERS)
        yield Played(plans, rows[: len(plans)], rows[len(plans) :])


def _is_telling(plan: Plan) -> bool:
    """Whether a plan meets what the control leaves to chance: a child's name, and each event of it."""
    return (plan.fault.kind, plan.fault.place.what) in (("kill-after", "POST rayjobs"), ("drop", "EVENT rayjobs"))


def test_every_plan_converges(played: Played) -> None:
    assert not (told := failures(played.rows)), f"\n{told}"


def test_the_plans_have_something_of_everything(played: Played) -> None:
    kinds = {plan.fault.kind for plan in played.plans}
    killed = {(plan.fault.kind, plan.fault.place.what) for plan in played.plans}
    assert kinds == {*KILLS, *EVENT_FAULTS, *ANSWERS, *LOST, *STALE, *TRAVEL, *CUTS}
    assert {plan.workload for plan in played.plans} == {*WORKLOADS, START}
    assert killed >= {(kind, write) for kind in KILLS for write in WRITES}


def test_the_naive_operator_makes_a_second_rayjob_and_goes_deaf(played: Played) -> None:
    """It comes to its end undisturbed, else there would be no such plans."""
    lost = [row for row in played.control if not row.converged]
    assert any(row.kind == "kill-after" and "twice: ADDED rayjobs" in row.note for row in lost), played.control
    assert any(row.kind == "drop" and "not within" in row.note for row in lost), played.control
