"""One request and its response on a connection: uvicorn's, with less work for what most of them are made of.

Its names are in small letters, as ASGI demands. Event loop only.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from handler.errors import RequestTimeoutError

_SPECIAL_HEADERS = frozenset((b"connection", b"transfer-encoding"))
_BODILESS = frozenset((204, 304))


class Cycle(RequestResponseCycle):
    """One request and its response.

    Attributes:
        is_late: whether the rest of the body is no longer waited for.
        ends_with_connection: whether nothing else says where the response's body ends.
    """

    is_late = False
    ends_with_connection = False
    _is_read = False
    _unsent_head = b""

    async def receive(self) -> Any:
        """What has come of the body, as uvicorn's own does it, but only while it comes in time.

        Raises:
            RequestTimeoutError: it does not.
        """
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
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
