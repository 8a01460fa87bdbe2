"""What goes over the wire: HTTP as it comes in, events as they go out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator

import msgspec
from starlette.types import Receive, Scope, Send

from handler.body import read_body
from handler.errors import ClientDisconnectedError, RequestError
from handler.http_errors import http_error
from handler.protocol import Limits, gathering_protocol
from handler.schema.chat import ChatCompletionChunk
from handler.sse import ChunkFrames
from tests.connection import Connection
from tests.fuzz.mutation import TEXTS, mutated_bytes
from tests.fuzz.runner import Target

_REQUESTS = [
    b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n",
    b'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n{"a"}',
    b"POST /a%20b?c=d HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-t: 1\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    b"POST / HTTP/1.0\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\nPOST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\nhost: x\r\n\r\n",
]
_PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b": ",
        b" ",
        b"\t",
        b"\xff",
        b"0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"-1",
        b"%",
        b"%00",
    ),
    *(b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"HTTP/1.1", b"HTTP/2.0"),
    *(b"content-encoding: gzip\r\n", b"content-type: text/plain\r\n", b"CONNECT x:1 ", b"OPTIONS * ", b"a" * 70_000),
]
_STATUSES = {100, 200, 400, 408, 413, 415, 429, 431}


class HttpUnderFire:
    """The protocol in front of an application that reads bodies."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._protocol = gathering_protocol(Limits())
        self.escaped: list[dict[str, object]] = []
        self._loop.set_exception_handler(lambda _, context: self.escaped.append(context))

    def close(self) -> None:
        self._loop.close()

    def feed(self, data: bytes) -> str:
        """Send the bytes in one, two or many pieces, and look at what comes back."""
        return self._loop.run_until_complete(self._feed(data))

    async def _feed(self, data: bytes) -> str:
        connection = Connection(_echo, self._protocol)
        size = (len(data) + 1, len(data) // 2 + 1, 7)[len(data) % 3]
        for begin in range(0, len(data), size) if len(data) < 5000 else (0,):
            if connection.wire.is_closed:
                break
            connection.protocol.data_received(data[begin : begin + size])
            await asyncio.sleep(0)
        for _ in range(6):
            await asyncio.sleep(0)
        connection.protocol.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not connection.state.tasks
        assert not self.escaped, self.escaped
        lines = [part.partition(b"\r\n")[0] for part in connection.wire.sent.split(b"HTTP/1.1 ")[1:]]
        statuses = [int(line[:3]) for line in lines]
        assert set(statuses) <= _STATUSES, statuses
        return (
            ("ok" if 200 in statuses else "")
            + " ".join(map(str, sorted(set(statuses))))
            + (" closed" if connection.wire.is_closed else " open")
        )


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    scope["path"].encode("utf-8", "surrogateescape")
    try:
        body, status = await read_body(scope, receive, 1000), 200
    except ClientDisconnectedError:
        return
    except RequestError as error:
        body, status = b"", http_error(error).status
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _text(rng: random.Random, seed: bytes) -> bytes:
    pieces = [text.encode(errors="ignore") for text in TEXTS]
    return mutated_bytes(
        rng, seed, [*pieces, b"\r", b"\n", b"\r\n", b"\x85", b"\xe2\x80\xa8", b'"', b"\\", b"\x00", b"\x7f"]
    )


def frames(data: bytes) -> str:
    """Text in any form comes out of its events as it went in."""
    text = data.decode(errors="replace")
    frames = ChunkFrames(
        {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": text, "system_fingerprint": "f"},
        content_key=b'"delta":{"content":',
        content_end=b"}",
        with_usage=bool(len(data) & 1),
    )
    sent = frames.text(0, text[: len(text) // 2], None) + frames.text(0, text[len(text) // 2 :], None)
    sent += frames.choice(0, b'"delta":{}', finish_reason="stop", stop_reason=text)
    events = _events(sent)
    assert len(events) == 3
    chunks = [msgspec.json.decode(event, type=ChatCompletionChunk) for event in events]
    assert "".join(str(chunk.choices[0].delta.content) for chunk in chunks[:2]) == text
    assert chunks[0].model == text
    assert chunks[2].choices[0].stop_reason == text
    return "ok"


def _events(sent: bytes) -> list[str]:
    """The data of each event, read as the HTML standard says."""
    events, data = [], []
    for line in sent.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if line:
            name, _, value = line.partition(":")
            assert name == "data"
            data.append(value.removeprefix(" "))
        elif data:
            events.append("\n".join(data))
            data = []
    assert not data
    return events


@contextlib.contextmanager
def wire() -> Iterator[list[Target]]:
    """Both directions."""
    http = HttpUnderFire()
    logger = logging.getLogger("uvicorn.error")
    before, logger.disabled = logger.disabled, True
    try:
        yield [
            Target(
                name="http",
                share=170,
                seeds=_REQUESTS,
                mutate=lambda rng, seed: mutated_bytes(rng, seed, _PIECES),
                run=http.feed,
            ),
            Target(
                name="events",
                share=150,
                seeds=[b"Hello \xf0\x9f\x98\x80 world", b"data: x\n\n"],
                mutate=_text,
                run=frames,
            ),
        ]
    finally:
        logger.disabled = before
        http.close()
