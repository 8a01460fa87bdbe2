"""One request and its response on a connection: uvicorn's, with less work for what most of them are made of.

Its names are in small letters, as ASGI demands. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from handler.errors import RequestTimeoutError

_SPECIAL_HEADERS = frozenset((b"connection", b"transfer-encoding"))
_BODILESS = frozenset((204, 304))


class _Beginning:
    """What all answers of status 200 begin with, while the server's own headers are those: it changes each second."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._bytes = STATUS_LINE[200]

    def of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Status line and header lines."""
        if headers is not self._headers:
            lines = (b"%b: %b\r\n" % header for header in headers)
            self._headers, self._bytes = headers, b"".join((STATUS_LINE[200], *lines))
        return self._bytes


_head_of_all = _Beginning().of


class Signal:
    """An `asyncio.Event` that costs next to nothing where nobody waits for it, as with most requests."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: asyncio.Event | None = None

    def set(self) -> None:
        """Let those go on who wait."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        """Have those wait who come from now on."""
        self._is_set = False
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        """Return once it is set."""
        if self._is_set:
            return
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()


class Cycle(RequestResponseCycle):
    """One request and its response.

    Attributes:
        is_late: whether the rest of the body is no longer waited for.
        ends_with_connection: whether nothing else says where the response's body ends.
    """

    is_late = False
    ends_with_connection = False
    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    _is_read = False
    _on_disconnect: Callable[[], None] | None = None
    _unsent_head = b""

    def __init__(
        self,
        scope: Any,
        transport: asyncio.Transport,
        flow: FlowControl,
        server_state: ServerState,
        logger: logging.Logger,
        on_response: Callable[[], None],
        *,
        keep_alive: bool,
        expects_100_continue: bool,
    ) -> None:
        """What uvicorn's sets for each request, of which most stands above: it begins alike for all."""
        self.scope = scope
        self.transport = transport
        self.flow = flow
        self.default_headers = server_state.default_headers
        self.logger = logger
        self.on_response = on_response
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expects_100_continue
        self.message_event: Any = Signal()
        self.body = bytearray()

    async def receive(self) -> Any:
        """What has come of the body, as uvicorn's own does it, but only while it comes in time.

        Raises:
            RequestTimeoutError: it does not.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.flow.read_paused:
                self.flow.resume_reading()
            if self.more_body or self._is_read:
                await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.is_late and self.more_body:
            raise RequestTimeoutError("The body took too long to arrive")
        body, self.body = self.body, bytearray()
        self._is_read = not self.more_body
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}

    def take_body(self) -> bytes | None:
        """The whole body, where it is here and nobody has received a part of it; None: `receive` has to be asked.

        Found by `beside`, as `on_disconnect` and `send_whole` are.
        """
        if self.more_body or self._is_read or self.waiting_for_100_continue or self.disconnected:
            return None
        if self.flow.read_paused:
            self.flow.resume_reading()
        self.message_event.clear()
        self._is_read = True
        body, self.body = self.body, bytearray()
        return bytes(body)

    def on_disconnect(self, action: Callable[[], None] | None) -> None:
        """Call `action` when the client leaves, if it has not had its answer by then; at once if it has left.

        Whoever has received the whole body need not wait in `receive` for that. None: call nothing any more.
        """
        self._on_disconnect = action
        if action is None:
            return
        if self.flow.read_paused:  # or nobody would notice
            self.flow.resume_reading()
        if self.disconnected:
            action()

    def disconnect(self) -> None:
        """The client has left."""
        self.disconnected = True
        self.message_event.set()
        if self._on_disconnect is not None:
            self._on_disconnect()

    def send_whole(self, fields: bytes, body: bytes, before: Callable[[], None]) -> bool:
        """Send a whole answer of status 200 at once; False where it is not that simple, and messages have to do it.

        Args:
            fields: header lines with their ends, without Content-Length.
            body: all of it.
            before: called once it is certain that the answer goes out.
        """
        if (
            self.response_started
            or self.disconnected
            or not self.keep_alive
            or self.flow.write_paused
            or self.waiting_for_100_continue
            or self.scope["method"] == "HEAD"
        ):
            return False
        before()
        self.response_started = self.response_complete = True
        head = _head_of_all(self.default_headers)
        self.transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, fields, len(body), body))
        self.message_event.set()
        self.on_response()
        return True

    def give_up(self) -> None:
        """Wait no longer for the rest of the body; the connection ends with the answer."""
        self.is_late = True
        self.keep_alive = False
        self.message_event.set()

    async def send(self, message: Any) -> None:
        """Write what most responses are made of; what else there is, uvicorn's own `send` does."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            if self.waiting_for_100_continue:  # the body that was announced may come nevertheless, or not
                self.keep_alive = False
            head = self._head(message) if message["type"] == "http.response.start" else None
            if head is not None:
                self.response_started = True
                self.waiting_for_100_continue = False
                if self.chunked_encoding:
                    self.transport.write(head)
                else:
                    self._unsent_head = head  # which leaves with the body: one write costs less than two
                return
            if self.scope["http_version"] == "1.0" and not any(
                name == b"content-length" for name, _ in message.get("headers", ())
            ):
                self.ends_with_connection = True  # HTTP/1.0 knows no chunks
                self.chunked_encoding = False
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
        elif self.ends_with_connection:
            self.transport.write(body)
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            self.transport.write(self._unsent_head + body)
            self._unsent_head = b""
        if is_last:
            if self.expected_content_length:
                raise RuntimeError("Response content shorter than Content-Length")
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
