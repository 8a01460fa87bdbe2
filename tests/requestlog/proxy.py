"""A TCP port in front of PostgreSQL's Unix socket, for what a network does to connections."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections.abc import Callable
from types import TracebackType
from urllib.parse import parse_qs, urlsplit


class Fault(enum.Enum):
    """What happens to the connection on which the client says a certain thing."""

    CUT = "cut before the server hears it"
    LOSE_ANSWER = "cut when the server has answered, before the client hears it"
    VANISH = "neither hears of the other again, and neither is told"


class Proxy:
    """Passes bytes on between `with` and its end; at other times whoever connects to `url` waits.

    Attributes:
        url: of the same database, by way of this proxy.
        hits: how many connections met their fault.
        accepted: connections so far.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parse_qs(parts.query)["host"][0] + "/.s.PGSQL.5432"
        # Its own from now on: whoever asks a free port again and again gets, some day, a connection to himself.
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}{parts.path}?sslmode=disable"
        self.hits = 0
        self.accepted = 0
        self._open = asyncio.Event()
        self._words = b""
        self._fault: Fault | None = None
        self._lifetime_bytes: Callable[[], int] | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Give up the port."""
        self._listener.close()

    def on(self, words: bytes, fault: Fault) -> None:
        """Let the next connection on which the client sends `words` meet `fault`."""
        self._words, self._fault = words, fault

    def cut_each_after(self, lifetime_bytes: Callable[[], int] | None) -> None:
        """Cut each connection once the client has sent so many bytes; with None no longer."""
        self._lifetime_bytes = lifetime_bytes

    def hang(self) -> None:
        """From now on accept, and pass nothing on."""
        self._open.clear()

    def recover(self) -> None:
        """Pass on what comes, and cut the connections that hung, as their hosts would have given up by now."""
        self.cut()
        self._open.set()

    def cut(self) -> None:
        """Cut all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Proxy:
        self._open = asyncio.Event()  # it belongs to the loop in which somebody waited for it first
        self._open.set()
        self._server = await asyncio.start_server(self._serve, sock=self._listener.dup())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self._writers.append(writer)
        with contextlib.suppress(asyncio.CancelledError):  # who serves streams has no ear for it
            await self._pass_on(reader, writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._path)
        except OSError:  # it is not there
            writer.transport.abort()
            return
        self._writers.append(server_writer)
        connection = _Connection(self, reader, writer, server_reader, server_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(connection.to_server())
                group.create_task(connection.to_client())
        except* ConnectionError:
            pass


class _Connection:
    """One client, and its own connection to the server."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._server_reader, self._server_writer = server_reader, server_writer
        self._left_bytes = None if proxy._lifetime_bytes is None else proxy._lifetime_bytes()
        self._loses_answer = False
        self._has_vanished = False

    async def to_server(self) -> None:
        while data := await self._reader.read(65536):
            await self._proxy._open.wait()
            fault = self._fault(data)
            if fault is Fault.CUT:
                self._abort()
                return
            if fault is Fault.VANISH:
                self._has_vanished = True
            self._loses_answer |= fault is Fault.LOSE_ANSWER
            if self._left_bytes is not None and len(data) >= self._left_bytes:
                self._server_writer.write(data[: self._left_bytes])
                self._proxy.hits += 1
                self._abort()
                return
            if self._left_bytes is not None:
                self._left_bytes -= len(data)
            if not self._has_vanished:
                self._server_writer.write(data)
                await self._server_writer.drain()
        if not self._has_vanished:
            self._server_writer.close()

    async def to_client(self) -> None:
        while data := await self._server_reader.read(65536):
            await self._proxy._open.wait()
            if self._loses_answer:
                self._abort()
                return
            if not self._has_vanished:
                self._writer.write(data)
                await self._writer.drain()
        self._writer.close()

    def _fault(self, data: bytes) -> Fault | None:
        proxy = self._proxy
        if proxy._fault is None or proxy._words not in data:
            return None
        fault, proxy._fault = proxy._fault, None
        proxy.hits += 1
        return fault

    def _abort(self) -> None:
        self._writer.transport.abort()
        self._server_writer.transport.abort()
