"""A connection to an ASGI application, served as `pilotlight serve` does it, whose other end is the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from handler.protocol import Limits, gathering_protocol
from tests.server import DEADLINE_S

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Wire(asyncio.Transport):
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.writes: list[bytes] = []
        self.is_closed = False
        self.is_aborted = False
        self.is_paused = False
        self.unread_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)


class Connection:
    """The server's end of a connection to `app`."""

    def __init__(self, app: Callable[..., Any], protocol: type[HttpToolsProtocol] | None = None) -> None:
        http = gathering_protocol(Limits()) if protocol is None else protocol
        config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None)
        config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.wire = Wire()
        make = cast("Callable[..., Any]", config.http_protocol_class)
        self.protocol = make(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.wire)

    async def ask(self, request: bytes = GET) -> bytes:
        """What is sent until everything has been answered."""
        begin = len(self.wire.writes)
        self.protocol.data_received(request)
        await self.idle()
        return b"".join(self.wire.writes[begin:])

    async def idle(self) -> None:
        """Return when no request is being answered, and what was written has left."""
        await turn_until(lambda: not self.state.tasks)
        await asyncio.sleep(0)


async def turn_until(condition: Callable[[], object]) -> None:
    """Let the loop turn until that is true."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  (what uvicorn does signals nothing)
            await asyncio.sleep(0)
