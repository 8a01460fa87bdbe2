"""uvicorn's HTTP protocol for many small answers: less work for each, and one write a connection and turn of the loop.

What differs from uvicorn's own: bytes wait in an outbox, connections that idle share one timer, and the head of a
response is checked for line ends as a whole instead of header by header. Its names are in small letters, as ASGI
demands. Parsing, flow control and all that is rare are uvicorn's. Event loop only.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from handler.interruption import Delay
from handler.outbox import BEFORE_WRITE, PUSHER, GatheringTransport, Outbox

_SPECIAL_HEADERS = frozenset((b"connection", b"transfer-encoding"))
_BODILESS = frozenset((204, 304))


def gathering_protocol(idle_timeout_s: float, stall_timeout_s: float) -> type[HttpToolsProtocol]:
    """What uvicorn is to make for each connection. All share an outbox; those that idle for so long are closed.

    A client that reads nothing for `stall_timeout_s`, while more waits for it than a connection's buffers hold, has
    left as far as we can tell. Until then what is generated for it waits in memory: that bounds it.
    """
    idle = Delay[GatheringProtocol](idle_timeout_s, GatheringProtocol.abort)
    stalled = Delay[GatheringProtocol](stall_timeout_s, GatheringProtocol.abort)
    # Not a type, but uvicorn only ever calls it.
    return cast("type[HttpToolsProtocol]", partial(GatheringProtocol, outbox=Outbox(), idle=idle, stalled=stalled))


class GatheringProtocol(HttpToolsProtocol):
    """Tells the application of its outbox's `before_write` by an extension of that name."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        outbox: Outbox,
        idle: Delay[GatheringProtocol],
        stalled: Delay[GatheringProtocol],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._outbox = outbox
        self._idle = idle
        self._stalled = stalled
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the outbox between uvicorn and the transport."""
        super().connection_made(cast("asyncio.Transport", GatheringTransport(transport, self._outbox)))
        self._extensions: Any = {
            BEFORE_WRITE: self._outbox.before_write,
            PUSHER: ChunkPusher(self.transport, self.flow),
        }

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._idle.end(self)
        self._stalled.end(self)
        if self._running is not None and not self._running.response_complete:  # which need not be the newest one
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Send what waits: the transport is about to close, and takes nothing from then on."""
        self._outbox.flush()

    def pause_writing(self) -> None:
        """The client lags behind."""
        super().pause_writing()
        self._stalled.begin(self, self.loop)

    def resume_writing(self) -> None:
        """It has read most of what waited."""
        super().resume_writing()
        self._stalled.end(self)

    def abort(self) -> None:
        """Close without sending what still waits: a client that does not read it would keep the connection for good."""
        self.transport.abort()

    def on_headers_complete(self) -> None:
        """Run the application, or have it wait for the answer to the request before."""
        parser, scope = self.parser, self.scope
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        version = parser.get_http_version()
        scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        scope["extensions"] = self._extensions
        before = self.cycle
        self.cycle = _Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._running = self.cycle
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._running, app = self.pipeline.pop()
            self._start_asgi_task(self._running, app)
        else:
            self._idle.begin(self, self.loop)

    def _unset_keepalive_if_required(self) -> None:
        self._idle.end(self)


class ChunkPusher:
    """Sends parts of streamed bodies on one connection, without waiting.

    It does not know where one response ends and the next one begins: whoever streams must not push after the end.
    """

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport = transport
        self._flow = flow

    def is_ready(self) -> bool:
        """Whether the client keeps up."""
        return not self._flow.write_paused

    def push(self, body: bytes) -> None:
        """Send a part of the body that has begun, which has no length and comes in chunks."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(body), body))


class _Cycle(RequestResponseCycle):
    """One request and its response."""

    async def send(self, message: Any) -> None:
        """Write what most responses are made of; what else there is, uvicorn's own `send` does."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            head = self._head(message) if message["type"] == "http.response.start" else None
            if head is not None:
                self.response_started = True
                self.waiting_for_100_continue = False
                self.transport.write(head)
                return
        elif message["type"] == "http.response.body" and not self.response_complete and self.scope["method"] != "HEAD":
            self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))
            return
        await super().send(message)

    def _head(self, message: dict[str, Any]) -> bytes | None:
        """Status line and headers; None where a header or the status says something about how the body is sent.

        Raises:
            RuntimeError: a line's end within a header, which would begin another one.
        """
        status, headers = message["status"], [*self.default_headers, *message.get("headers", ())]
        if status in _BODILESS or not self.keep_alive or self.scope["method"] == "HEAD":
            return None
        parts = [STATUS_LINE[status]]
        length = None
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name in _SPECIAL_HEADERS:
                return None
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if length is not None else b"transfer-encoding: chunked\r\n\r\n")
        head = b"".join(parts)
        num_lines = len(headers) + (2 if length is not None else 3)
        if head.count(b"\n") != num_lines or head.count(b"\r") != num_lines or b"\0" in head:
            raise RuntimeError("Invalid HTTP header value.")
        self.chunked_encoding = length is None
        self.expected_content_length = length or 0
        return head

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        if self.chunked_encoding:
            if body:
                self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
            if is_last:
                self.transport.write(b"0\r\n\r\n")
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            self.transport.write(body)
        if is_last:
            if self.expected_content_length:
                raise RuntimeError("Response content shorter than Content-Length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
