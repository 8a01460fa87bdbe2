"""How the process stops, through uvicorn: who is still answered, who is refused, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from handler.requestlog.record import Status
from tests.faulty_server import BOOT_S, STEP_S, FaultyServer
from tests.server import DEADLINE_S, free_port, until
from tests.slow_client import SlowClient
from tests.test_boot_wait import spooled

PATH = "/v1/completions"
REFUSED = (503, "1", "close")


@pytest.fixture
def environ(tiny_environ: dict[str, str]) -> dict[str, str]:
    return tiny_environ | {"PORT": "0", "MAX_BATCH_SIZE": "2", STEP_S: "0.01"}


def client_of(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, timeout=DEADLINE_S)


def asking(max_tokens: int, **fields: Any) -> dict[str, Any]:
    base = {"model": "llama", "prompt": "Once", "temperature": 0, "ignore_eos": True}
    return base | {"max_tokens": max_tokens} | fields


class Stream:
    """A streamed completion, being read."""

    def __init__(self, client: httpx.AsyncClient, request_id: str, max_tokens: int) -> None:
        self.begun = asyncio.Event()
        self._body = asking(max_tokens, stream=True)
        self._headers = {"x-request-id": request_id}
        self._client = client
        self.lines: list[str] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> list[str]:
        async with self._client.stream("POST", PATH, json=self._body, headers=self._headers) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                self.begun.set()
                if line:
                    self.lines.append(line.removeprefix("data: "))
        return self.lines


def post(client: httpx.AsyncClient, request_id: str, max_tokens: int = 5) -> asyncio.Task[httpx.Response]:
    headers = {"x-request-id": request_id}
    return asyncio.create_task(client.post(PATH, json=asking(max_tokens), headers=headers))


async def waiting(client: httpx.AsyncClient, number: int) -> None:
    """Return when so many sequences wait for the engine."""

    async def look() -> bool | None:
        text = (await client.get("/metrics")).text
        return f'num_requests_waiting{{model_name="llama"}} {number}.0' in text or None

    await until(look, f"{number} sequences wait")


async def draining(client: httpx.AsyncClient) -> None:
    """Return when the server says that it stops."""

    async def look() -> bool | None:
        ready = await client.get("/ready")
        return ready.json() == {"status": "stopping"} or None

    await until(look, "the server stops")


def refusal(response: httpx.Response) -> tuple[int, str, str]:
    assert response.json()["error"]["code"] == "stopping"
    return response.status_code, response.headers["retry-after"], response.headers["connection"]


async def test_what_was_accepted_is_answered_and_what_comes_later_is_sent_elsewhere(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with FaultyServer(environ | {"MAX_BATCH_SIZE": "1"}) as process:
        async with client_of(process.address) as client, client_of(process.address) as kept_alive:
            assert (await kept_alive.get("/ready")).status_code == 200
            running = Stream(client, "running", 150)
            await asyncio.wait_for(running.begun.wait(), DEADLINE_S)
            queued = post(client, "queued")
            await waiting(client, 1)
            process.send_signal(signal.SIGTERM)
            await draining(client)
            # On a connection that was there, and on new ones: a router may not know yet that we stop.
            assert refusal(await post(kept_alive, "kept-alive")) == REFUSED
            for number in range(3):
                async with client_of(process.address) as late:
                    assert refusal(await post(late, f"late-{number}")) == REFUSED
                    assert (await late.get("/health")).status_code == 200
                    assert (await late.get("/ping")).status_code == 503
            assert not running.task.done()
            assert (await running.task)[-1] == "[DONE]"
            assert (await queued).status_code == 200
    assert await asyncio.to_thread(process.wait) == 0
    rows = spooled(tmp_path / "spool")
    assert {key: row.status for key, row in rows.items()} == {
        "running": Status.SUCCESS,
        "queued": Status.SUCCESS,
        **dict.fromkeys(["kept-alive", "late-0", "late-1", "late-2"], Status.REJECTED),
    }
    assert rows["running"].completion_tokens == 150
    assert not any("Traceback" in line for line in process.lines)


@pytest.mark.parametrize("num_signals", [1, 2])
async def test_what_outlives_the_drain_is_told_so(num_signals: int, environ: dict[str, str], tmp_path: Path) -> None:
    drain_s = "0.5" if num_signals == 1 else "60"
    with FaultyServer(environ | {"DRAIN_TIMEOUT": drain_s}) as process:
        async with client_of(process.address) as client:
            streamed = Stream(client, "streamed", 1000)
            await asyncio.wait_for(streamed.begun.wait(), DEADLINE_S)
            whole = post(client, "whole", 1000)
            await waiting(client, 0)
            queued = post(client, "queued", 1000)
            await waiting(client, 1)
            uploading = await SlowClient.connect(process.address)
            await uploading.begin("/v1/completions", "uploading", length=1000)
            tokenizing = await SlowClient.connect(process.address)
            await tokenizing.begin("/tokenize", "tokenizing", length=1000)
            start_s = time.monotonic()
            for number in range(1, num_signals + 1):
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.entry, "stopping", number)
            error = orjson.loads((await streamed.task)[-1])["error"]
            assert (error["type"], error["code"]) == ("service_unavailable_error", "stopping")
            for request in (whole, queued):
                answer = await request
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
            for unfinished in (uploading, tokenizing):
                assert (await unfinished.rest()).startswith(b"HTTP/1.1 503 ")
                unfinished.leave()
            assert await asyncio.to_thread(process.wait) == 0
            assert time.monotonic() - start_s < 15
    rows = spooled(tmp_path / "spool")
    assert rows["streamed"].completion_tokens
    for request_id in ("streamed", "whole", "queued", "uploading", "tokenizing"):
        assert rows[request_id].error_type == "StoppingError", request_id
    assert (rows["streamed"].status, rows["streamed"].http_status) == (Status.ERROR, 200)
    assert (rows["whole"].http_status, rows["queued"].http_status) == (503, 503)
    assert not any("Traceback" in line for line in process.lines)


async def test_a_client_that_reads_nothing_keeps_nobody_from_stopping(environ: dict[str, str], tmp_path: Path) -> None:
    with FaultyServer(environ | {"DRAIN_TIMEOUT": "0.5", "MAX_BATCH_SIZE": "8", STEP_S: "0"}) as process:
        silent = await SlowClient.connect(process.address)
        async with client_of(process.address) as client:
            await silent.flood("silent")

            async def generated() -> bool | None:
                return (
                    'tokens_generated_total{model_name="llama"} 7200.0' in (await client.get("/metrics")).text or None
                )

            await until(generated, "all is generated, and waits for the client")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20.0) == 0
        silent.leave()
    row = spooled(tmp_path / "spool")["silent"]
    assert (row.status, row.error_type, row.completion_tokens) == (Status.ERROR, "StoppingError", 7200)


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_a_signal_during_the_boot(is_awaited: bool, environ: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    process = FaultyServer(environ | {BOOT_S: "1", "PORT": str(port)})
    client = client_of(f"http://127.0.0.1:{port}")
    try:

        async def listens() -> bool | None:
            try:
                return (await client.get("/ready")).json() == {"status": "booting"} or None
            except httpx.ConnectError:
                return None

        await until(listens, "the server listens")
        early = post(client, "early") if is_awaited else None
        while early is not None and "http_requests_active 2.0" not in (await client.get("/metrics")).text:
            assert not early.done()
        process.send_signal(signal.SIGTERM)
        if early is not None:
            await draining(client)
            assert refusal(await post(client, "late")) == REFUSED
            assert (await early).status_code == 200
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        process.kill()
        await client.aclose()
    assert {key: row.status for key, row in spooled(tmp_path / "spool").items()} == (
        {"early": Status.SUCCESS, "late": Status.REJECTED} if is_awaited else {}
    )
    assert not process.entries("ready"), "what stops does not announce itself"
