"""Requests that do not come, come slowly, or never end: none keeps its connection, or memory, for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.types import Receive, Scope, Send

from handler.body import read_body
from handler.engine.snapshot import Snapshot
from handler.errors import BodyTooLargeError
from handler.protocol import Limits, gathering_protocol
from tests.asgi import Application
from tests.connection import GET, Connection, turn_until
from tests.server import until

QUICK = Limits(idle_s=0.15, arrival_s=0.1)
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"


async def answer(send: Send, body: bytes = b"hello", status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        body = await read_body(scope, receive, 1000)
    except BodyTooLargeError:
        await answer(send, b"too large", 413)
    else:
        await answer(send, b"got " + body)


def connected(app: Any = echo, **limits: Any) -> Connection:
    return Connection(app, gathering_protocol(Limits(**limits) if limits else QUICK))


async def is_closed(connection: Connection) -> None:
    async def look() -> bool | None:
        return connection.wire.is_closed or None

    await until(look, "the connection is closed")


def error_of(sent: bytes) -> dict[str, Any]:
    error: dict[str, Any] = orjson.loads(sent.partition(b"\r\n\r\n")[2])["error"]
    return error


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET, GET + b"\r\n"])
async def test_a_silent_connection_is_closed(sent: bytes) -> None:
    connection = connected()
    if sent:
        connection.protocol.data_received(sent)
    await is_closed(connection)
    assert connection.wire.sent.count(b"HTTP/1.1 ") == (GET in sent)


@pytest.mark.parametrize("head", [b"G", b"POST / HTTP/1.1", HEAD, HEAD + b"content-length: 3\r\n"])
async def test_a_slow_head_is_refused(head: bytes) -> None:
    connection = connected(idle_s=60, arrival_s=0.1)
    connection.protocol.data_received(head)
    await is_closed(connection)
    assert connection.wire.sent.startswith(b"HTTP/1.1 408 ")
    assert error_of(connection.wire.sent)["code"] == "request_timeout"


async def test_bytes_do_not_buy_a_head_more_time() -> None:
    connection = connected(idle_s=60, arrival_s=0.1)
    connection.protocol.data_received(b"GET /")
    for _ in range(10_000):
        if connection.wire.is_closed:
            break
        connection.protocol.data_received(b"a")
        await asyncio.sleep(0.001)
    assert connection.wire.sent.startswith(b"HTTP/1.1 408 ")


@asynccontextmanager
async def served(tiny_served: Snapshot, directory: Path) -> AsyncIterator[tuple[Application, Connection]]:
    async with Application(tiny_served, directory) as application:
        yield application, connected(application.app, idle_s=60, arrival_s=0.1)


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/responses", b"/tokenize", b"/invocations"])
@pytest.mark.parametrize("begun", [b"content-length: 10\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n3\r\n{  \r\n"])
async def test_a_slow_body_is_refused_and_logged(
    tiny_served: Snapshot, tmp_path: Path, path: bytes, begun: bytes
) -> None:
    async with served(tiny_served, tmp_path) as (application, connection):
        connection.protocol.data_received(b"POST %b HTTP/1.1\r\nhost: x\r\n%b" % (path, begun))
        await is_closed(connection)
        assert connection.wire.sent.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nconnection: close\r\n" in connection.wire.sent
        assert error_of(connection.wire.sent)["code"] == "request_timeout"
        (record,) = application.records()
    assert (record.http_status, record.status, record.error_type) == (408, "timeout", "RequestTimeoutError")


async def test_a_body_that_comes_in_time_is_read() -> None:
    connection = connected(idle_s=60, arrival_s=60)
    for part in (HEAD, b"content-length: 6\r\n\r\n", b"ab", b"cd", b"ef"):
        connection.protocol.data_received(part)
        await asyncio.sleep(0)
    await connection.idle()
    assert connection.wire.sent.endswith(b"got abcdef")
    assert not connection.wire.is_closed


async def test_head_and_body_have_a_time_each() -> None:
    connection = connected(idle_s=60, arrival_s=60)
    connection.protocol.data_received(HEAD)
    arrival = connection.protocol._arrival._times
    (first,) = arrival._end_s.values()
    connection.protocol.data_received(b"content-length: 6\r\n\r\n")
    (second,) = arrival._end_s.values()
    connection.protocol.data_received(b"abc")
    assert (second,) == tuple(arrival._end_s.values())
    assert second > first
    await connection.ask(b"def")
    assert not arrival._end_s


async def test_a_request_behind_one_that_takes_long_is_not_late() -> None:
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/slow":
            await echo(scope, receive, send)
            return
        await receive()
        watching = asyncio.create_task(receive())  # for the client to leave, which lets the server read on
        await may_end.wait()
        watching.cancel()
        await answer(send)

    connection = connected(app, idle_s=60, arrival_s=0.05)
    connection.protocol.data_received(GET.replace(b"/ ", b"/slow ") + HEAD + b"content-length: 6\r\n\r\nabc")
    await asyncio.sleep(0.12)  # more than twice the time that it would have
    may_end.set()
    await turn_until(lambda: connection.state.total_requests == 1)
    assert (await connection.ask(b"def")).endswith(b"got abcdef")
    assert not connection.wire.is_closed


async def test_a_body_is_not_late_because_nobody_reads_it() -> None:
    may_read = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_read.wait()
        await answer(send, b"got %d" % len(await read_body(scope, receive, 1 << 20)))

    connection = connected(app, idle_s=60, arrival_s=0.05)
    connection.protocol.data_received(HEAD + b"content-length: 100000\r\n\r\n" + bytes(90_000))
    assert connection.wire.is_paused
    await asyncio.sleep(0.12)
    may_read.set()
    await turn_until(lambda: not connection.wire.is_paused)
    assert (await connection.ask(bytes(10_000))).endswith(b"got 100000")


async def test_the_rest_of_a_refused_body_is_dropped_in_time() -> None:
    connection = connected(idle_s=60, arrival_s=0.1)
    await connection.ask(HEAD + b"content-length: 100000\r\n\r\nabc")
    assert connection.wire.sent.startswith(b"HTTP/1.1 413 ")
    assert not connection.wire.is_closed
    await is_closed(connection)


async def test_a_body_in_chunks_is_as_bounded_when_it_comes_at_once() -> None:
    connection = connected()
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    assert (await connection.ask(chunked % (1000, b"a" * 1000))).endswith(b"got " + b"a" * 1000)
    assert (await connection.ask(chunked % (1001, b"a" * 1001))).startswith(b"HTTP/1.1 413 ")


async def test_no_more_than_some_megabytes_of_a_refused_body_are_read() -> None:
    connection = connected(idle_s=60, arrival_s=60)
    await connection.ask(HEAD + b"content-length: 1000000000\r\n\r\n")
    num_sent = 0
    while not connection.wire.is_closed:
        connection.protocol.data_received(bytes(100_000))
        num_sent += 100_000
    assert num_sent < 10_000_000


async def test_the_request_behind_a_refused_body_is_answered() -> None:
    connection = connected(idle_s=60, arrival_s=60)
    assert (await connection.ask(HEAD + b"content-length: 5000\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
    connection.protocol.data_received(bytes(4000))
    assert (await connection.ask(bytes(1000) + GET)).endswith(b"got ")


async def test_refused_bodies_of_earlier_requests_do_not_end_the_connection() -> None:
    connection = connected(idle_s=60, arrival_s=60)
    for _ in range(10):
        connection.protocol.data_received(HEAD + b"content-length: 2000000\r\n\r\n")
        await connection.idle()
        for _ in range(20):
            connection.protocol.data_received(bytes(100_000))
    assert connection.wire.sent.count(b"HTTP/1.1 413 ") == 10
    assert (await connection.ask()).endswith(b"got ")


async def test_a_body_without_a_length_is_refused_as_it_grows() -> None:
    connection = connected(idle_s=60, arrival_s=60)
    connection.protocol.data_received(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(200):
        if connection.wire.sent:
            break
        connection.protocol.data_received(b"a\r\n0123456789\r\n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert connection.wire.sent.startswith(b"HTTP/1.1 413 ")


async def test_whoever_waits_to_be_asked_for_a_body_is_told_before_it_is_sent() -> None:
    expecting = HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n"
    connection = connected(idle_s=60, arrival_s=60)
    assert await connection.ask(expecting % 5000) != b""
    assert connection.wire.sent.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in connection.wire.sent
    assert connection.wire.is_closed
    connection = connected(idle_s=60, arrival_s=60)
    connection.protocol.data_received(expecting % 3)
    await turn_until(lambda: connection.wire.sent)
    assert connection.wire.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await connection.ask(b"abc")).endswith(b"got abc")
    assert not connection.wire.is_closed


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 3\r\ncontent-length: 4\r\n",
        b"content-length: 3\r\ntransfer-encoding: chunked\r\n",
        b"content-length: -1\r\n",
        b"content-length: 99999999999999999999999\r\n",
        b"content-length: 3a\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    ],
)
async def test_two_minds_about_a_body_are_refused(head: bytes) -> None:
    connection = connected(idle_s=60, arrival_s=60)
    await connection.ask(HEAD + head + b"\r\nabc")
    assert connection.wire.sent.startswith(b"HTTP/1.1 400 ")
    assert error_of(connection.wire.sent)["type"] == "invalid_request_error"
    assert connection.wire.is_closed


async def test_what_is_behind_the_length_is_another_request() -> None:
    connection = connected(idle_s=60, arrival_s=60)
    sent = await connection.ask(HEAD + b"content-length: 3\r\n\r\nabcdef")
    ours, _, theirs = sent.partition(b"got abc")
    assert ours.startswith(b"HTTP/1.1 200 ")
    assert theirs.startswith(b"HTTP/1.1 400 ")
    assert connection.wire.is_closed


@pytest.mark.parametrize("begin", [b"GET /", HEAD + b"x-long: ", HEAD + b"x", HEAD])
async def test_an_endless_head_is_refused(begin: bytes) -> None:
    connection = connected(idle_s=60, arrival_s=60)
    connection.protocol.data_received(begin)
    num_sent = 0
    while not connection.wire.sent and num_sent < 1_000_000:
        connection.protocol.data_received(b"x-many: y\r\n" * 100 if begin is HEAD else b"a" * 1000)
        num_sent += 1000
        await asyncio.sleep(0)
    assert connection.wire.sent.startswith(b"HTTP/1.1 431 ")
    assert connection.wire.is_closed
    assert num_sent < 100_000


async def test_what_comes_behind_a_body_is_not_kept() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    connection = connected(app, idle_s=60, arrival_s=60)
    begin = HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    assert (await connection.ask(begin + b"x-trailer: 1\r\n\r\n")).endswith(b"got abc")
    assert [name for name, _ in scopes[0]["headers"]] == [b"host", b"transfer-encoding"]
    connection.protocol.data_received(begin + b"x-trailer: ")
    num_sent = 0
    while not connection.wire.is_closed and num_sent < 1_000_000:
        connection.protocol.data_received(b"a" * 1000)
        num_sent += 1000
        await asyncio.sleep(0)
    assert num_sent < 100_000


async def test_requests_far_ahead_of_their_answers_are_refused() -> None:
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_end.wait()
        await answer(send)

    connection = connected(app, idle_s=60, arrival_s=60)
    connection.protocol.data_received(GET * 65)
    assert connection.protocol._refusal is None
    for _ in range(1000):
        connection.protocol.data_received(GET)
    may_end.set()
    await is_closed(connection)
    answers, _, refusal = connection.wire.sent.rpartition(b"hello")
    assert answers.count(b"HTTP/1.1 200 ") == 65
    assert refusal.startswith(b"HTTP/1.1 400 ")


async def test_connections_beyond_the_limit_are_refused() -> None:
    protocol = gathering_protocol(Limits(connections=0))
    connection = Connection(echo, protocol)
    await asyncio.sleep(0)
    assert connection.wire.sent.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 1\r\n" in connection.wire.sent
    assert connection.wire.is_closed


async def test_a_client_cannot_make_the_server_hold_more_than_is_read() -> None:
    """An application that asks for nothing: the connection stops reading."""
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await may_end.wait()
        await echo(scope, receive, send)

    connection = connected(app, idle_s=60, arrival_s=60)
    connection.protocol.data_received(HEAD + b"content-length: 100000000\r\n\r\n")
    num_sent = 0
    while not connection.wire.is_paused:
        connection.protocol.data_received(bytes(10_000))
        num_sent += 10_000
    assert num_sent < 100_000
    may_end.set()
    await turn_until(lambda: connection.wire.sent)
