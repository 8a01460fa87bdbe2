"""One response as it goes out, whole or streamed, and the signs of life of a stream that waits. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from starlette.types import Send

from handler.choice import Choice
from handler.engine.events import TokenEvent
from handler.errors import ClientDisconnectedError, PilotlightError
from handler.formats.format import Answer
from handler.http_errors import error_body
from handler.outbox import PUSHER
from handler.shortcut import beside
from handler.sse import HEADERS, KEEP_ALIVE, error_event
from handler.trace import RequestTrace

_LAST_WORDS_S = 1.0


class Pusher(Protocol):
    """What a server may offer for streams that have begun: to send without waiting."""

    def is_ready(self) -> bool:
        """Whether it takes a part of the body now; not while the client lags behind."""

    def push(self, body: bytes) -> None:
        """Send a part of the body, where that `is_ready`."""


class Reply:
    """One response.

    Attributes:
        has_started: whether the status line is out, or stuck on its way.
        is_stream: whether it has started as a stream, which may end with an error.
        is_complete: whether the last byte has been sent.
        written_s: the loop's time when something was last sent.
    """

    has_started = False
    is_stream = False
    is_complete = False
    _answer: Answer | None = None

    def __init__(self, send: Send, loop: asyncio.AbstractEventLoop, extensions: Mapping[str, Any] | None) -> None:
        self._send = send
        self._loop = loop
        self._extensions = extensions
        self.written_s = loop.time()

    @property
    def pusher(self) -> Pusher | None:
        """What the server offers for events that need not be waited for."""
        return None if self._extensions is None else self._extensions.get(PUSHER)

    def whole_at_once(self, body: bytes) -> bool:
        """Send a complete JSON response, if that can be done without waiting; False: `whole` has to."""
        self.has_started = True
        send_json = beside(self._send, "send_json")
        self.is_complete = send_json is not None and send_json(body)
        return self.is_complete

    async def whole(self, body: bytes) -> None:
        """Send a complete JSON response."""
        self.has_started = True
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self.is_complete = True

    async def forwarded(self, status: int, body: bytes, content_type: str) -> None:
        """Send somebody else's answer, whatever it is."""
        self.has_started = True
        headers = [(b"content-type", content_type.encode("latin-1")), (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self.is_complete = True

    def opening(self, answer: Answer) -> bytes:
        """What comes before an answer's first events, to be asked for before they are made; nothing from then on."""
        if self._answer is not None:
            return b""
        self._answer = answer
        return answer.opening()

    async def stream(self, frames: bytes, *, last: bool = False) -> None:
        """Send events."""
        await self._start_stream()
        if frames or last:
            await self._send({"type": "http.response.body", "body": frames, "more_body": not last})
            self.written_s = self._loop.time()
            self.is_complete = last

    async def heartbeat(self) -> None:
        """Show a client that waits, and whatever stands between, that the connection is alive."""
        await self._start_stream()
        await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        self.written_s = self._loop.time()

    async def fail(self, error: PilotlightError) -> None:
        """End a stream with an error."""
        last_words = error_event(error_body(error)) if self._answer is None else self._answer.failure(error)
        await self._send({"type": "http.response.body", "body": last_words})
        self.is_complete = True

    async def _start_stream(self) -> None:
        if not self.has_started:
            self.has_started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            self.is_stream = True


async def end_with(error: PilotlightError, reply: Reply, trace: RequestTrace) -> None:
    """Raise an error that still can become a response of its own, else end the stream with it.

    A whole answer that was cut short cannot carry an error, nor can a stream whose start is stuck behind a client
    that does not read: their connection is closed.
    """
    if not reply.has_started or isinstance(error, ClientDisconnectedError):
        raise error
    trace.fail(error)
    if not reply.is_stream:
        return
    with contextlib.suppress(TimeoutError):  # a client that reads nothing does not read this either
        async with asyncio.timeout(_LAST_WORDS_S):
            await reply.fail(error)


class PushedAnswer:
    """Writes the events of an answer, whose stream has begun, as they arrive; the consumer of a generation."""

    def __init__(self, answer: Answer, reply: Reply, pusher: Pusher, loop: asyncio.AbstractEventLoop) -> None:
        self._write = answer.event
        self._reply = reply
        self._push = pusher.push
        self._time = loop.time
        self.is_ready = pusher.is_ready

    def take(self, choice: Choice, event: TokenEvent) -> None:
        """Write what the event adds."""
        frames = self._write(choice, event)
        if frames:
            self._push(frames)
            self._reply.written_s = self._time()


class Heartbeat:
    """Wakes whoever writes a reply, within a `with` block, when nothing has been sent for `interval_s`; 0 never does.

    One timer for the stream, and nothing for each event. Whoever waits in a blocked `send` is not woken, so that a slow
    client has one heartbeat to read at most.
    """

    def __init__(self, reply: Reply, interval_s: float, wake: Callable[[], None]) -> None:
        self._reply = reply
        self._interval_s = interval_s
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Heartbeat:
        if self._interval_s:
            self._wait_until(self._due_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def is_due(self) -> bool:
        """Whether the reply has been silent for that long."""
        return self._interval_s > 0 and asyncio.get_running_loop().time() >= self._due_s

    @property
    def _due_s(self) -> float:
        return self._reply.written_s + self._interval_s

    def _wait_until(self, moment_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(moment_s, self._check)

    def _check(self) -> None:
        if self.is_due():
            self._wake()
            self._wait_until(asyncio.get_running_loop().time() + self._interval_s)
        else:
            self._wait_until(self._due_s)
