"""Green means that jobs are reconciled, not that watches are open."""

import time
import urllib.error
import urllib.request

from m3_operator.controller import WORKERS

STUCK = """
import asyncio, sys
from m3_operator import __main__, controller

async def hang(*_):
    await asyncio.Event().wait()

controller.Controller._sync = hang
sys.exit(__main__.main())
"""
"""The operator, but for a pass that never ends: as a request without a time limit would make it."""


def health(operator) -> int:
    try:
        with urllib.request.urlopen(f"{operator.probes}/healthz", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_it_goes_red_when_no_job_is_reconciled_though_watches_are_open(make_operator, namespace, wait_for):
    operator = make_operator()
    operator.program = ("-c", STUCK)
    operator.start()
    operator.wait_for_first_look()
    start = time.monotonic()
    for number in range(WORKERS + 1):
        namespace.create(f"job-{number}")
    # the watch has told of all of them, and one waits for a worker
    wait_for(lambda: operator.metric("m3_workqueue_depth") >= 1, 10)
    assert health(operator) == 200
    wait_for(lambda: health(operator) == 503, 90, every=1.0)
    # three probes ten seconds apart, and the kubelet restarts it
    assert time.monotonic() - start + 2 * 10 <= 90
