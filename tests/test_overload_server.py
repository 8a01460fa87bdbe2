"""More than a real server can take, over real connections, with its rows in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from handler.engine.snapshot import Snapshot
from handler.requestlog.record import Status
from tests.conftest import TEST_HOME
from tests.postgres import PostgresServer
from tests.server import DEADLINE_S, LoggedServer, logged_process

PATH = "/v1/completions"
BODY: dict[str, Any] = {"model": "smollm2-135m", "prompt": "Once", "ignore_eos": True, "max_tokens": 2}
LONG = BODY | {"max_tokens": 4000, "stream": True}
"""Minutes, if nobody stopped it."""
MAX_WAITING = 3
"""Beside the one that runs."""


@pytest.fixture(scope="module")
def small_server(
    embedded_snapshot: Snapshot, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedServer]:
    """One sequence runs, three may wait."""
    spool = tmp_path_factory.mktemp("spool")
    limits = {"MAX_BATCH_SIZE": "1", "MAX_QUEUED_REQUESTS": str(MAX_WAITING)}
    with logged_process(postgres_server, TEST_HOME, spool, limits) as server:
        yield server


@pytest.fixture
async def client(small_server: LoggedServer) -> AsyncIterator[httpx.AsyncClient]:
    await small_server.idle()
    async with small_server.client() as client:
        yield client


@asynccontextmanager
async def place_taken(server: LoggedServer, client: httpx.AsyncClient) -> AsyncIterator[None]:
    """The only place is taken until the context is left."""
    async with client.stream("POST", PATH, json=LONG) as response:
        lines = response.aiter_lines()
        await anext(lines)
        await server.reaches("num_requests_running", 1)
        yield


async def test_the_urgent_are_answered_first_and_displace_nobody(
    small_server: LoggedServer, client: httpx.AsyncClient
) -> None:
    answered: list[str] = []

    async def ask(name: str, priority: int) -> httpx.Response:
        response = await client.post(PATH, json=BODY | {"priority": priority}, headers={"x-request-id": name})
        answered.append(name)
        return response

    names = [f"{name}-{uuid.uuid4().hex}" for name in ("first", "second", "urgent")]
    tasks = []
    async with place_taken(small_server, client):
        for number, (name, priority) in enumerate(zip(names, (0, 0, -5), strict=True), start=1):
            tasks.append(asyncio.create_task(ask(name, priority)))
            await small_server.reaches("num_requests_waiting", number)
        refused = await ask("most-urgent", -100)  # the queue is full, and those in it stay
        assert refused.status_code == 429
    responses = await asyncio.gather(*tasks)
    assert [response.status_code for response in responses] == [200, 200, 200]
    assert answered == ["most-urgent", names[2], names[0], names[1]]
    first, second, urgent = [await small_server.row(name) for name in names]
    began = [row.created_at.timestamp() * 1e3 + (row.ttft_ms or 0) for row in (urgent, first, second)]
    assert began == sorted(began)


async def send_head(server: LoggedServer, length: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A connection on which a request has begun whose body is still to come, and the request's id."""
    host, port = server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request_id = uuid.uuid4().hex
    writer.write(head(server, length, request_id))
    await writer.drain()
    return reader, writer, request_id


def head(server: LoggedServer, length: int, request_id: str) -> bytes:
    lines = (
        f"POST {PATH} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {server.key}",
        f"x-request-id: {request_id}",
        f"content-length: {length}",
    )
    return "\r\n".join([*lines, "", ""]).encode()


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body of a whole response."""
    async with asyncio.timeout(DEADLINE_S):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, orjson.loads(body)


async def test_a_client_that_is_still_sending_gets_its_refusal_and_keeps_its_connection(
    small_server: LoggedServer, client: httpx.AsyncClient
) -> None:
    waiting = []
    async with place_taken(small_server, client):
        for number in range(1, MAX_WAITING + 1):
            waiting.append(asyncio.create_task(client.post(PATH, json=BODY)))
            await small_server.reaches("num_requests_waiting", number)
        body = orjson.dumps(BODY | {"prompt": "x" * 3_000_000})
        reader, writer, request_id = await send_head(small_server, len(body))
        status, headers, error = await read_response(reader)  # nothing of the body has been sent
        assert (status, error["error"]["code"], headers["x-request-id"]) == (429, "overloaded", request_id)
        assert int(headers["retry-after"]) >= 1
        writer.write(body)  # a client that does not look before it has sent everything
        await writer.drain()
        writer.write(head(small_server, 2, again := uuid.uuid4().hex) + b"{}")
        status, headers, _ = await read_response(reader)
        assert (status, headers["x-request-id"]) == (429, again)
        writer.close()
        for name in (request_id, again):
            row = await small_server.row(name)
            assert (row.status, row.http_status, row.error_type) == (Status.REJECTED, 429, "OverloadedError")
            assert (row.model_name, row.stream, row.api_key_id) == (None, None, "alice")
        refused = await client.post(PATH, content=body)
        assert refused.status_code == 429
    assert [response.status_code for response in await asyncio.gather(*waiting)] == [200] * MAX_WAITING
