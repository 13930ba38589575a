"""How the process ends."""

import asyncio
import logging

from m3_operator.__main__ import handle_loop_error


def test_a_watch_that_cannot_be_closed_at_the_end_is_no_error(caplog):
    left_open = []

    async def watch():
        try:
            yield "an event"
        finally:
            raise RuntimeError("generator didn't stop after athrow()")

    async def run():
        asyncio.get_running_loop().set_exception_handler(handle_loop_error)
        left_open.append(watch())
        await anext(left_open[0])

    with caplog.at_level(logging.DEBUG):
        asyncio.run(run())
    assert "generator didn't stop" in caplog.text
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_any_other_error_of_the_loop_is_logged(caplog):
    async def run():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handle_loop_error)
        loop.call_exception_handler({"message": "Task exception was never retrieved"})

    asyncio.run(run())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
