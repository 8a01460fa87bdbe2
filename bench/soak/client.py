"""One client of a soak: asks one thing after another, waits for the whole answer or leaves. Judges what came back."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
import struct
import time
from collections.abc import Callable

import httptools
import msgspec

from bench.soak.asks import API_KEY, Ask, Departure

_NO_ROOM = frozenset({429})
_LINGER_NOT = struct.pack("ii", 1, 0)  # a close with this sends a reset
_PAUSE_S = 0.05


class Fate(enum.StrEnum):
    """What became of a request, as its client saw it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    BROKEN = "broken"


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its end.

    Attributes:
        request_id: the `x-request-id` that the client gave it.
        kind: of the `Ask`.
        fate: broken is everything that is neither right nor asked for.
        status: of the answer, None where none began.
        seconds: from sending to the end.
        has_head: whether the whole head was sent, so that the server knows the id.
        problem: what is broken, in words.
    """

    request_id: str
    kind: str
    fate: Fate
    status: int | None
    seconds: float
    has_head: bool = True
    problem: str | None = None


class Client:
    """Holds a connection for as long as both sides like it."""

    def __init__(self, host: str, port: int, seed: str, timeout_s: float) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._random = random.Random(seed)  # noqa: S311  (a repeatable choice, not a secret)
        self._transport: asyncio.Transport | None = None
        self._answers: _Answers | None = None

    async def ask(self, ask: Ask, request_id: str) -> Sent:
        """Send one request and see it to its end."""
        start_s = time.perf_counter()
        has_head, problem = ask.departure is not Departure.IN_HEAD, None
        answers: _Answers | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                transport, answers = await self._connect()
                answers.begin()
                head = _head(ask, request_id, self._host)
                if ask.departure is None:
                    transport.write(head + ask.body)
                    await answers.until(answers.has_ended)
                else:
                    await self._ask_and_leave(ask, head, transport, answers)
        except TimeoutError:
            problem = f"no whole answer within {self._timeout_s:g} s"
        except (OSError, httptools.HttpParserError) as error:
            problem = f"{type(error).__name__}: {error}"
        fate, problem = _judge(ask, answers, problem)
        if ask.departure is not None or fate is Fate.BROKEN:
            self.leave()
        return Sent(
            request_id=request_id,
            kind=ask.kind,
            fate=fate,
            status=None if answers is None else answers.status,
            seconds=time.perf_counter() - start_s,
            has_head=has_head,
            problem=problem,
        )

    def leave(self) -> None:
        """Close the connection, as most programs do or as those do that are killed."""
        if self._transport is not None:
            if self._random.random() < 0.5:
                connection = self._transport.get_extra_info("socket")
                with contextlib.suppress(OSError):  # the server may have closed it
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self._transport.abort()
        self._transport = self._answers = None

    async def _ask_and_leave(self, ask: Ask, head: bytes, transport: asyncio.Transport, answers: _Answers) -> None:
        match ask.departure:
            case Departure.IN_HEAD:
                transport.write(head[: self._random.randrange(len(head) - 3)])
            case Departure.IN_BODY:
                transport.write(head + ask.body[: self._random.randrange(len(ask.body))])
            case Departure.IN_ANSWER:
                transport.write(head + ask.body)
                enough = self._random.randint(1, 8)
                await answers.until(lambda: answers.has_ended() or answers.num_pieces >= enough)
                return
            case Departure.UNREAD:
                transport.pause_reading()
                transport.write(head + ask.body)
            case _:
                transport.write(head + ask.body)
        await asyncio.sleep(self._random.choice((0.0, _PAUSE_S, 10 * _PAUSE_S)))

    async def _connect(self) -> tuple[asyncio.Transport, _Answers]:
        if self._transport is None or self._answers is None or self._answers.is_closed or self._transport.is_closing():
            self.leave()
            loop = asyncio.get_running_loop()
            self._transport, self._answers = await loop.create_connection(_Answers, self._host, self._port)
        return self._transport, self._answers


class _Answers(asyncio.Protocol):
    """Reads one answer after another from one connection."""

    def __init__(self) -> None:
        self.is_closed = False
        self.status: int | None = None
        self.num_pieces = 0
        self.is_whole = False
        self.body = b""
        self._waiter: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Expect the next answer."""
        self.status, self.num_pieces, self.is_whole, self.body = None, 0, False, b""
        self._parser = httptools.HttpResponseParser(self)

    def has_ended(self) -> bool:
        """Whether nothing more is to come of this answer."""
        return self.is_whole or self.is_closed

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something that what comes in brings about."""
        while not is_so():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._wake()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body += body
        self.num_pieces += 1

    def on_message_complete(self) -> None:
        self.is_whole = True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _head(ask: Ask, request_id: str, host: str) -> bytes:
    headers = {
        "host": host,
        "authorization": f"Bearer {API_KEY}",
        "content-type": "application/json",
        "content-length": str(len(ask.body)),
        "x-request-id": request_id,
    } | ask.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {ask.path} HTTP/1.1\r\n{lines}\r\n".encode()


def _judge(ask: Ask, answers: _Answers | None, problem: str | None) -> tuple[Fate, str | None]:
    """The fate of a request, and what is wrong with it if it is broken."""
    if problem is not None or answers is None:
        return Fate.BROKEN, problem or "no connection"
    if answers.is_whole:
        return _judge_whole(ask, answers)
    if ask.departure is not None and not (ask.departure is Departure.IN_ANSWER and answers.is_closed):
        return Fate.CANCELLED, None
    return Fate.BROKEN, f"the connection was lost after {len(answers.body)} bytes of the answer"


def _judge_whole(ask: Ask, answers: _Answers) -> tuple[Fate, str | None]:
    if answers.status not in ask.expected | _NO_ROOM:
        return Fate.BROKEN, f"status {answers.status}: {answers.body[:300].decode(errors='replace')}"
    if answers.status != 200:
        return Fate.REFUSED, None
    if ask.is_stream and not _is_whole_stream(answers.body):
        return Fate.BROKEN, f"the stream ends with {answers.body[-300:].decode(errors='replace')!r}"
    return Fate.ANSWERED, None


def _is_whole_stream(body: bytes) -> bool:
    if body.endswith(b"data: [DONE]\n\n"):
        return b'data: {"error"' not in body
    return body.rpartition(b"event: ")[2].startswith((b"response.completed\n", b"response.incomplete\n"))
