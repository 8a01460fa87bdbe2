from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import Endpoint, split_events, stream_chat
from bench.closed_loop import run_closed_loop
from bench.errors import BenchError

ENDED = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


def content(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def stream(*events: dict[str, object]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def chunked(*pieces: bytes) -> bytes:
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@asynccontextmanager
async def serving(reply: Callable[[bytes], bytes | None]) -> AsyncIterator[Endpoint]:
    """A server that gives one reply to each connection; None leaves the client waiting."""
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        given_reply = reply(await reader.readexactly(length))
        if given_reply is None:
            held.append(writer)
            return
        writer.write(given_reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Endpoint(host="127.0.0.1", port=server.sockets[0].getsockname()[1], model="m", extra={"ignore_eos": True})
    finally:
        for writer in held:
            writer.close()
        server.close()


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8), st.data(), st.booleans())
def test_events_come_out_whole_however_the_stream_is_cut(texts: list[str], data: st.DataObject, crlf: bool) -> None:
    body = stream(*map(content, texts))
    body = body.replace(b"\n\n", b"\r\n\r\n") if crlf else body
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=10)))
    borders = [0, *cuts, len(body)]
    pieces = [(float(end), body[start:end]) for start, end in itertools.pairwise(borders)]
    events = split_events(pieces)
    assert [orjson.loads(event) for _, event in events[:-1]] == [content(text) for text in texts]
    assert events[-1][1] == b"[DONE]"
    for time_s, event in events:  # an event is complete when its last byte is there, and not before
        assert any(time_s == end and event for end in borders)
    assert [time_s for time_s, _ in events] == sorted(time_s for time_s, _ in events)


async def test_a_stream_is_timed_and_counted() -> None:
    asked: list[dict[str, object]] = []

    def reply(body: bytes) -> bytes:
        asked.append(orjson.loads(body))
        return chunked(stream(content(""), content("Hel")), stream(content("lo"), ENDED))

    async with serving(reply) as endpoint:
        sample = await stream_chat(endpoint, "Hi", 2, 10.0)
    assert sample.text == "Hello"
    assert len(sample.token_times_s) == 2
    assert 0.0 < sample.ttft_s <= sample.ended_s - sample.sent_s
    assert len(sample.gaps_s) == 1
    assert (sample.prompt_tokens, sample.completion_tokens, sample.cached_tokens) == (3, 2, None)
    (request,) = asked
    assert request["messages"] == [{"role": "user", "content": "Hi"}]
    assert (request["max_tokens"], request["temperature"], request["stream"], request["ignore_eos"]) == (
        2,
        0,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (answer(b'{"error": "no"}', "422 Unprocessable Entity"), 'status 422: {"error": "no"}'),
        (answer(stream({"error": "out of memory"})), "broke off: out of memory"),
        (answer(stream(content("a"))), "without usage"),
        (answer(stream(ENDED)), "without text"),
        (answer(stream(content("a"), ENDED)), "2 tokens came, 7 were asked for"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", "the connection was lost"),
        (b"SMTP ready\r\n\r\n", "no HTTP"),
        (None, "no whole answer within 0.2 s"),
    ],
)
async def test_an_answer_that_cannot_be_measured_is_refused(reply: bytes | None, message: str) -> None:
    async with serving(lambda _: reply) as endpoint:
        with pytest.raises(BenchError, match=message):
            await stream_chat(endpoint, "Hi", 7, 0.2 if reply is None else 10.0)


async def test_nobody_listening_is_an_error() -> None:
    async with serving(lambda _: None) as endpoint:
        pass
    with pytest.raises(BenchError, match="m: "):
        await stream_chat(endpoint, "Hi", 7, 10.0)


async def test_clients_ask_one_after_the_other() -> None:
    asked: list[str] = []

    def reply(body: bytes) -> bytes:
        asked.append(orjson.loads(body)["messages"][0]["content"])
        return answer(stream(content("x"), content("y"), ENDED))

    async with serving(reply) as endpoint:
        prompts = [["a1", "a2"], ["b1", "b2"], ["c1", "c2"]]
        sample = await asyncio.to_thread(run_closed_loop, endpoint, prompts, 2, 10.0)
    assert sorted(asked) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert all(asked.index(f"{name}1") < asked.index(f"{name}2") for name in "abc")
    assert sample.tokens_per_s > 0
    metrics = sample.metrics(3)
    assert set(metrics) == {
        f"{name}@3" for name in ("tokens_per_s", "ttft_p50_ms", "gap_p50_ms", "gap_p99_ms", "gap_max_ms")
    }


async def test_one_failure_ends_the_loop_with_its_cause() -> None:
    async with serving(lambda _: answer(b"busy", "503 Service Unavailable")) as endpoint:
        with pytest.raises(BenchError, match="status 503: busy"):
            await asyncio.to_thread(run_closed_loop, endpoint, [["a"], ["b"]], 2, 10.0)
