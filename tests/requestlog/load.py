"""Clients that ask for streams without pause, and know which answers they have whole. Made to be cheap."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from types import TracebackType
from urllib.parse import urlsplit

import orjson

from bench.stub_model import STUB_MODEL
from tests.server import until

CLIENTS = 32
PATIENCE_S = 20.0
"""More than any answer takes, and far less than a database that is away."""

_BODY = orjson.dumps(
    {"model": STUB_MODEL, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "stream": True}
)


class Load:
    """32 streams at a time, from `with` to its end, when those that run are read to theirs.

    Args:
        address: of the server.
        may_break: whether a broken connection is part of the test. An answer that does not come in time never is.

    Attributes:
        whole: the ids of requests whose answers came whole, terminator and all.
    """

    def __init__(self, address: str, *, may_break: bool = False) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        assert parts.port is not None
        self.whole: list[str] = []
        self._host, self._port = parts.hostname, parts.port
        self._may_break = may_break
        self._is_ending = False
        self._came = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        await until(self._listens, "the server listens")  # an engine without a model is ready before
        self._tasks = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_ending = True
        await asyncio.gather(*self._tasks)

    async def more(self, number: int) -> None:
        """Return when that many further answers came, or raise what stopped a client."""
        wanted = len(self.whole) + number
        async with asyncio.timeout(PATIENCE_S):
            while len(self.whole) < wanted:
                self._came.clear()
                await self._came.wait()
                for task in self._tasks:
                    if task.done():
                        task.result()

    async def _listens(self) -> bool | None:
        try:
            _, writer = await asyncio.open_connection(self._host, self._port)
        except ConnectionRefusedError:
            return None
        writer.close()
        await writer.wait_closed()
        return True

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            while not self._is_ending:
                request_id = uuid.uuid4().hex
                async with asyncio.timeout(PATIENCE_S):
                    await self._ask(reader, writer, request_id)
                self.whole.append(request_id)
                self._came.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            if not self._may_break:
                raise
        finally:
            self._came.set()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request_id: str) -> None:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(_BODY)}\r\nx-request-id: {request_id}\r\n\r\n"
        )
        writer.write(head.encode() + _BODY)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert b"data: [DONE]" in body, body
