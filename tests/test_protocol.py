"""uvicorn with our protocol on a transport that remembers its writes: what leaves, in how many pieces, and when."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from handler.outbox import BEFORE_WRITE, PUSHER
from handler.protocol import Limits, gathering_protocol
from tests.connection import GET, Connection, turn_until
from tests.server import until


def answering(
    body: bytes = b"hello", *, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> Callable[[Scope, Receive, Send], Any]:
    """An application that always answers the same, with its length unless `headers` say otherwise."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        shown = [(b"content-length", b"%d" % len(body))] if headers is None else headers
        await send({"type": "http.response.start", "status": status, "headers": shown})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_a_response_is_one_write() -> None:
    connection = Connection(answering())
    answer = b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 5\r\n\r\nhello"
    assert await connection.ask() == answer
    assert await connection.ask() == answer
    assert connection.wire.writes == [answer, answer]
    assert not connection.wire.is_closed
    assert connection.state.total_requests == 2


class Whole:
    """An application that answers at once where the server can, after `before` if there is something to do."""

    def __init__(self, body: bytes = b"hello") -> None:
        self.body = body
        self.sent: list[bool] = []
        self.seen: list[int] = []
        self.connection = Connection(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Any) -> None:
        wire = self.connection.wire
        is_sent = send.__self__.send_whole(b"x-a: b\r\n", self.body, lambda: self.seen.append(len(wire.writes)))
        self.sent.append(is_sent)
        if not is_sent:
            await answering(self.body)(scope, receive, send)


async def test_a_whole_answer_goes_out_at_once() -> None:
    app = Whole()
    answer = b"HTTP/1.1 200 OK\r\ndate: today\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello"
    assert await app.connection.ask() == answer
    app.connection.state.default_headers = [(b"date", b"tomorrow"), (b"server", b"s")]
    later = answer.replace(b"today", b"tomorrow\r\nserver: s")
    assert await app.connection.ask(GET + GET) == later + later
    assert app.sent == [True, True, True]
    assert app.connection.state.total_requests == 3
    assert not app.connection.wire.is_closed


async def test_what_is_to_be_done_before_a_whole_answer_is_done_before_any_of_it_leaves() -> None:
    app = Whole(bytes(1 << 20))  # too much to wait for the end of the turn
    await app.connection.ask()
    assert app.sent == [True]
    assert app.seen == [0]


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 5\r\nconnection: close"),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
        (b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
        (b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
    ],
)
async def test_what_is_no_simple_answer_goes_by_messages(request_bytes: bytes, answer: bytes) -> None:
    app = Whole()
    assert (await app.connection.ask(request_bytes)).startswith(answer)
    assert app.sent == [False]
    assert app.seen == []
    assert app.connection.wire.sent.endswith(b"\r\n\r\n" if request_bytes.startswith(b"HEAD") else b"hello")


async def test_nobody_is_answered_whole_who_lags_or_has_left() -> None:
    app = Whole()
    app.connection.protocol.pause_writing()
    app.connection.protocol.data_received(GET)
    await turn_until(lambda: app.sent)
    assert app.connection.wire.writes == []
    app.connection.protocol.resume_writing()
    await app.connection.idle()
    app.connection.protocol.data_received(GET)
    app.connection.protocol.connection_lost(None)
    await app.connection.idle()
    assert app.sent == [False, False]
    assert app.seen == []


async def test_a_head_that_tells_the_length_waits_for_the_body() -> None:
    has_begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        has_begun.set()
        await may_go_on.wait()
        await send({"type": "http.response.body", "body": b"he", "more_body": True})
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"llo"})

    connection = Connection(app)
    connection.protocol.data_received(GET)
    await turn_until(has_begun.is_set)
    await asyncio.sleep(0)
    assert not connection.wire.writes
    may_go_on.set()
    await connection.idle()
    head = b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 5\r\n\r\n"
    assert connection.wire.writes == [head + b"he", b"llo"]


