"""Streams of the real server, as they arrive."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from handler.schema.chat import ChatCompletionChunk
from handler.schema.text import Completion
from tests.server import DEADLINE_S, ServerProcess

MODEL = "smollm2-135m"
STREAMS = 16
TOKENS = 12


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count from one to a hundred."}]
    return {"model": MODEL, "messages": messages, "stream": True, "temperature": 0, "max_tokens": 8} | fields


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.address, timeout=DEADLINE_S, limits=httpx.Limits()) as client:
        yield client


async def events(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> AsyncIterator[str]:
    """The data of each event; anything that is no event fails."""
    async with client.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        lines = response.aiter_lines()
        async for line in lines:
            assert line.startswith("data: ")
            assert await anext(lines) == ""
            yield line.removeprefix("data: ")


async def chunks(client: httpx.AsyncClient, body: dict[str, Any]) -> list[ChatCompletionChunk]:
    *found, last = [data async for data in events(client, "/v1/chat/completions", body)]
    assert last == "[DONE]"
    return [msgspec.json.decode(data, type=ChatCompletionChunk) for data in found]


async def test_sixteen_streams_interleave_and_health_answers(client: httpx.AsyncClient) -> None:
    order: list[int] = []
    begun = asyncio.Event()
    ended = 0

    async def read(number: int) -> str:
        nonlocal ended
        text = ""
        body = chat(max_tokens=TOKENS, ignore_eos=True, seed=number, temperature=1)
        async for data in events(client, "/v1/chat/completions", body):
            if data != "[DONE]":
                chunk = msgspec.json.decode(data, type=ChatCompletionChunk)
                text += chunk.choices[0].delta.content or ""
                order.append(number)
                begun.set()
        ended += 1
        return text

    async def probe() -> int:
        answers = 0
        await begun.wait()
        while not ended:
            assert (await client.get("/health")).status_code == 200
            answers += 1
        return answers

    probing = asyncio.create_task(probe())
    texts = await asyncio.gather(*(read(number) for number in range(STREAMS)))
    assert await probing > 0
    assert all(texts)
    assert len(set(texts)) > STREAMS // 2
    # Nobody ends before everybody has begun, and streams take turns instead of following each other.
    first = {number: order.index(number) for number in range(STREAMS)}
    last = {number: len(order) - 1 - order[::-1].index(number) for number in range(STREAMS)}
    assert max(first.values()) < min(last.values())
    turns = sum(1 for before, after in itertools.pairwise(order) if before != after)
    assert turns >= 2 * STREAMS  # following each other they would make one less than there are streams


async def test_a_chat_stream_has_openais_shape(client: httpx.AsyncClient) -> None:
    found = await chunks(client, chat())
    opening, *middle, closing = found
    assert (opening.choices[0].delta.role, opening.choices[0].delta.content) == ("assistant", "")
    assert all(chunk.choices[0].delta.role is msgspec.UNSET for chunk in middle)
    assert all(chunk.choices[0].delta.content for chunk in middle)
    assert all(chunk.choices[0].finish_reason is None for chunk in [opening, *middle])
    assert closing.choices[0].finish_reason == "length"
    assert closing.choices[0].delta.content is msgspec.UNSET
    assert len(middle) == 8
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in found}) == 1


async def test_usage_comes_only_when_asked_for(client: httpx.AsyncClient) -> None:
    plain = [data async for data in events(client, "/v1/chat/completions", chat())]
    assert not any("usage" in data for data in plain)
    *_, data, done = [data async for data in events(client, "/v1/chat/completions", chat(stream_options={}))]
    assert "usage" not in data
    asked = chat(stream_options={"include_usage": True})
    *others, last, done = [data async for data in events(client, "/v1/chat/completions", asked)]
    assert done == "[DONE]"
    assert all(msgspec.json.decode(data)["usage"] is None for data in others)
    chunk = msgspec.json.decode(last, type=ChatCompletionChunk)
    assert chunk.choices == []
    assert chunk.usage is not None
    assert chunk.usage.completion_tokens == 8
    assert chunk.usage.total_tokens == chunk.usage.prompt_tokens + 8


async def test_characters_of_several_bytes_arrive_whole(client: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": "日本語é😀🎉" * 12, "temperature": 0, "max_tokens": 30}
    whole = (await client.post("/v1/completions", json=body)).json()["choices"][0]["text"]
    *found, done = [data async for data in events(client, "/v1/completions", body | {"stream": True})]
    assert done == "[DONE]"
    parts = [msgspec.json.decode(data, type=Completion).choices[0].text for data in found]
    assert "".join(parts) == whole
    assert "日本語é😀🎉" in whole
    assert "\ufffd" not in whole.rstrip("\ufffd")  # max_tokens may cut the last character
    # Emoji take several tokens each: some steps yield no text, and no event.
    assert len(parts) < 30


async def test_an_error_before_the_first_token_is_no_stream(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=chat(max_tokens=10**6))
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
