"""Keys that wait for work."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from m3_operator import workqueue
from m3_operator.errors import ClusterUnavailable
from m3_operator.workqueue import Workqueue


@asynccontextmanager
async def running(queue, workers=2):
    task = asyncio.ensure_future(queue.run(workers))
    yield task
    task.cancel()
    await asyncio.wait([task])


class Work:
    """Notes what it is asked to do; `answers` are what it does in turn."""

    def __init__(self, *answers):
        self.done, self.answers, self.news = [], list(answers), asyncio.Condition()
        self.busy, self.most = 0, 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, key):
        self.busy += 1
        self.most = max(self.most, self.busy)
        await self.gate.wait()
        self.busy -= 1
        async with self.news:
            self.done.append(key)
            self.news.notify_all()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def until(self, count):
        async with asyncio.timeout(5), self.news:
            await self.news.wait_for(lambda: len(self.done) >= count)


async def test_a_key_that_waits_is_not_added_again():
    work = Work()
    queue = Workqueue(work)
    for _ in range(5):
        queue.add("a")
    queue.add("b")
    assert len(queue) == 2
    async with running(queue):
        await work.until(2)
    assert sorted(work.done) == ["a", "b"]


async def test_a_key_is_worked_on_by_one_at_a_time_and_again_for_what_came_meanwhile():
    work = Work()
    work.gate.clear()
    queue = Workqueue(work)
    async with running(queue, workers=4):
        queue.add("a")
        while work.busy == 0:
            await asyncio.sleep(0)
        queue.add("a")
        queue.add("a")
        work.gate.set()
        await work.until(2)
    assert (work.done, work.most) == (["a", "a"], 1)


async def test_a_failure_is_tried_again(monkeypatch, caplog):
    monkeypatch.setattr(workqueue, "FIRST_DELAY", 0.01)
    work = Work(ClusterUnavailable("no answer"), ClusterUnavailable("no answer"))
    queue = Workqueue(work)
    with caplog.at_level(logging.WARNING):
        async with running(queue):
            queue.add("a")
            await work.until(3)
    assert [record.getMessage() for record in caplog.records] == [
        "a: tried again in 0.01 s: no answer",
        "a: tried again in 0.02 s: no answer",
    ]
    assert not any(record.exc_info for record in caplog.records)


async def test_a_fault_of_ours_is_told_with_its_traceback_and_stops_nobody_else(monkeypatch, caplog):
    monkeypatch.setattr(workqueue, "FIRST_DELAY", 60.0)
    work = Work(KeyError("oops"))
    queue = Workqueue(work)
    async with running(queue, workers=1):
        queue.add("a")
        queue.add("b")
        await work.until(2)
    assert caplog.records[0].exc_info[0] is KeyError


async def test_a_key_comes_back_when_its_time_has_come():
    work = Work(0.01)
    queue = Workqueue(work)
    async with running(queue):
        queue.add("a")
        await work.until(2)
    assert work.done == ["a", "a"]


@pytest.mark.parametrize(("first", "then"), [(30.0, 0.01), (0.01, 30.0)])
async def test_the_soonest_wish_counts(first, then):
    work = Work()
    queue = Workqueue(work)
    async with running(queue):
        queue.add_after("a", first)
        queue.add_after("a", then)
        await work.until(1)


async def test_urgent_keys_go_first():
    work = Work()
    queue = Workqueue(work)
    for key in ("calm-1", "calm-2"):
        queue.add(key)
    for key in ("urgent-1", "urgent-2"):
        queue.add(key, urgent=True)
    async with running(queue, workers=1):
        await work.until(4)
    assert work.done == ["urgent-1", "urgent-2", "calm-1", "calm-2"]


async def test_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(workqueue, "PATIENCE", 0.0)
    work = Work()
    queue = Workqueue(work)
    queue.add("calm")
    queue.add("urgent", urgent=True)
    started = asyncio.get_running_loop().time()
    async with asyncio.timeout(5):
        while asyncio.get_running_loop().time() <= started:
            await asyncio.sleep(0)
    assert queue.oldest() > 0.0
    async with running(queue, workers=1):
        await work.until(2)
    assert work.done == ["calm", "urgent"]
    assert queue.oldest() == 0.0


async def test_a_key_that_is_added_while_it_is_worked_on_keeps_its_lane():
    work = Work()
    work.gate.clear()
    queue = Workqueue(work)
    queue.add("a")
    async with running(queue, workers=1):
        async with asyncio.timeout(5):
            while work.busy == 0:
                await asyncio.sleep(0)
        queue.add("a", urgent=True)
        queue.add("b")
        work.gate.set()
        await work.until(3)
    assert work.done == ["a", "a", "b"]


async def test_many_urgent_keys_are_a_burst():
    queue = Workqueue(Work())
    for number in range(workqueue.BURST - 1):
        queue.add(number, urgent=True)
    queue.add("calm")
    assert not queue.is_in_a_burst
    queue.add("last", urgent=True)
    assert queue.is_in_a_burst
