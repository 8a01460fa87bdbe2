"""uvicorn's HTTP protocol for many small answers: less work for each, and one write a connection and turn of the loop.

What differs from uvicorn's own: bytes wait in an outbox, connections that idle share one timer, and a client cannot
keep a connection for longer, or make the server hold more for it, than `Limits` say. Parsing, flow control and all that
is rare are uvicorn's. Event loop only.
"""

from __future__ import annotations

import asyncio
import math
import socket
from functools import lru_cache, partial
from typing import Any, cast
from urllib.parse import unquote

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from handler.acceptance import Backlog
from handler.arrival import Arrival, Part
from handler.cycle import Cycle
from handler.errors import (
    HeadTooLargeError,
    InvalidRequestError,
    OverloadedError,
    PilotlightError,
    RequestTimeoutError,
)
from handler.intake import Intake
from handler.interruption import Delay
from handler.lag import Lag
from handler.outbox import BEFORE_WRITE, PUSHER, GatheringTransport, Outbox
from handler.pusher import ChunkPusher
from handler.refusal import refusal
from handler.silence import Silence

_MAX_PIPELINED = 64
_MAX_DISCARDED_BYTES = 8 * 1024 * 1024
_NO_HTTP = "Invalid HTTP request received."
_NOTHING, _HEAD, _BODY = Part
_KNOWN_TARGETS = 256
_KNOWN_BYTES = 256
"""Of a target that is kept: others would be much to keep, and come once."""


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, path as it came, and query."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


