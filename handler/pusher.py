"""What an application may send parts of a streamed body by: one write each, without a coroutine. Event loop only."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


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
