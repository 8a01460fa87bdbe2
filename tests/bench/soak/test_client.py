from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from bench.soak.asks import OK, Ask, Asks, Departure
from bench.soak.client import Client, Fate, Sent

ASK = Ask(kind="chat", path="/v1/chat/completions", body=b"{}", expected=OK)
STREAM = msgspec.structs.replace(ASK, is_stream=True)

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def whole(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[Client]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        client = Client("127.0.0.1", listening.sockets[0].getsockname()[1], "seed", 10.0)
        yield client
        client.leave()


async def ask_of(answer: bytes, ask: Ask = ASK) -> Sent:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with server(serve) as client:
        return await client.ask(ask, "id-1")


async def test_a_whole_answer() -> None:
    sent = await ask_of(whole(200, b"{}"))
    assert (sent.fate, sent.status, sent.request_id) == (Fate.ANSWERED, 200, "id-1")


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"event: response.completed\ndata: {}\n\n"])
async def test_a_whole_stream(end: bytes) -> None:
    assert (await ask_of(whole(200, b"data: {}\n\n" + end), STREAM)).fate is Fate.ANSWERED


@pytest.mark.parametrize(
    "body", [b"data: {}\n\n", b'data: {"error": {}}\n\ndata: [DONE]\n\n', b"event: response.failed\ndata: {}\n\n"]
)
async def test_a_stream_that_ends_otherwise_is_broken(body: bytes) -> None:
    assert (await ask_of(whole(200, body), STREAM)).fate is Fate.BROKEN


async def test_what_was_expected_and_a_full_house_are_refusals() -> None:
    bad = msgspec.structs.replace(ASK, expected=frozenset({400}))
    assert (await ask_of(whole(400, b"{}"), bad)).fate is Fate.REFUSED
    assert (await ask_of(whole(429, b"{}"))).fate is Fate.REFUSED


@pytest.mark.parametrize("status", [400, 500, 503, 504])
async def test_other_statuses_are_broken(status: int) -> None:
    sent = await ask_of(whole(status, b"why"))
    assert (sent.fate, sent.problem) == (Fate.BROKEN, f"status {status}: why")


async def test_bad_input_that_is_answered_is_broken() -> None:
    assert (
        await ask_of(whole(200, b"{}"), msgspec.structs.replace(ASK, expected=frozenset({400})))
    ).fate is Fate.BROKEN


async def test_a_cut_answer_is_broken() -> None:
    sent = await ask_of(whole(200, b"{}" * 10)[:-1])
    assert sent.fate is Fate.BROKEN
    assert sent.problem == "the connection was lost after 19 bytes of the answer"


async def test_nobody_there_is_broken() -> None:
    client = Client("127.0.0.1", 1, "seed", 10.0)
    assert (await client.ask(ASK, "id-1")).fate is Fate.BROKEN


@pytest.mark.parametrize("departure", list(Departure))
async def test_a_client_that_leaves_is_gone(departure: Departure) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20)
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        finally:
            gone.set()

    async with server(serve) as client:
        ask = msgspec.structs.replace(ASK, departure=departure, body=b"{" * 1000)
        sent = await client.ask(ask, "id-1")
        await asyncio.wait_for(gone.wait(), 10.0)
    assert sent.fate is Fate.CANCELLED
    assert sent.has_head is (departure is not Departure.IN_HEAD)


async def test_an_answer_that_came_before_its_client_left_counts() -> None:
    ask = msgspec.structs.replace(ASK, departure=Departure.IN_ANSWER)
    assert (await ask_of(whole(200, b"{}"), ask)).fate is Fate.ANSWERED


def test_the_same_seed_asks_the_same() -> None:
    first, second = Asks("m", "1"), Asks("m", "1")
    assert [first.next() for _ in range(200)] == [second.next() for _ in range(200)]


def test_every_kind_and_every_departure_is_asked() -> None:
    asks = Asks("m", "1")
    seen = [asks.next() for _ in range(1000)]
    assert len({ask.kind for ask in seen}) == 15
    assert {ask.departure for ask in seen} == {None, *Departure}
