"""Requests leave no reference cycles: what they held is free when they are over, and collections can be rare."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from handler.engine.snapshot import Snapshot
from handler.interruption import _UNWATCHED_S
from handler.requestlog.record import Status
from tests.asgi import Application
from tests.connection import Connection, turn_until

NUM_REQUESTS = 20
BODY = {"model": "llama", "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def request(fields: dict[str, Any]) -> bytes:
    body = orjson.dumps(BODY | fields)
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tokens", [1, 64])
async def test_an_answer_leaves_no_garbage(
    tiny_served: Snapshot, tmp_path: Path, stream: bool, tokens: int, uncollected: None
) -> None:
    async with Application(tiny_served, tmp_path) as application:
        connection = Connection(application.app)
        asking = request({"stream": stream, "max_tokens": tokens})
        assert (await connection.ask(asking)).startswith(b"HTTP/1.1 200 ")
        gc.collect()
        for _ in range(NUM_REQUESTS):
            await connection.ask(asking)
        found = gc.collect()
        records = application.records()
    assert len(records) == NUM_REQUESTS + 1
    if tokens > 1:  # long enough to be watched
        assert all(record.duration_ms is not None and record.duration_ms > _UNWATCHED_S * 1000 for record in records)
    assert found < NUM_REQUESTS


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_leaves_no_garbage(
    tiny_served: Snapshot, tmp_path: Path, stream: bool, uncollected: None
) -> None:
    async with Application(tiny_served, tmp_path) as application:

        async def leave() -> None:
            """Go when there are a few tokens, and return when nothing is left to do."""
            connection = Connection(application.app)
            before = application.service.metrics._tokens.value
            connection.protocol.data_received(request({"stream": stream, "max_tokens": 900}))
            await turn_until(lambda: application.service.metrics._tokens.value > before + 3)
            connection.protocol.connection_lost(None)
            await connection.idle()
            await application.idle()

        await leave()
        gc.collect()
        for _ in range(NUM_REQUESTS):
            await leave()
        found = gc.collect()
        records = application.records()
    assert [record.status for record in records] == [Status.CANCELLED] * (NUM_REQUESTS + 1)
    assert found < 20 * NUM_REQUESTS  # what a connection of the test is made of; a request would be a hundred more


async def test_a_request_that_is_refused_leaves_no_garbage(
    tiny_served: Snapshot, tmp_path: Path, uncollected: None
) -> None:
    async with Application(tiny_served, tmp_path) as application:
        connection = Connection(application.app)
        refusals = [request({"max_tokens": -1}), request({"no_such_field": 1}), request({"model": "other"})]
        for refused in refusals:
            assert (await connection.ask(refused)).startswith(b"HTTP/1.1 40")
        gc.collect()
        for number in range(NUM_REQUESTS):
            await connection.ask(refusals[number % len(refusals)])
        assert gc.collect() < NUM_REQUESTS
