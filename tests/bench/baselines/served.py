"""One stack of the comparison in a process of its own, and the database that its records go to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import orjson

from bench.baselines.chat import CHAT_PATH
from bench.baselines.plan import API_KEY, Stack, StackSpec
from bench.children import OWN_MODULE, ServerChild, free_port, own_environment
from handler.requestlog.record import Record
from tests.server import DEADLINE_S, SINGLE_THREAD, row_of

START_S = 60.0
THREADS = 8


class Served:
    """A stack that is ready."""

    def __init__(self, spec: StackSpec) -> None:
        self.stack = spec.stack
        self._address = f"http://127.0.0.1:{spec.port}"
        self._database = spec.database

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """With the key that the server knows, and room for many at once."""
        headers = {"authorization": f"Bearer {API_KEY}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self._address, headers=headers, timeout=DEADLINE_S, limits=limits
        ) as client:
            yield client

    async def row(self, request_id: str) -> Record:
        """The row of a request, see `row_of`."""
        return await row_of(self._database, request_id)


@contextmanager
def serving(stack: Stack, directory: Path, database: str, snapshot: Path | None = None) -> Iterator[Served]:
    """Start and end it: with the stub engine, or with the real one and a model."""
    port = free_port()
    spec = StackSpec(
        stack=stack,
        port=port,
        core=None,
        engine="stub" if snapshot is None else "model",
        snapshot=None if snapshot is None else str(snapshot),
        database=database,
        directory=str(directory),
        step_s=0.001,
        threads=THREADS,
    )
    command = [*OWN_MODULE, "bench.baselines.serving", msgspec.json.encode(spec).decode()]
    environ = own_environment() | SINGLE_THREAD
    with ServerChild(stack, command, environ, port=port, ready_path="/ready", start_s=START_S):
        yield Served(spec)


def chat(**fields: Any) -> dict[str, Any]:
    """A good request."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count."}]
    return {"model": "stub", "messages": messages, "max_tokens": 5, "temperature": 0} | fields


async def events(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream that ended as it should."""
    async with client.stream("POST", CHAT_PATH, json=body | {"stream": True}) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        frames = (await response.aread()).decode().split("\n\n")
        assert frames[-2:] == ["data: [DONE]", ""]
        request_id = response.headers["x-request-id"]
    found = [orjson.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert {event["id"] for event in found} == {f"chatcmpl-{request_id}"}
    return found
