"""One kept connection to a server, over gevent: what comes is noted with its time, and read when it is over.

Made to be cheap, as `bench.client` is: bytes are taken in the hub, without a switch to the greenlet that waits, which
wakes when the answer has ended. So the time of a piece is when the hub came to it, whatever greenlets have to do.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from typing import Any

import gevent
import gevent.event
import gevent.socket
import httptools

from bench.errors import BenchError
from bench.load.target import Target

_MOST_BYTES = 1 << 16
_READ = 1


class LostConnectionError(OSError):
    """The server closed a connection, or spoke no HTTP on it."""


class Reply:
    """What came back. Times are of `time.monotonic`.

    Attributes:
        pieces: of the body, with the times at which they came.
        first_byte_s: of the head, None where nothing came.
        ended_s: arrival of the last byte, None where it did not end.
        status: None where there was no head.
        lost: why it did not end, None where it did, or where nothing is known of it.
    """

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.first_byte_s: float | None = None
        self.ended_s: float | None = None
        self.status: int | None = None
        self.lost: str | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._now_s = 0.0
        self._ends_with_connection = True
        self._is_kept = False

    @property
    def keeps_connection(self) -> bool:
        """Whether another request may follow on the connection."""
        return self.ended_s is not None and not self._ends_with_connection and self._is_kept

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come."""
        return self.ended_s is not None or self.lost is not None

    def feed(self, time_s: float, data: bytes) -> None:
        """Bytes of head or body; empty where the server closed the connection."""
        self._now_s = time_s
        if not data:
            if self.status is not None and self._ends_with_connection:
                self.ended_s = time_s
            else:
                self.lost = self.lost or "the server closed the connection"
            return
        self.first_byte_s = time_s if self.first_byte_s is None else self.first_byte_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.lost = f"what came is no HTTP: {error}"

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        del value
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()
        self._is_kept = self._parser.should_keep_alive()  # known here only: the end of the message resets it

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self.pieces.append((self._now_s, body))

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.ended_s = self._now_s


class Server:
    """Where connections go, looked up once: a name must not be what a request waits for.

    Raises:
        BenchError: the name is not known.
    """

    def __init__(self, target: Target) -> None:
        self.host = target.host
        self.tls = ssl.create_default_context() if target.is_tls else None
        try:
            found = gevent.socket.getaddrinfo(target.host, target.port, type=gevent.socket.SOCK_STREAM)
        except OSError as error:
            raise BenchError(f"url: {target.host} is not known: {error.strerror}") from error
        self._addresses = [(family, address) for family, _, _, _, address in found]

    def connect(self) -> Any:
        """A socket that is connected to the first address that answers.

        Raises:
            OSError: none does.
        """
        for index, (family, address) in enumerate(self._addresses, 1):
            connected = gevent.socket.socket(family, gevent.socket.SOCK_STREAM)
            try:
                connected.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
                connected.connect(address)
            except BaseException as error:
                connected.close()
                if not isinstance(error, OSError) or index == len(self._addresses):
                    raise
            else:
                return connected
        raise AssertionError


class Connection:
    """To one server, for one request at a time. Belongs to the greenlet that asks.

    Raises:
        OSError: nobody answers there.
    """

    def __init__(self, server: Server) -> None:
        self.num_requests = 0
        self._reply: Reply | None = None
        self._over = gevent.event.Event()
        self._is_open = True
        self._socket = server.connect()
        self._descriptor: int = self._socket.fileno()
        self._tls: _Tls | None = None
        try:
            if server.tls is not None:
                self._tls = _Tls(self._socket, server.tls, server.host)
        except BaseException:
            self._socket.close()
            raise
        # Watched while idle too: a server that closes the connection is noticed before the next request.
        self._watcher: Any = gevent.get_hub().loop.io(self._descriptor, _READ)
        self._watcher.start(self._on_readable)

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it, as far as is known."""
        return self._is_open

    def send(self, request: bytes) -> Reply:
        """Send a request; the reply fills while greenlets wait.

        Raises:
            OSError: the connection is lost.
        """
        self.num_requests += 1
        self._over.clear()
        self._reply = reply = Reply()
        self._socket.sendall(self._tls.encrypt(request) if self._tls is not None else request)
        return reply

    def wait(self) -> None:
        """Until the reply is over."""
        self._over.wait()

    def close(self) -> None:
        """Give it up, once."""
        self._is_open = False
        self._watcher.stop()
        self._watcher.close()
        with contextlib.suppress(OSError):
            self._socket.close()

    def _on_readable(self) -> None:
        """In the hub: takes what is there, and must neither wait nor raise."""
        now_s = time.monotonic()
        try:
            # Past gevent's own recv, which would wait, and the hub cannot.
            data = os.read(self._descriptor, _MOST_BYTES)
            if self._tls is not None and data:
                data, is_closed = self._tls.decrypt(data)
                if not data and not is_closed:
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"the connection was lost: {error.strerror or error}")
            return
        if self._reply is not None:
            self._reply.feed(now_s, data)
        if not data or self._reply is None:
            self._end("the server closed the connection" if not data else "the server spoke unasked")
        elif self._reply.is_over:
            self._reply = None
            self._over.set()

    def _end(self, why: str) -> None:
        self._is_open = False
        self._watcher.stop()
        if self._reply is not None and not self._reply.is_over:
            self._reply.lost = why
        self._reply = None
        self._over.set()


class _Tls:
    """TLS over memory, so that the hub can decrypt what came without waiting for more."""

    def __init__(self, socket: Any, context: ssl.SSLContext, host: str) -> None:
        self._socket = socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(_MOST_BYTES)
                if not data:
                    raise LostConnectionError("the server closed the connection in the TLS handshake") from None
                self._incoming.write(data)
            else:
                self._flush()
                return

    def encrypt(self, data: bytes) -> bytes:
        """What has to be sent for it."""
        self._object.write(data)
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """What came, and whether the server closed the stream.

        Raises:
            OSError: it is no TLS.
        """
        self._incoming.write(data)
        pieces = []
        try:
            while piece := self._object.read(_MOST_BYTES):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            return b"".join(pieces), False
        except ssl.SSLZeroReturnError:
            pass
        return b"".join(pieces), True

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())
