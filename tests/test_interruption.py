from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from starlette.types import Message, Receive

from handler.errors import ClientDisconnectedError, PilotlightError, StoppingError
from handler.interruption import Delay, Departures, Interruption
from tests.server import DEADLINE_S


class Server(NamedTuple):
    is_stopping: bool = False


async def test_only_those_that_still_wait_are_called_in_the_order_they_began() -> None:
    loop = asyncio.get_running_loop()
    called: list[str] = []
    all_called = asyncio.Event()

    def on_due(waiter: str) -> None:
        called.append(waiter)
        if waiter == "last":
            all_called.set()

    delay = Delay(0.01, on_due)
    for waiter in ("first", "ended", "second"):
        delay.begin(waiter, loop)
    delay.end("ended")
    await asyncio.sleep(0)
    delay.begin("last", loop)
    await all_called.wait()
    assert called == ["first", "second", "last"]
    delay.end("first")  # which is no error


async def test_a_client_that_left_before_anybody_watched_is_noticed() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    loop = asyncio.get_running_loop()
    departures, interruption = Departures(), Interruption(loop, receive, Server())
    departures.begin(interruption, loop)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    reason = interruption.reason()
    assert isinstance(reason, ClientDisconnectedError)
    interruption.end()


async def test_a_request_that_is_over_soon_is_not_watched() -> None:
    num_received = 0

    async def receive() -> Message:
        nonlocal num_received
        num_received += 1
        return {"type": "http.disconnect"}

    loop = asyncio.get_running_loop()
    departures, brief = Departures(), Interruption(loop, receive, Server())
    departures.begin(brief, loop)
    departures.end(brief)
    brief.end()
    with pytest.raises(asyncio.CancelledError):  # one that began later has been cancelled, and only that was watched
        await _interrupted(departures, receive)
    assert num_received == 1


async def _interrupted(departures: Departures, receive: Receive) -> None:
    loop = asyncio.get_running_loop()
    departures.begin(Interruption(loop, receive, Server()), loop)
    await asyncio.Event().wait()


async def test_nobody_watches_a_request_that_is_over() -> None:
    ended = asyncio.Event()

    async def receive() -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("never set")

    interruption = Interruption(asyncio.get_running_loop(), receive, Server())
    interruption.watch()
    await asyncio.sleep(0)
    interruption.end()
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()


@pytest.mark.parametrize(("is_stopping", "expected"), [(False, ClientDisconnectedError), (True, StoppingError)])
async def test_who_is_cancelled_by_the_server_was_left_by_the_client_unless_the_server_stops(
    is_stopping: bool, expected: type[PilotlightError]
) -> None:
    async def receive() -> Message:
        raise AssertionError("nobody watches")

    async def answer() -> PilotlightError:
        interruption = Interruption(asyncio.get_running_loop(), receive, Server(is_stopping))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return interruption.reason()
        raise AssertionError("never set")

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    task.cancel()
    assert isinstance(await task, expected)
