"""Every way in which an answer can be a miss, each seen and called by its name."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bench.arrivals import Closed, Constant
from bench.record import Failure
from tests.bench.load.known_server import (
    HEAD,
    LAST_CHUNK,
    Behaviour,
    Served,
    chunk,
    done,
    framed,
    serving,
    streaming,
    usage,
    whole,
)
from tests.bench.load.loads import loaded, spec

ERROR = framed(b'data: {"error": {"message": "out of memory"}}\n\n')
FINISH = chunk(finish="length")


def says(*said: str, tail: bytes) -> bytes:
    return HEAD + b"".join(map(chunk, said)) + tail


RIGHT = says(" one", " two", " three", " four", tail=FINISH + usage(4) + done())

ANSWERS: list[tuple[bytes, Failure | None, str]] = [
    (RIGHT, None, ""),
    (whole("429 Too Many Requests", b'{"error": "busy"}'), "refused", 'status 429: {"error": "busy"}'),
    (whole("503 Service Unavailable", b""), "refused", "status 503"),
    (whole("500 Internal Server Error", b"oh"), "rejected", "status 500: oh"),
    (whole("422 Unprocessable Entity", b"no"), "rejected", "status 422: no"),
    (says(" one", " two", tail=b""), "broken", "the server closed the connection"),
    (says(" one", " two", tail=ERROR + done()), "broken", "out of memory"),
    (says(" one", tail=framed(b"data: {nonsense\n\n") + done()), "broken", "no chunk"),
    (says(" one", " two", " three", " four", tail=FINISH + usage(4) + LAST_CHUNK), "broken", "without [DONE]"),
    (says(" one", " two", " three", " four", tail=usage(4) + done()), "broken", "no finish reason"),
    (b"SMTP ready\r\n\r\n", "broken", "no HTTP"),
    (b"", "connection", "the server closed the connection"),
    # Tokens that are lost and doubled, of which the count alone knows nothing where both happen.
    (says(" one", " three", " four", tail=FINISH + usage(4) + done()), "wrong", "token 2 of 4 is to be ' two'"),
    (says(" one", " two", " two", " three", " four", tail=FINISH + usage(4) + done()), "wrong", "token 3 of 4"),
    (says(" one", " one", " three", " four", tail=FINISH + usage(4) + done()), "wrong", "token 2 of 4"),
    (says(" one", " two", " three", " four", " one", tail=FINISH + usage(4) + done()), "wrong", "more than 4 tokens"),
    (says(" one", " two", " three", tail=FINISH + usage(3) + done()), "wrong", "token 4 of 4"),
]  # fmt: skip


def answering(closes: set[int]) -> Behaviour:
    """The answer of the request's number."""

    async def behave(served: Served, writer: asyncio.StreamWriter) -> None:
        if served.number >= len(ANSWERS):
            await asyncio.sleep(60)  # cut off by the load's patience
        writer.write(ANSWERS[served.number][0])
        if served.number in closes:
            await writer.drain()
            writer.close()

    return behave


async def test_every_miss_has_its_name(tmp_path: Path) -> None:
    incomplete = {number for number, (_, failure, _) in enumerate(ANSWERS) if failure in {"broken", "connection"}}
    async with serving(answering(incomplete)) as server:
        load = spec(server.port, Constant(rate_per_s=20.0), (len(ANSWERS) + 1) / 20, timeout_s=1.0)
        answer, records = await loaded(load, tmp_path)
    assert [record.number for record in records] == list(range(len(ANSWERS) + 1))
    for record, (_, failure, error) in zip(records, ANSWERS, strict=False):
        assert (record.number, record.failure) == (record.number, failure)
        assert error in (record.error or "")
    assert records[-1].failure == "timeout"
    assert records[-1].e2e_s == pytest.approx(1.0, abs=0.5)
    assert answer.num_requests == len(records)
    assert answer.num_whole + sum(answer.failures.values()) == len(records)
    assert set(answer.failures) == {"refused", "rejected", "timeout", "connection", "broken", "wrong"}
    assert answer.requests_per_s > 0


async def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        answer, records = await loaded(spec(port, Closed(users=2), 0.5), tmp_path)
    assert set(answer.failures) == {"connection"}
    assert "refused" in (records[0].error or "")
    assert len(records) < 20  # users wait a little before they try again
    assert answer.latency_ms is None


async def test_a_kept_connection_that_was_closed_is_no_failure_of_the_server(tmp_path: Path) -> None:
    """It is closed as the next request is on its way, before anything of that has been read."""
    told = streaming(0.0, 0.0)

    async def behave(served: Served, writer: asyncio.StreamWriter) -> None:
        if served.number in asked:
            await told(served, writer)
            return
        asked.add(served.number)
        if served.number == 1:
            writer.transport.abort()
            return
        await told(served, writer)

    asked: set[int] = set()
    async with serving(behave) as server:
        answer, records = await loaded(spec(server.port, Constant(rate_per_s=5.0), 0.6), tmp_path)
    assert [(record.failure, record.is_resent) for record in records] == [(None, False), (None, True), (None, False)]
    assert answer.num_reconnects == 1


async def test_a_server_that_ends_each_connection(tmp_path: Path) -> None:
    async def behave(served: Served, writer: asyncio.StreamWriter) -> None:
        del served
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        for event in ("one", "two", "three", "four"):
            writer.write(b'data: {"choices":[{"index":0,"delta":{"content":" %b"}}]}\n\n' % event.encode())
        writer.write(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
        writer.write(b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":4}}\n\ndata: [DONE]\n\n')
        await writer.drain()
        writer.close()

    async with serving(behave) as server:
        answer, records = await loaded(spec(server.port, Closed(users=2), 0.3), tmp_path)
    assert answer.failures == {}
    assert server.num_connections == len(records) > 2


async def test_a_user_keeps_the_connection(tmp_path: Path) -> None:
    async with serving(streaming(0.0, 0.0)) as server:
        answer, records = await loaded(spec(server.port, Closed(users=3), 0.3), tmp_path)
    assert answer.failures == {}
    assert server.num_connections == 3
    assert len(records) > 3
