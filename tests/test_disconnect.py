"""Clients that leave the real server: what they held is free, their row says so, and nobody else notices."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from handler.requestlog.record import Status
from tests.server import LoggedServer

MODEL = "smollm2-135m"
PATH = "/v1/completions"


def asking(max_tokens: int = 4000, **fields: Any) -> dict[str, Any]:
    """Long by default: minutes, if nobody stopped it."""
    base = {"model": MODEL, "prompt": "Once upon a time", "temperature": 0, "ignore_eos": True}
    return base | {"max_tokens": max_tokens} | fields


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, request_id: str, **fields: Any) -> AsyncIterator[AsyncIterator[str]]:
    """Texts of a stream, as they arrive. Leaving the context before the end closes the connection."""
    headers = {"x-request-id": request_id}
    async with client.stream("POST", PATH, json=asking(stream=True, **fields), headers=headers) as response:
        assert response.status_code == 200

        async def texts() -> AsyncIterator[str]:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield msgspec.json.decode(line.removeprefix("data: "))["choices"][0]["text"]

        yield texts()


async def read(texts: AsyncIterator[str], count: int) -> str:
    return "".join([await anext(texts) for _ in range(count)])


@pytest.fixture
async def client(logged_server: LoggedServer) -> AsyncIterator[httpx.AsyncClient]:
    await logged_server.idle()
    async with logged_server.client() as client:
        yield client


async def test_leaving_in_mid_stream(logged_server: LoggedServer, client: httpx.AsyncClient) -> None:
    request_id = uuid.uuid4().hex
    async with streaming(client, request_id) as texts:
        await read(texts, 3)
    await logged_server.idle()
    row = await logged_server.row(request_id)
    assert (row.status, row.http_status, row.error_type) == (Status.CANCELLED, 200, "ClientDisconnectedError")
    assert row.stream is True
    assert row.finish_reason is None
    assert row.completion_tokens is not None
    assert 3 <= row.completion_tokens < 1000
    assert row.prompt_tokens is not None
    assert row.total_tokens == row.prompt_tokens + row.completion_tokens
    assert row.ttft_ms is not None
    assert row.duration_ms is not None
    assert row.ttft_ms < row.duration_ms


async def test_the_others_go_on_undisturbed(logged_server: LoggedServer, client: httpx.AsyncClient) -> None:
    body = asking(30)
    alone = (await client.post(PATH, json=body)).json()["choices"][0]["text"]
    staying, leaving = uuid.uuid4().hex, uuid.uuid4().hex
    async with streaming(client, staying, max_tokens=30) as texts:
        beginning = await read(texts, 3)
        async with streaming(client, leaving, prompt="Something else") as others:
            await read(others, 3)
        rest = "".join([text async for text in texts])
    assert beginning + rest == alone
    assert (await logged_server.row(leaving)).status is Status.CANCELLED
    row = await logged_server.row(staying)
    assert (row.status, row.completion_tokens, row.finish_reason) == (Status.SUCCESS, 30, "length")


async def test_leaving_while_a_whole_answer_is_computed(logged_server: LoggedServer, client: httpx.AsyncClient) -> None:
    request_id = uuid.uuid4().hex
    before = await logged_server.metric("llm_tokens_generated_total")
    request = asyncio.create_task(client.post(PATH, json=asking(), headers={"x-request-id": request_id}))
    while await logged_server.metric("llm_tokens_generated_total") < before + 2:
        assert not request.done()
    request.cancel()
    await logged_server.idle()
    row = await logged_server.row(request_id)
    assert (row.status, row.http_status, row.stream) == (Status.CANCELLED, 499, False)
    assert row.completion_tokens is not None
    assert 2 <= row.completion_tokens < 1000
    # The step that ran when the client left may have yielded one more token; no further one was computed.
    assert await logged_server.metric("llm_tokens_generated_total") - before - row.completion_tokens in {0, 1}


async def test_leaving_the_queue(logged_server: LoggedServer, client: httpx.AsyncClient) -> None:
    ids = [uuid.uuid4().hex for _ in range(3)]
    async with streaming(client, ids[0]) as first, streaming(client, ids[1]) as second:
        await read(first, 1)
        await read(second, 1)
        waiting = asyncio.create_task(client.post(PATH, json=asking(), headers={"x-request-id": ids[2]}))
        await logged_server.reaches("num_requests_waiting", 1)
        waiting.cancel()
        await logged_server.reaches("num_requests_waiting", 0)
        assert await logged_server.metric("num_requests_running") == 2
        row = await logged_server.row(ids[2])
        assert (row.status, row.http_status, row.completion_tokens) == (Status.CANCELLED, 499, 0)
        assert (row.queue_ms, row.ttft_ms) == (None, None)
        assert row.prompt_tokens is not None
        # Its place is free again, and the two that run never stopped.
        again = asyncio.create_task(client.post(PATH, json=asking()))
        await logged_server.reaches("num_requests_waiting", 1)
        again.cancel()
        await read(first, 2)
        await read(second, 2)
    await logged_server.idle()


async def test_leaving_while_sending_the_request(logged_server: LoggedServer) -> None:
    request_id = uuid.uuid4().hex
    host, port = logged_server.address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {logged_server.key}\r\n"
    head += f"x-request-id: {request_id}\r\ncontent-length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"model"')
    await writer.drain()
    await logged_server.reaches("http_requests_active", 2)  # the scrape and ours
    writer.close()
    await writer.wait_closed()
    row = await logged_server.row(request_id)
    assert (row.status, row.http_status, row.model_name) == (Status.CANCELLED, 499, None)
    await logged_server.reaches("http_requests_active", 1)
