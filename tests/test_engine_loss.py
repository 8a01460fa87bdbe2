"""Engines that fail, through the real server: who is told what, what probes see, and how the process ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from handler.requestlog.record import Status
from tests.faulty_server import HANG, LOST, LOST_GRACE_S, NO_MEMORY, SLOW_STOP, STEP_S, FaultyServer
from tests.server import DEADLINE_S, until
from tests.test_boot_wait import spooled

PATH = "/v1/completions"


@pytest.fixture
def environ(tiny_environ: dict[str, str]) -> dict[str, str]:
    return tiny_environ | {"PORT": "0", LOST_GRACE_S: "1.5", STEP_S: "0.005"}


def asking(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "llama", "prompt": prompt, "temperature": 0, "ignore_eos": True, "max_tokens": 20} | fields


@asynccontextmanager
async def client_of(process: FaultyServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=process.address, timeout=DEADLINE_S) as client:
        yield client


async def stream(client: httpx.AsyncClient, begun: asyncio.Event, request_id: str, **fields: Any) -> dict[str, Any]:
    """The error that ends a stream."""
    body = asking("Once", stream=True, max_tokens=900, **fields)
    last = ""
    async with client.stream("POST", PATH, json=body, headers={"x-request-id": request_id}) as response:
        async for line in response.aiter_lines():
            begun.set()
            last = line or last
    error: dict[str, Any] = orjson.loads(last.removeprefix("data: "))["error"]
    return error


async def test_one_request_that_a_step_cannot_do_fails_alone(environ: dict[str, str], tmp_path: Path) -> None:
    with FaultyServer(environ | {"STEP_TIMEOUT": "0.5"}) as process:
        async with client_of(process) as client:
            alone = (await client.post(PATH, json=asking("Once"))).json()["choices"][0]["text"]
            bodies = [asking("Once"), asking(f"Once {NO_MEMORY}"), asking("Once"), asking("Once", stream=True)]
            good, bad, other, streamed = await asyncio.gather(*(client.post(PATH, json=body) for body in bodies))
            assert good.json()["choices"][0]["text"] == other.json()["choices"][0]["text"] == alone
            assert streamed.text.endswith("data: [DONE]\n\n")
            assert bad.status_code == 500
            assert bad.json()["error"]["message"] == "the engine failed: MemoryError"  # and not of which machine
            assert (await client.get("/health")).status_code == 200
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.0)  # longer than a step may take, but nobody's fault
            process.send_signal(signal.SIGCONT)
            assert (await client.post(PATH, json=asking("Once"))).json()["choices"][0]["text"] == alone
            assert (await client.get("/health")).status_code == 200
        assert await asyncio.to_thread(process.stop) == 0
    row = spooled(tmp_path / "spool")[bad.headers["x-request-id"]]
    assert (row.status, row.http_status, row.error_type) == (Status.ERROR, 500, "EngineError")


@pytest.mark.parametrize(
    ("mark", "reason"),
    [(LOST, "the device is lost: RuntimeError"), (HANG, "the engine hangs: a step has not ended for 0.5 s")],
)
async def test_an_engine_that_is_lost_ends_everything_and_then_the_process(
    mark: str, reason: str, environ: dict[str, str], tmp_path: Path
) -> None:
    with FaultyServer(environ | {"STEP_TIMEOUT": "0.5"}) as process:
        async with client_of(process) as client:
            begun = asyncio.Event()
            streamed = asyncio.create_task(stream(client, begun, "streamed"))
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
            fatal = await client.post(PATH, json=asking(f"Once {mark}"), headers={"x-request-id": "fatal"})
            error = await streamed
            assert (fatal.status_code, fatal.headers["retry-after"]) == (503, "1")
            for told in (error, fatal.json()["error"]):
                assert (told["message"], told["code"]) == (reason, "engine_lost")

            async def refused() -> httpx.Response | None:
                late = await client.post(PATH, json=asking("Once"), headers={"x-request-id": "late"})
                return late if late.json()["error"]["code"] == "stopping" else None

            late = await until(refused, "new requests are refused at the door")
            assert (late.status_code, late.headers["retry-after"]) == (503, "1")
            health, ready, ping = [await client.get(path) for path in ("/health", "/ready", "/ping")]
            assert (health.status_code, health.json()["status"]) == (503, "dead")
            assert (ready.status_code, ready.json()["status"]) == (503, "failed")
            assert ping.status_code == 503
        assert await asyncio.to_thread(process.wait) == 3  # nobody asked it to end
    last = orjson.loads(process.lines[-1])
    assert last["message"] == f"exit code 3: the engine was lost: cpu: {reason}"
    rows = spooled(tmp_path / "spool")
    assert (rows["streamed"].status, rows["streamed"].http_status) == (Status.ERROR, 200)
    assert rows["streamed"].completion_tokens
    assert (rows["fatal"].status, rows["fatal"].http_status) == (Status.ERROR, 503)
    assert (rows["late"].status, rows["late"].http_status) == (Status.REJECTED, 503)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_at_the_very_end_changes_no_exit_code(number: int, environ: dict[str, str]) -> None:
    del environ["DATABASE_URL"]
    with FaultyServer(environ | {LOST_GRACE_S: "0.1", SLOW_STOP: "1"}) as process:
        async with client_of(process) as client:
            await client.post(PATH, json=asking(f"Once {LOST}"))
        await asyncio.to_thread(process.entry, "stopping the database", 1)
        assert await asyncio.to_thread(process.stop, number) == 3