_known_target = lru_cache(_KNOWN_TARGETS)(_target)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may ask of the server before it has asked for anything.

    Attributes:
        idle_s: seconds that a connection may be silent between requests, or before the first; it is closed then, or
            within an eighth of that time.
        arrival_s: seconds that a request's head may take from its first byte on, and then its body.
        stall_s: seconds that a client may read nothing while more waits for it than a connection's buffers hold. Then
            it has left as far as we can tell. Until then what is generated for it waits in memory: that bounds it.
        connections: at most.
    """

    idle_s: float = 75.0  # longer than the usual 60 s of load balancers, which must be the ones to close
    arrival_s: float = 60.0
    stall_s: float = 30.0
    connections: int = 1 << 20


def gathering_protocol(limits: Limits, listener: socket.socket | None = None) -> type[HttpToolsProtocol]:
    """What uvicorn is to make for each connection. All share an outbox and the timers.

    Args:
        limits: of one client.
        listener: where connections wait, of which more than one a turn are to be accepted.
    """
    shared = _Shared(
        limits,
        Intake(),
        Outbox(),
        silence=Silence(limits.idle_s),
        arrival=Delay(limits.arrival_s, GatheringProtocol.on_late),
        stalled=Delay(limits.stall_s, Lag.look),
    )
    backlog = None if listener is None else Backlog(listener)

    def make(**arguments: Any) -> GatheringProtocol:
        another = partial(GatheringProtocol, shared=shared, **arguments)
        if backlog is not None:
            backlog.accept(another)
        return another()

    # Not a type, but uvicorn only ever calls it.
    return cast("type[HttpToolsProtocol]", make)


class _Shared(msgspec.Struct, frozen=True):
    """What all connections have together.

    Those with a part of a request are in `arrival`, those whose client lags behind in `stalled`.
    """

    limits: Limits
    intake: Intake
    outbox: Outbox
    silence: Silence
    arrival: Delay[GatheringProtocol]
    stalled: Delay[Lag]


class GatheringProtocol(HttpToolsProtocol):
    """Tells the application of its outbox's `before_write` by an extension of that name."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        shared: _Shared,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._intake = shared.intake
        self._outbox = shared.outbox
        self._silence = shared.silence
        self._stalled = shared.stalled
        self._arrival = Arrival(shared.arrival)
        self._max_connections = shared.limits.connections
        self._running: Cycle | None = None
        self._asgi = {"version": config.asgi_version, "spec_version": "2.3"}
        self._awaited = _NOTHING
        self._has_begun = False  # a request, with what is being read
        self._body_bytes = 0  # of this request
        self._discarded_bytes = 0  # of them
        self._is_declining = False  # an upgrade, of which the head has just been read
        self._refusal: PilotlightError | None = None  # of what came behind requests that have no answer yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the outbox between uvicorn and the transport."""
        self._out = GatheringTransport(transport, self._outbox)
        super().connection_made(cast("asyncio.Transport", self._out))
        self._lag = Lag(self.transport, self._stalled)
        self._extensions: Any = {
            BEFORE_WRITE: self._outbox.before_write,
            PUSHER: ChunkPusher(self.transport, self.flow),
        }
        self._unchunked_extensions: Any = {BEFORE_WRITE: self._outbox.before_write}
        self.silent_since_s = self.loop.time()
        self._silence.watch(self, self.loop)
        if len(self.connections) > self._max_connections:
            self._refuse(OverloadedError(f"There are {self._max_connections} connections already", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, once what had come before that has been read."""
        self._intake.hurry(self)
        self._silence.forget(self)
        self._arrival.end(self)
        self._lag.end()
        if self._running is not None and not self._running.response_complete:  # which need not be the newest one
            self._running.disconnect()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Read and send what waits: the transport is about to close, and takes nothing from then on."""
        self._intake.hurry(self)
        self._outbox.flush()

    def data_received(self, data: bytes) -> None:
        """Have it read, now or soon."""
        self._intake.take(self, data)

    def read(self, data: bytes) -> None:
        """Read what came; a client that has sent a part of a request has a time for the rest."""
        if self._refusal is not None or self._out.is_ending:
            return
        self._has_begun = False
        self.silent_since_s = math.inf
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.logger.warning(_NO_HTTP)
            self.send_400_response(_NO_HTTP)
        if self._awaited:
            if self._has_begun:
                self._arrival.begin()
            else:
                self._arrival.add(len(data))
            self._wait_for_more()
        elif self.cycle is None or self.cycle.response_complete:  # white space between requests
            self.silent_since_s = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        is_body, self._awaited = self._awaited is _BODY, _NOTHING
        self._refuse(InvalidRequestError(msg), is_body=is_body)

    def on_message_begin(self) -> None:
        """Begin to read a request. Its scope is made when all of the head is known, and at once."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._has_begun = True
        self._awaited = _HEAD
        self._body_bytes = 0
        self._discarded_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those behind the body are kept where nobody looks for them."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def pause_writing(self) -> None:
        """The client lags behind."""
        super().pause_writing()
        self._lag.begin(self.loop)

    def resume_writing(self) -> None:
        """It has read most of what waited."""
        super().resume_writing()
        self._lag.end()

    def abort(self) -> None:
        """Close without sending what still waits: a client that does not read it would keep the connection for good."""
        self.transport.abort()

    def on_headers_complete(self) -> None:
        """Run the application, or have it wait for the answer to the request before."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise InvalidRequestError("Too many requests ahead of their answers")  # which the parser makes its own
        parser = self.parser
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":  # which is refused for what it asks for
            self._is_declining = True
            return
        url, version = self.url, parser.get_http_version()
        path, raw_path, query = _known_target(url) if len(url) <= _KNOWN_BYTES else _target(url)
        scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": self.app_state.copy(),
            "extensions": self._extensions if version != "1.0" else self._unchunked_extensions,
        }
        before = self.cycle
        self.cycle = cycle = Cycle(
            scope,
            self.transport,
            self.flow,
            self.server_state,
            self.logger,
            self.on_response_complete,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_100_continue=self.expect_100_continue and version != "1.0",
        )
        self._awaited = _BODY
        self.headers = []
        if before is None or before.response_complete:
            self._running = cycle
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, if somebody may still ask for it, and no more than a certain amount unread."""
        cycle = self.cycle
        self._body_bytes += len(body)
        if cycle.response_complete:
            self._discarded_bytes += len(body)
            if self._discarded_bytes > _MAX_DISCARDED_BYTES:
                self.transport.close()
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The request is here."""
        if self._is_declining:
            return
        self._awaited = _NOTHING
        if self._arrival.timed:
            self._arrival.end(self)
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            assert isinstance(cycle, Cycle)
            self._running = cycle
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif not self._awaited:
            self.silent_since_s = self.loop.time()

    def on_late(self) -> None:
        """The request that has begun is not here in time."""
        self._arrival.expire()
        if self.transport.is_closing():
            return
        cycle = cast("Cycle", self.cycle)
        is_busy = self._running is not None and not self._running.response_complete
        if self.flow.read_paused or (is_busy and self._running is not cycle) or (is_busy and self._awaited is _HEAD):
            self._wait_for_more()  # it may have come, but is not read before the answer to the one before is out
        elif self._awaited is _HEAD:
            self._refuse(RequestTimeoutError("The request took too long to arrive"))
        elif cycle.response_complete:
            self.transport.close()
        else:
            cycle.give_up()

    def _parse(self, data: bytes) -> None:
        """Read on, and take a request that asks for another protocol as one that does not.

        Where it asks the parser takes its body for bytes of that protocol: they would be lost, or the next request.

        Raises:
            HttpParserError: it is no HTTP.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            else:
                return
            if not self._is_declining:
                return
            self._is_declining = False
            version = self.parser.get_http_version().encode()
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            head = [self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n", *lines, b"\r\n"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            data = b"".join([*head, rest])

    def _wait_for_more(self) -> None:
        try:
            self._arrival.wait(self._awaited, self._body_bytes, self, self.loop)
        except HeadTooLargeError as error:
            self._refuse(error, is_body=self._awaited is _BODY)

    def _refuse(self, error: PilotlightError, *, is_body: bool = False) -> None:
        """Answer what never becomes a request, behind the answers to those before it, and close.

        It may be the body (`is_body`) of a request that runs: then this is its answer, unless one has begun.
        """
        running = self._running
        is_busy = running is not None and not running.response_complete
        if running is not None and is_busy:
            if not is_body or running is not self.cycle:
                self._refusal = error
                return
            running.disconnect()
            is_busy = running.response_started
        if not is_busy and not self.transport.is_closing():
            self.transport.write(refusal(error))
        self.transport.close()
