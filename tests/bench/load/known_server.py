"""A server whose times and answers are known, because it does what a test says and writes down when it did it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import orjson

WORDS = (" one", " two", " three", " four")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
MODELS = b'{"object":"list","data":[{"id":"known","object":"model"}]}'


class Served(msgspec.Struct):
    """One request as the server saw it. Times are of `time.monotonic`."""

    number: int
    body: dict[str, Any]
    received_s: float
    began_s: float = 0.0
    written_s: list[float] = []
    ended_s: float = 0.0


Behaviour = Callable[[Served, asyncio.StreamWriter], Awaitable[None]]


class KnownServer:
    """What a test knows of its server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.served: list[Served] = []
        self.keys: set[str] = set()
        self.num_connections = 0


def chunk(text: str | None = None, *, finish: str | None = None, **others: Any) -> bytes:
    """One event of a stream, as one HTTP chunk."""
    delta = {"content": text} if text is not None else {}
    body = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | others
    return framed(b"data: " + orjson.dumps(body) + b"\n\n")


def usage(num_tokens: int, **others: Any) -> bytes:
    """The last event before the end."""
    return chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": num_tokens}, **others)


def done() -> bytes:
    """How a stream says that it is over."""
    return framed(b"data: [DONE]\n\n") + LAST_CHUNK


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def words(served: Served) -> list[str]:
    """What is to be said."""
    return [WORDS[index % len(WORDS)] for index in range(served.body["max_tokens"])]


def whole(status: str, body: bytes) -> bytes:
    """An answer that is no stream."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def streaming(ttft_s: float, gap_s: float) -> Behaviour:
    """Says its words at a set pace, to any number at once."""

    async def behave(served: Served, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for index, word in enumerate(words(served)):
            await asyncio.sleep(gap_s if index else ttft_s)
            writer.write(chunk(word))
            served.written_s.append(time.monotonic())
        writer.write(chunk(finish="length") + usage(len(words(served))) + done())

    return behave


def one_by_one(service_s: float) -> Behaviour:
    """Serves one request at a time, in the order in which they came, and takes as long for each."""
    turn = asyncio.Lock()

    async def behave(served: Served, writer: asyncio.StreamWriter) -> None:
        async with turn:
            served.began_s = time.monotonic()
            await asyncio.sleep(service_s)
            writer.write(HEAD + b"".join(map(chunk, words(served))) + chunk(finish="length"))
            writer.write(usage(len(words(served))) + done())
            served.ended_s = time.monotonic()

    return behave


@asynccontextmanager
async def serving(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[KnownServer]:
    """A server on a port of its own."""
    known = KnownServer(0)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        known.num_connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while not writer.is_closing():
                    await _serve_one(known, reader, writer, behave)
        finally:
            tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    known.port = server.sockets[0].getsockname()[1]
    try:
        yield known
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _serve_one(
    known: KnownServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behave: Behaviour
) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    received_s = time.monotonic()
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    fields = {name.lower(): value for name, value in fields.items()}
    known.keys.add(fields.get("authorization", ""))
    if head.startswith(b"GET"):
        writer.write(whole("200 OK", MODELS))
        return
    body = orjson.loads(await reader.readexactly(int(fields["content-length"])))
    number = int(body["messages"][0]["content"].split()[0])
    served = Served(number=number, body=body, received_s=received_s, written_s=[])
    known.served.append(served)
    await behave(served, writer)
    await writer.drain()
