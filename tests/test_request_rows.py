"""One row for each request, in PostgreSQL, with every column as it should be."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from handler.engine.snapshot import Snapshot
from handler.requestlog.record import Status
from tests.conftest import TEST_HOME
from tests.server import LoggedServer, ServerProcess

MODEL = "smollm2-135m"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    return {"model": MODEL, "messages": messages, "temperature": 0} | fields


@pytest.fixture
async def client(logged_server: LoggedServer) -> AsyncIterator[httpx.AsyncClient]:
    await logged_server.idle()
    async with logged_server.client() as client:
        yield client


@pytest.mark.parametrize("stream", [True, False])
async def test_a_success(logged_server: LoggedServer, client: httpx.AsyncClient, stream: bool) -> None:
    before = dt.datetime.now(dt.UTC)
    response = await client.post(CHAT, json=chat(stream=stream, metadata={"team": "a", "nul": "\0"}))
    after = dt.datetime.now(dt.UTC)
    row = await logged_server.row(response.headers["x-request-id"])
    assert f"chatcmpl-{row.request_id}" in response.text
    assert before <= row.created_at <= after
    assert (row.endpoint, row.model_name, row.api_key_id, row.stream) == (CHAT, MODEL, "alice", stream)
    assert (row.status, row.http_status, row.finish_reason) == (Status.SUCCESS, 200, "stop")
    assert (row.error_type, row.error_message) == (None, None)
    assert (row.prompt_tokens, row.completion_tokens, row.total_tokens) == (37, 8, 45)
    assert row.cached_tokens in {0, 32}  # the system prompt of another chat
    assert row.queue_ms is not None
    assert row.ttft_ms is not None
    assert row.duration_ms is not None
    assert 0 <= row.queue_ms <= row.ttft_ms <= row.duration_ms <= (after - before).total_seconds() * 1000 + 1
    assert row.cold_start is False
    assert row.instance_id
    assert row.metadata == {"team": "a", "nul": "\ufffd"}
    assert (row.prompt, row.completion) == (None, None)


async def test_cached_tokens_of_several_choices_count_once(
    logged_server: LoggedServer, client: httpx.AsyncClient
) -> None:
    fields = {"model": MODEL, "prompt": "What is remembered need not be read again. " * 40, "max_tokens": 1, "n": 3}
    await client.post(TEXT, json=fields)
    response = await client.post(TEXT, json=fields)
    usage = response.json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert 256 <= cached < usage["prompt_tokens"]
    assert (await logged_server.row(response.headers["x-request-id"])).cached_tokens == cached


@pytest.mark.parametrize(
    ("fields", "headers", "status", "http_status", "error_type", "model_name"),
    [
        ({"temperature": 3}, {}, Status.ERROR, 400, "InvalidRequestError", None),
        ({"max_tokens": 9000}, {}, Status.ERROR, 400, "ContextLengthError", MODEL),
        ({"model": "other\0"}, {}, Status.ERROR, 404, "UnknownModelError", "other\ufffd"),
        ({}, {"authorization": "Bearer x"}, Status.REJECTED, 401, "AuthenticationError", None),
        ({"user": "x" * 70_000}, {}, Status.ERROR, 413, "BodyTooLargeError", None),
        ({}, {"content-type": "text/plain"}, Status.ERROR, 415, "UnsupportedMediaTypeError", None),
    ],
)
async def test_a_refusal(
    logged_server: LoggedServer,
    client: httpx.AsyncClient,
    fields: dict[str, Any],
    headers: dict[str, str],
    status: Status,
    http_status: int,
    error_type: str,
    model_name: str | None,
) -> None:
    response = await client.post(CHAT, json=chat(**fields), headers=headers)
    assert response.status_code == http_status
    row = await logged_server.row(response.headers["x-request-id"])
    assert (row.status, row.http_status, row.error_type) == (status, http_status, error_type)
    assert row.error_message == response.json()["error"]["message"]
    assert row.model_name == model_name
    assert row.api_key_id == (None if http_status == 401 else "alice")
    assert (row.completion_tokens, row.ttft_ms, row.queue_ms, row.finish_reason) == (None, None, None, None)
    assert row.duration_ms is not None


async def test_a_full_house(logged_server: LoggedServer, client: httpx.AsyncClient) -> None:
    running = [
        asyncio.create_task(client.post(TEXT, json={"model": MODEL, "prompt": "a", "n": 1, "ignore_eos": True}))
        for _ in range(3)
    ]
    await logged_server.reaches("num_requests_waiting", 1)
    response = await client.post(CHAT, json=chat())
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    for request in running:
        request.cancel()
    row = await logged_server.row(response.headers["x-request-id"])
    assert (row.status, row.http_status, row.error_type) == (Status.REJECTED, 429, "OverloadedError")
    assert (row.model_name, row.stream, row.prompt_tokens) == (None, None, None)  # nobody has read its body
    await logged_server.idle()


async def test_several_choices_are_one_row(logged_server: LoggedServer, client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=chat(n=2, max_tokens=3))
    row = await logged_server.row(response.headers["x-request-id"])
    assert (row.prompt_tokens, row.completion_tokens, row.total_tokens) == (37, 6, 43)
    assert row.finish_reason == "length"


async def test_a_request_that_takes_too_long(embedded_snapshot: Snapshot, postgres_url: str, tmp_path: Path) -> None:
    environ = {
        "PILOTLIGHT_HOME": str(TEST_HOME),
        "SPOOL_DIR": str(tmp_path),
        "DATABASE_URL": postgres_url,
        "REQUEST_TIMEOUT": "2",
    }
    with ServerProcess(environ) as process:
        server = LoggedServer(process, postgres_url)
        async with server.client() as client:
            body = {"model": MODEL, "prompt": "a", "ignore_eos": True}
            whole, stream = await asyncio.gather(
                client.post(TEXT, json=body), client.post(TEXT, json=body | {"stream": True})
            )
            assert whole.status_code == 504
            assert whole.json()["error"]["type"] == "timeout_error"
            assert stream.status_code == 200
            assert '"type":"timeout_error"' in stream.text.split("\n\n")[-2]
            await server.idle()
            for response in (whole, stream):
                row = await server.row(response.headers["x-request-id"])
                assert (row.status, row.error_type) == (Status.TIMEOUT, "DeadlineExceededError")
                assert row.http_status == response.status_code
                assert row.completion_tokens
                assert row.duration_ms is not None
                assert 1900 <= row.duration_ms < 8000


async def test_a_row_survives_a_process_killed_right_after_its_answer(
    tiny_served: Snapshot, postgres_url: str, tmp_path: Path
) -> None:
    environ = {
        "PILOTLIGHT_HOME": str(tmp_path / "home"),
        "SPOOL_DIR": str(tmp_path / "spool"),
        "MODEL_NAME": str(tiny_served.directory),
        "MODEL_DEVICE": "cpu",
    }
    ids = [uuid.uuid4().hex for _ in range(3)]
    body = {"model": "llama", "prompt": "a", "max_tokens": 2, "ignore_eos": True}
    # The first process has a database that nobody answers for.
    with ServerProcess(environ | {"DATABASE_URL": "postgresql://127.0.0.1:1/none"}) as process:
        async with httpx.AsyncClient(base_url=process.address) as client:
            bodies: list[dict[str, Any]] = [body, body | {"stream": True}, body | {"n": 0}]
            for request_id, asked in zip(ids, bodies, strict=True):
                await client.post(TEXT, json=asked, headers={"x-request-id": request_id})
            process.kill()
    with ServerProcess(environ | {"DATABASE_URL": postgres_url}) as process:
        server = LoggedServer(process, postgres_url)
        rows = [await server.row(request_id) for request_id in ids]
    assert [row.status for row in rows] == [Status.SUCCESS, Status.SUCCESS, Status.ERROR]
    assert [row.completion_tokens for row in rows] == [2, 2, None]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_row_says_that_an_answer_stopped_for_calls(
    logged_server: LoggedServer, client: httpx.AsyncClient, stream: bool
) -> None:
    tool = {"name": "now", "parameters": {"type": "object", "properties": {}}}
    fields: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False, "stream": stream}
    response = await client.post(CHAT, json=chat(tools=[{"type": "function", "function": tool}], **fields))
    assert '"finish_reason":"tool_calls"' in response.text
    assert (await logged_server.row(response.headers["x-request-id"])).finish_reason == "tool_calls"
    asked = {"model": MODEL, "input": "What time is it?", "tools": [{"type": "function"} | tool]}
    response = await client.post("/v1/responses", json=asked | fields)
    assert '"function_call"' in response.text
    assert (await logged_server.row(response.headers["x-request-id"])).finish_reason == "tool_calls"
