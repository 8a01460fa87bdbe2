"""A client that sends and reads when it likes, and leaves how it likes."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import orjson


class SlowClient:
    """One connection, with a receive buffer so small that a server soon notices that nobody reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, address: str) -> SlowClient:
        host, port = address.removeprefix("http://").split(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
        return cls(connection)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def begin(self, path: str, request_id: str, length: int) -> None:
        """Send the head of a request, and the first byte of its body."""
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\ncontent-length: {length}\r\n\r\n"
        await self.send(head.encode() + b"{")

    async def ask(self, path: str, request_id: str, body: dict[str, Any]) -> None:
        """Send a whole request."""
        content = orjson.dumps(body)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        await self.send(head.encode() + content)

    async def flood(self, request_id: str) -> None:
        """Ask the tiny model for a stream of 7200 tokens, far larger than all buffers on the way."""
        message = {"role": "user", "content": "Once"}
        fields = {"ignore_eos": True, "logprobs": True, "top_logprobs": 20, "n": 8, "max_tokens": 900, "stream": True}
        await self.ask("/v1/chat/completions", request_id, {"model": "llama", "messages": [message]} | fields)

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        received = b""
        while part := await self._loop.sock_recv(self._socket, 65536):
            received += part
        return received

    async def receive(self, most: int) -> bytes:
        """What has come, at least a byte, or nothing at the end."""
        return await self._loop.sock_recv(self._socket, most)

    def say_no_more(self) -> None:
        """Close our half, as if all had been said."""
        self._socket.shutdown(socket.SHUT_WR)

    def leave(self, *, rudely: bool = False) -> None:
        """Close, with RST instead of FIN if `rudely`."""
        if rudely:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