async def test_who_asks_for_more_than_a_whole_body_waits_for_the_clients_end() -> None:
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())
        received.append(await receive())

    connection = Connection(app)
    connection.protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
    await turn_until(lambda: received)
    await asyncio.sleep(0)
    assert received == [{"type": "http.request", "body": b"abc", "more_body": False}]
    connection.protocol.connection_lost(None)
    await connection.idle()
    assert [message["type"] for message in received] == ["http.request", "http.disconnect"]


async def test_without_a_length_the_body_comes_in_chunks() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        for part in (b"one", b"", b"three"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    head, _, body = (await Connection(app).ask()).partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\ndate: today\r\nx: y\r\ntransfer-encoding: chunked"
    assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_a_client_of_http_1_0_hears_of_no_chunks() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert PUSHER not in scope["extensions"]
        assert (await receive())["body"] == b"abc"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        for part in (b"one", b"three"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    connection = Connection(app)
    sent = await connection.ask(b"POST / HTTP/1.0\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\nabc")
    assert sent == b"HTTP/1.1 200 OK\r\ndate: today\r\nx: y\r\nconnection: close\r\n\r\nonethree"
    assert connection.wire.is_closed


async def test_a_response_needs_no_headers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello"})

    sent = await Connection(app).ask()
    assert sent == b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b"])
@pytest.mark.parametrize("with_length", [True, False])
async def test_a_header_cannot_begin_another_one(value: bytes, with_length: bool) -> None:
    length = [(b"content-length", b"5")] if with_length else []
    sent = await Connection(answering(headers=[(b"x", value), *length])).ask()
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert value not in sent


@pytest.mark.parametrize(
    ("status", "method", "with_length"),
    [(204, b"GET", False), (304, b"GET", False), (200, b"HEAD", True), (200, b"HEAD", False)],
)
async def test_some_responses_have_no_body(status: int, method: bytes, with_length: bool) -> None:
    body = b"hello" if method == b"HEAD" else b""
    connection = Connection(answering(body, status=status, headers=[(b"content-length", b"5")] if with_length else []))
    for _ in range(2):
        sent = await connection.ask(GET.replace(b"GET", method))
        assert sent.startswith(b"HTTP/1.1 %d " % status)
        assert sent.endswith(b"\r\n\r\n")
        assert b"transfer-encoding" not in sent


@pytest.mark.parametrize("length", [4, 6])
async def test_a_wrong_length_ends_the_connection(length: int) -> None:
    connection = Connection(answering(headers=[(b"content-length", b"%d" % length)]))
    sent = await connection.ask()
    assert connection.wire.is_closed
    assert sent.endswith(b"\r\n\r\nhello") if length > 5 else not sent  # nothing that belongs to no response


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.0\r\n\r\n", GET.replace(b"host: x", b"connection: close")],
)
async def test_a_client_that_keeps_no_connection_has_its_whole_answer_first(request_bytes: bytes) -> None:
    connection = Connection(answering())
    sent = await connection.ask(request_bytes)
    assert sent.endswith(b"\r\n\r\nhello")
    assert b"connection: close\r\n" in sent
    assert connection.wire.is_closed


async def test_an_application_can_close_the_connection() -> None:
    connection = Connection(answering(headers=[(b"content-length", b"5"), (b"connection", b"close")]))
    assert (await connection.ask()).endswith(b"hello")
    assert connection.wire.is_closed


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(5 if scope["path"] == "/slow" else 0):
            await asyncio.sleep(0)
        await answering(scope["path"].encode())(scope, receive, send)

    connection = Connection(app)
    connection.protocol.data_received(GET.replace(b"/ ", b"/slow ") + GET.replace(b"/ ", b"/%C3%A4 ") + GET)
    assert connection.wire.is_paused
    await turn_until(lambda: connection.state.total_requests == 3)
    await connection.idle()
    bodies = [part.partition(b"\r\n\r\n")[2].decode() for part in connection.wire.sent.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == ["/slow", "/ä", "/"]
    assert not connection.wire.is_paused


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize("step", [1, 1000])
async def test_a_wish_for_another_protocol_changes_nothing(protocol: bytes, step: int) -> None:
    """Java's client asks for HTTP/2 so with its first request, whatever the method."""
    heard: list[tuple[str, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        heard.append((scope["path"], body))
        await answering()(scope, receive, send)

    upgrade = b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: " + protocol + b"\r\nhttp2-settings: A\r\n"
    hidden = GET.replace(b"/", b"/hidden", 1)
    asked = [
        b"POST /a HTTP/1.1\r\ncontent-length: %d\r\n%b\r\n%b" % (len(hidden), upgrade, hidden),
        b"POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\n%b\r\n3\r\nabc\r\n0\r\n\r\n" % upgrade,
        b"GET /c HTTP/1.1\r\n%b\r\n" % upgrade,
        GET,
    ]
    data = b"".join(asked)
    connection = Connection(app)
    for begin in range(0, len(data), step):
        connection.protocol.data_received(data[begin : begin + step])
    await turn_until(lambda: connection.state.total_requests == len(asked))
    await connection.idle()
    assert heard == [("/a", hidden), ("/b", b"abc"), ("/c", b""), ("/", b"")]
    assert not connection.wire.is_closed


async def test_an_answer_is_not_lost_to_the_garbage_behind_its_request() -> None:
    connection = Connection(answering())
    connection.protocol.data_received(GET)
    await asyncio.sleep(0)  # the application has answered, and nothing has left yet
    assert connection.wire.writes == []
    connection.protocol.data_received(b"no HTTP\r\n\r\n")
    await connection.idle()
    ours, _, theirs = connection.wire.sent.partition(b"hello")
    assert ours.startswith(b"HTTP/1.1 200 ")
    assert theirs.startswith(b"HTTP/1.1 400 ")
    assert connection.wire.is_closed


@pytest.mark.parametrize(
    "garbage", [b"no HTTP\r\n\r\n", b"GET http://x:port/ HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /" + bytes(70_000)]
)
async def test_garbage_is_refused_behind_the_answers_to_what_came_before(garbage: bytes) -> None:
    connection = Connection(answering())
    connection.protocol.data_received(GET + GET + garbage)
    await turn_until(lambda: connection.wire.is_closed)
    await connection.idle()
    first, second, refusal = connection.wire.sent.split(b"hello")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 200 ")
    assert refusal.startswith(b"HTTP/1.1 400 ")


async def test_a_body_that_is_none_has_one_answer() -> None:
    connection = Connection(answering())
    connection.protocol.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n")
    await connection.idle()
    assert connection.wire.sent.startswith(b"HTTP/1.1 400 ")
    assert connection.wire.sent.count(b"HTTP/1.1 ") == 1
    assert connection.wire.is_closed


async def test_a_client_that_says_no_more_has_its_answer() -> None:
    connection = Connection(answering())
    connection.protocol.data_received(GET)
    await asyncio.sleep(0)  # the application has answered, and nothing has left yet
    assert not connection.protocol.eof_received()  # upon which a transport closes, and takes nothing any more
    connection.wire.close()
    await connection.idle()
    assert connection.wire.sent.endswith(b"hello")


@pytest.mark.parametrize("num_answered", [0, 1])
async def test_a_client_that_leaves_is_missed_although_it_asked_for_more(num_answered: int) -> None:
    received: list[Message] = []
    answered = GET.replace(b"/ ", b"/answered ")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/answered":
            await answering()(scope, receive, send)
        else:
            await receive()
            received.append(await receive())

    connection = Connection(app)
    connection.protocol.data_received(answered * num_answered + GET + GET)
    await turn_until(lambda: connection.state.total_requests == num_answered)
    for _ in range(5):
        await asyncio.sleep(0)
    assert received == []
    connection.protocol.connection_lost(None)
    await connection.idle()
    assert [message["type"] for message in received] == ["http.disconnect"]


async def test_a_server_that_stops_sends_what_waits_and_lets_answers_end() -> None:
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await may_end.wait()
        await answering()(scope, receive, send)

    answered, slow = Connection(app), Connection(app)
    answered.protocol.data_received(GET)
    slow.protocol.data_received(GET.replace(b"/ ", b"/slow "))
    await asyncio.sleep(0)
    answered.protocol.shutdown()
    slow.protocol.shutdown()
    await asyncio.sleep(0)
    assert answered.wire.sent.endswith(b"hello")
    assert answered.wire.is_closed
    assert not slow.wire.is_closed
    may_end.set()
    await slow.idle()
    assert slow.wire.sent.endswith(b"hello")
    assert slow.wire.is_closed


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_sends_waits_for_a_client_that_does_not_read(leaves: bool) -> None:
    connection = Connection(answering())
    connection.protocol.pause_writing()
    connection.protocol.data_received(GET)
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.state.tasks
    assert connection.wire.writes == []
    if leaves:
        connection.protocol.connection_lost(None)
    else:
        connection.protocol.resume_writing()
    await connection.idle()
    assert connection.wire.sent.endswith(b"" if leaves else b"hello")
    assert bool(connection.wire.sent) == (not leaves)


async def test_who_asks_to_be_told_of_a_client_that_leaves_is_told_once() -> None:
    told: list[str] = []
    asking: list[Scope] = []
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Send) -> None:
        receive.__self__.on_disconnect(lambda: told.append("left"))
        asking.append(scope)
        await may_end.wait()
        await answering()(scope, receive, send)

    staying, leaving = Connection(app), Connection(app)
    for connection in (staying, leaving):
        connection.protocol.data_received(GET)
    await turn_until(lambda: len(asking) == 2)
    leaving.protocol.connection_lost(None)
    assert told == ["left"]
    may_end.set()
    await staying.idle()
    assert staying.wire.sent.endswith(b"hello")
    staying.protocol.connection_lost(None)  # who has the answer is missed by nobody
    assert told == ["left"]


async def test_a_client_that_has_left_already_is_told_of_at_once_and_one_that_is_not_asked_for_never() -> None:
    told: list[str] = []
    may_ask = asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Send) -> None:
        del send
        await may_ask.wait()
        receive.__self__.on_disconnect(lambda: told.append(scope["path"]))

    async def forgetful(scope: Scope, receive: Any, send: Send) -> None:
        await app(scope, receive, send)
        receive.__self__.on_disconnect(None)
        await asyncio.Event().wait()

    gone, forgotten = Connection(app), Connection(forgetful)
    for connection in (gone, forgotten):
        connection.protocol.data_received(GET)
    gone.protocol.connection_lost(None)
    may_ask.set()
    await gone.idle()
    assert told == ["/"]
    for _ in range(5):
        await asyncio.sleep(0)
    forgotten.protocol.connection_lost(None)
    assert told == ["/"]
    for task in forgotten.state.tasks:
        task.cancel()
    await forgotten.idle()


async def test_a_client_whose_next_requests_wait_is_missed_when_it_leaves() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Any, send: Send) -> None:
        del scope, send
        receive.__self__.on_disconnect(lambda: told.append("left"))
        await asyncio.Event().wait()

    connection = Connection(app)
    connection.protocol.data_received(GET + GET)
    assert connection.wire.is_paused
    await turn_until(lambda: not connection.wire.is_paused)  # or nobody would notice
    connection.protocol.connection_lost(None)
    assert told == ["left"]
    for task in connection.state.tasks:
        task.cancel()
    await connection.idle()


@pytest.mark.parametrize(
    ("parts", "taken"),
    [
        ((b"content-length: 4\r\n\r\nping",), b"ping"),
        ((b"\r\n",), b""),
        ((b"content-length: 4\r\n\r\npi", b"ng"), None),
        ((b"expect: 100-continue\r\ncontent-length: 4\r\n\r\nping",), None),
    ],
)
async def test_a_body_can_be_taken_once_and_only_where_all_of_it_is_here(
    parts: tuple[bytes, ...], taken: bytes | None
) -> None:
    seen: list[bytes | None] = []

    async def app(scope: Scope, receive: Any, send: Send) -> None:
        cycle = receive.__self__
        seen.append(cycle.take_body())
        body = seen[0] or b""
        more = seen[0] is None
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        seen.append(cycle.take_body())
        await answering(body)(scope, receive, send)

    connection = Connection(app)
    connection.protocol.data_received(b"POST / HTTP/1.1\r\n" + parts[0])
    await turn_until(lambda: seen)
    for part in parts[1:]:
        connection.protocol.data_received(part)
    await connection.idle()
    assert seen == [taken, None]
    assert connection.wire.sent.endswith(b"\r\n\r\n" if taken == b"" else b"\r\n\r\nping")


async def test_a_body_comes_to_the_application_and_is_invited_where_the_client_asks() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {"more_body": True}
        body = b""
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        await answering(body)(scope, receive, send)

    connection = Connection(app)
    head = b"POST /?a=b HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
    connection.protocol.data_received(head)
    await turn_until(lambda: connection.wire.writes)
    assert connection.wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    assert (await connection.ask(b"ping")).endswith(b"\r\n\r\nping")


async def test_the_scope_is_that_of_asgi() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answering()(scope, receive, send)

    connection = Connection(app)
    await connection.ask(b"PUT /a%20b?c=%20d HTTP/1.1\r\nX-Y: Z\r\n\r\n")
    (scope,) = scopes
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("PUT", "/a b", b"/a%20b")
    assert (scope["query_string"], scope["http_version"], scope["type"]) == (b"c=%20d", "1.1", "http")
    assert scope["headers"] == [(b"x-y", b"Z")]
    assert (scope["client"], scope["server"]) == (("127.0.0.1", 1), ("127.0.0.1", 2))


async def test_connections_that_idle_are_closed_and_others_are_not() -> None:
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await may_end.wait()
        await answering()(scope, receive, send)

    protocol = gathering_protocol(Limits(idle_s=0.1))
    idle, busy = Connection(app, protocol), Connection(app, protocol)
    await busy.ask()
    busy.protocol.data_received(GET.replace(b"/ ", b"/slow "))
    await idle.ask()

    async def closed(connection: Connection) -> bool | None:
        return connection.wire.is_closed or None

    await until(lambda: closed(idle), "the idle connection is closed")
    assert not busy.wire.is_closed
    may_end.set()
    await until(lambda: closed(busy), "the other is closed when it idles, too")
    assert busy.wire.sent.count(b"hello") == 2


async def test_a_connection_that_is_gone_is_forgotten() -> None:
    connection = Connection(answering())
    await connection.ask()
    gone = weakref.ref(connection.protocol)
    connection.protocol.connection_lost(ConnectionResetError())
    del connection
    gc.collect()
    assert gone() is None


async def test_parts_of_a_stream_can_be_pushed_while_the_client_keeps_up() -> None:
    pushers: list[Any] = []
    may_end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pushers.append(scope["extensions"][PUSHER])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await may_end.wait()
        await send({"type": "http.response.body"})

    connection = Connection(app)
    connection.protocol.data_received(GET)
    await turn_until(lambda: connection.wire.writes)
    (pusher,) = pushers
    assert pusher.is_ready()
    pusher.push(b"one")
    pusher.push(b"two")
    await asyncio.sleep(0)
    assert connection.wire.writes[1:] == [b"3\r\none\r\n3\r\ntwo\r\n"]
    connection.protocol.pause_writing()
    assert not pusher.is_ready()
    connection.protocol.resume_writing()
    assert pusher.is_ready()
    may_end.set()
    await connection.idle()
    assert connection.wire.writes[2:] == [b"0\r\n\r\n"]


async def test_what_has_to_come_before_the_bytes_does() -> None:
    lengths: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][BEFORE_WRITE](lambda: lengths.append(len(connection.wire.sent)))
        await answering()(scope, receive, send)

    connection = Connection(app)
    await connection.ask()
    assert lengths == [0]
    assert connection.wire.sent
