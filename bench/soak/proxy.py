"""A way to PostgreSQL that can be cut, blocked and closed. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib

_PIECE_BYTES = 64 * 1024


class DatabaseProxy:
    """Listens on a loopback port and passes connections on to a Unix socket, while it may.

    Attributes:
        port: where it listens, for as long as it is used.
    """

    def __init__(self, socket_path: str, port: int) -> None:
        self.port = port
        self._socket_path = socket_path
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut_bytes: int | None = None

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Refuse connections and cut those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.unblock()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Drop all connections at once."""
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_after(self, num_bytes: int) -> None:
        """Drop the connection on which the function has sent that many more bytes: in the middle of what it sends."""
        self._cut_bytes = num_bytes

    def block(self) -> None:
        """Accept, and never answer: nothing flows in either direction."""
        self._flows.clear()

    def unblock(self) -> None:
        """Let everything flow that was kept back."""
        self._flows.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._flows.wait()
            database_reader, database_writer = await asyncio.open_unix_connection(self._socket_path)
            self._writers.add(database_writer)
            back = asyncio.create_task(self._pump(database_reader, writer, counts=False))
            try:
                await self._pump(reader, database_writer, counts=True)
            finally:
                back.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await back
                self._drop(database_writer)
        except OSError:
            pass  # PostgreSQL is away: the function sees its connection closed
        finally:
            self._drop(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await self._flows.wait()
                if counts and self._cut_bytes is not None:
                    self._cut_bytes -= len(piece)
                    if self._cut_bytes < 0:
                        writer.write(piece[: self._cut_bytes])
                        await writer.drain()
                        self._cut_bytes = None
                        return
                writer.write(piece)
                await writer.drain()
        self._drop(writer)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()
