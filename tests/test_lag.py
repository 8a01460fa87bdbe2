"""Clients that do not read what waits for them."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from handler.protocol import Limits, gathering_protocol
from tests.connection import GET, Connection
from tests.server import until


async def silence(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers nothing."""


async def test_a_client_that_reads_nothing_for_too_long_has_left() -> None:
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        received.append(await receive())

    protocol = gathering_protocol(Limits(stall_s=0.1))
    silent, slow = Connection(app, protocol), Connection(app, protocol)
    for connection in (slow, silent):
        connection.protocol.data_received(GET)
        connection.protocol.pause_writing()
    slow.protocol.resume_writing()

    async def aborted() -> bool | None:
        return silent.wire.is_aborted or None

    await until(aborted, "the connection of a client that does not read is closed")
    assert not slow.wire.is_closed
    for connection in (slow, silent):
        connection.protocol.connection_lost(None)
        await connection.idle()
    assert [message["type"] for message in received] == ["http.disconnect"] * 2


async def test_a_client_that_reads_a_large_answer_slowly_has_all_the_time_it_needs() -> None:
    connection = Connection(silence, gathering_protocol(Limits(stall_s=0.02)))
    wire, looks = connection.wire, 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return max(1000 - looks, 995)

    wire.get_write_buffer_size = look  # type: ignore[method-assign]
    connection.protocol.pause_writing()

    async def aborted() -> bool | None:
        return wire.is_aborted or None

    await until(aborted, "the client that reads no more is given up")
    assert looks == 6
    connection.protocol.connection_lost(None)
