from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest
from starlette.types import Message, Receive

from handler.errors import ClientDisconnectedError, DeadlineExceededError, PilotlightError, StoppingError
from handler.interruption import Delay, Interruption, Supervision
from tests.connection import turn_until
from tests.server import DEADLINE_S


class Server(NamedTuple):
    is_stopping: bool = False


class Gone:
    """A client that has left, for whoever receives; it counts how often that was."""

    def __init__(self) -> None:
        self.num_received = 0

    async def receive(self) -> Message:
        self.num_received += 1
        return {"type": "http.disconnect"}


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
    loop = asyncio.get_running_loop()
    supervision, interruption = Supervision(DEADLINE_S), Interruption(loop, Gone().receive, Server())
    supervision.begin(interruption)
    supervision.note_body(interruption)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    reason = interruption.reason()
    assert isinstance(reason, ClientDisconnectedError)
    supervision.end(interruption)


async def test_a_request_that_is_over_soon_is_not_watched() -> None:
    client = Gone()
    loop = asyncio.get_running_loop()
    supervision, brief = Supervision(DEADLINE_S), Interruption(loop, client.receive, Server())
    supervision.begin(brief)
    supervision.note_body(brief)
    supervision.end(brief)
    with pytest.raises(asyncio.CancelledError):  # one that began later has been cancelled, and only that was watched
        await _interrupted(supervision, client.receive)
    assert client.num_received == 1


async def _interrupted(supervision: Supervision, receive: Receive) -> None:
    interruption = Interruption(asyncio.get_running_loop(), receive, Server())
    supervision.begin(interruption)
    supervision.note_body(interruption)
    await asyncio.Event().wait()


async def test_who_is_still_reading_a_body_is_watched_once_that_is_here() -> None:
    client = Gone()
    watched: list[Interruption] = []
    supervision = Supervision(DEADLINE_S, watched.append)
    interruption = Interruption(asyncio.get_running_loop(), client.receive, Server())
    supervision.begin(interruption)
    await turn_until(lambda: interruption.is_lasting)
    assert (client.num_received, watched) == (0, [])  # only one may receive, and that is who reads the body
    supervision.note_body(interruption)
    assert watched == [interruption]
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert isinstance(interruption.reason(), ClientDisconnectedError)
    supervision.end(interruption)


async def test_a_body_that_never_comes_takes_no_longer_than_any_request_may() -> None:
    async def receive() -> Message:
        raise AssertionError("nobody watches")

    loop = asyncio.get_running_loop()
    supervision, interruption = Supervision(0.05), Interruption(loop, receive, Server())
    began_s = loop.time()
    supervision.begin(interruption)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert loop.time() - began_s >= 0.05
    reason = interruption.reason()
    assert isinstance(reason, DeadlineExceededError)
    assert "0.05 s" in str(reason)
    supervision.end(interruption)


class Channel:
    """A server that tells when the client leaves."""

    def __init__(self) -> None:
        self.action: Callable[[], None] | None = None

    async def receive(self) -> Message:
        raise AssertionError("nobody has to ask")

    def on_disconnect(self, action: Callable[[], None] | None) -> None:
        self.action = action


async def test_a_server_that_tells_is_not_asked() -> None:
    channel = Channel()
    interruption = Interruption(asyncio.get_running_loop(), channel.receive, Server())
    num_tasks = len(asyncio.all_tasks())
    interruption.watch()
    assert len(asyncio.all_tasks()) == num_tasks
    assert channel.action is not None
    channel.action()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert isinstance(interruption.reason(), ClientDisconnectedError)
    interruption.end()
    assert channel.action is None  # or the connection would keep what the request had


async def test_nobody_watches_a_request_that_is_over() -> None:
    ended = asyncio.Event()

    async def receive() -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("never set")

    num_tasks = len(asyncio.all_tasks())
    interruption = Interruption(asyncio.get_running_loop(), receive, Server())
    interruption.watch()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == num_tasks + 1
    interruption.end()
    await turn_until(ended.is_set)
    assert len(asyncio.all_tasks()) == num_tasks


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
