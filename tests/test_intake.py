from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from handler.intake import Intake
from handler.protocol import Limits, gathering_protocol
from tests.connection import GET, Connection, turn_until

MANY = 200


class Client:
    """A connection that notes what is read of it."""

    def __init__(self, log: list[tuple[Client, bytes]]) -> None:
        self._log = log

    def read(self, data: bytes) -> None:
        self._log.append((self, data))


async def test_what_many_send_at_once_is_read_over_several_turns_the_oldest_first() -> None:
    intake, log = Intake(), list[tuple[Client, bytes]]()
    clients = [Client(log) for _ in range(MANY)]
    for client in clients:
        intake.take(client, b"a")
    lengths = [len(log)]
    while len(log) < MANY:
        await asyncio.sleep(0)
        assert len(log) > lengths[-1]  # no turn goes by in which nothing is read
        lengths.append(len(log))
    assert lengths == [64, 128, 192, 200]
    for begin, end in zip([0, *lengths], lengths, strict=False):
        assert {client for client, _ in log[begin:end]} == set(clients[begin:end])


async def test_parts_of_one_connection_are_read_in_order_and_no_more_than_one_waits() -> None:
    intake, log = Intake(), list[tuple[Client, bytes]]()
    first, *others, late = (Client(log) for _ in range(65))
    for client in (first, *others, late):
        intake.take(client, b"a")
    assert late not in {client for client, _ in log}
    intake.take(first, b"b")  # which has its turn
    assert log[-1] == (first, b"b")
    intake.take(late, b"b")
    assert log[-2:] == [(late, b"a"), (late, b"b")]
    intake.hurry(late)
    await asyncio.sleep(0)
    assert len(log) == 65 + 2


async def test_a_reader_that_fails_keeps_nothing_from_the_others() -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    class Defective(Client):
        def read(self, data: bytes) -> None:
            super().read(data)
            raise ValueError("a defect")

    intake, log = Intake(), list[tuple[Client, bytes]]()
    for number in range(MANY):
        intake.take(Defective(log) if number == 100 else Client(log), b"a")
    await turn_until(lambda: len(log) == MANY)
    assert [str(context["exception"]) for context in reported] == ["a defect"]


async def crowd(app: Any) -> list[Connection]:
    """So many connections that the last one's request waits."""
    protocol = gathering_protocol(Limits())
    connections = [Connection(app, protocol) for _ in range(65)]
    for connection in connections:
        connection.protocol.data_received(GET)
    return connections


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_a_request_that_waits_is_not_lost_when_its_client_leaves_or_says_no_more() -> None:
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await answer(scope, receive, send)

    last = (await crowd(app))[-1]
    assert not last.state.tasks
    last.protocol.eof_received()
    await last.idle()
    assert last.wire.sent.endswith(b"hello")
    await turn_until(lambda: len(paths) == 65)
    last = (await crowd(app))[-1]
    last.protocol.connection_lost(None)
    await turn_until(lambda: len(paths) == 130)


async def test_what_waits_on_a_connection_that_was_closed_here_is_not_read() -> None:
    last = (await crowd(answer))[-1]
    last.protocol.abort()
    for _ in range(5):
        await asyncio.sleep(0)
    assert last.wire.is_aborted
    assert last.state.total_requests == 0
