"""The life of the process from outside: requests before it is ready, signals, and starts that must fail."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from handler.engine.snapshot import Snapshot
from handler.requestlog.adoption import find_orphans
from handler.requestlog.record import Record, Status
from handler.requestlog.spool import Spool
from tests.asgi import Application
from tests.conftest import TEST_HOME
from tests.requestlog.records import records_of
from tests.server import DEADLINE_S, ServerProcess, free_port, until

MODEL = "smollm2-135m"
PARIS = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}


def spooled(directory: Path) -> dict[str, Record]:
    """Records that a dead process left, by request id."""
    spool = Spool(directory)
    spool.take_over(find_orphans(spool.directory))
    records = {}
    while (batch := spool.read(100, 1 << 20)) is not None:
        records.update({record.request_id: record for record in records_of(batch)})
        spool.acknowledge(batch)
    spool.close()
    return records


@pytest.fixture
def environ(embedded_snapshot: Snapshot, tmp_path: Path) -> dict[str, str]:
    return {"PILOTLIGHT_HOME": str(TEST_HOME), "SPOOL_DIR": str(tmp_path / "spool"), "DATABASE_URL": "none"}


@pytest.fixture
def processes() -> Iterator[list[ServerProcess]]:
    """Servers that the test starts without waiting for them; whatever is left of them ends with it."""
    started: list[ServerProcess] = []
    yield started
    for process in started:
        process.kill()


async def answer(client: httpx.AsyncClient, path: str) -> httpx.Response | None:
    try:
        return await client.get(path)
    except httpx.TransportError:
        return None


async def test_a_cold_start_from_the_first_request_to_the_last(
    environ: dict[str, str], processes: list[ServerProcess], tmp_path: Path
) -> None:
    port = free_port()
    process = ServerProcess(environ | {"DRAIN_TIMEOUT": "100"}, "--port", str(port))
    processes.append(process)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
        alive = await until(lambda: answer(client, "/health"), "the server listens")
        assert (alive.status_code, alive.json()["engine"]) == (200, "booting")
        early_ready, early_startup, early_ping = await asyncio.gather(
            client.get("/ready"), client.get("/startup"), client.get("/ping")
        )
        assert (early_ping.status_code, early_ping.content) == (204, b"")
        assert (early_ready.status_code, early_ready.json()["status"]) == (503, "booting")
        assert (early_startup.status_code, early_startup.json()["ready_s"]) == (503, None)
        assert "interpreter" in [phase["name"] for phase in early_startup.json()["phases"]]

        # Sent while the model loads, answered once it has.
        whole, streamed, models, tokens = await asyncio.gather(
            client.post("/v1/chat/completions", json=PARIS),
            client.post("/v1/chat/completions", json=PARIS | {"stream": True}),
            client.get("/v1/models"),
            client.post("/tokenize", json={"prompt": "Paris"}),
        )
        assert "Paris" in whole.json()["choices"][0]["message"]["content"]
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert models.json()["data"][0]["id"] == MODEL
        assert tokens.json()["count"] == 1

        ready, startup = await asyncio.gather(client.get("/ready"), client.get("/startup"))
        assert (ready.status_code, startup.status_code) == (200, 200)
        assert [phase["name"] for phase in startup.json()["phases"]] == [
            "interpreter", "bind", "snapshot", "tokenizer", "import_torch", "weights", "kv_cache", "warm_up",
        ]  # fmt: skip
        assert 0 < startup.json()["ready_s"] < 60

        # SIGTERM in mid-stream: this stream ends as it should, nobody else gets in, and the exit code is 0.
        body = PARIS | {"stream": True, "max_tokens": 20, "ignore_eos": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            process.send_signal(signal.SIGTERM)

            async def refused() -> str | None:
                late = await answer(client, "/ready")
                return "refused" if late is None else "503" if late.status_code == 503 else None

            assert await until(refused, "new requests are turned away")
            rest = [line async for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            assert '"finish_reason":"length"' in rest[-2]
            last_id = response.headers["x-request-id"]
    assert await asyncio.to_thread(process.wait) == 0
    assert process.entries("stopping")[0]["signal"] == "SIGTERM"
    assert not any("Traceback" in line for line in process.lines)
    records = spooled(tmp_path / "spool")
    assert records[whole.headers["x-request-id"]].cold_start is True
    assert records[last_id].cold_start is False
    assert (records[last_id].status, records[last_id].completion_tokens) == (Status.SUCCESS, 20)


async def test_a_stream_that_outlives_the_drain_is_told_so(environ: dict[str, str], tmp_path: Path) -> None:
    with ServerProcess(environ | {"DRAIN_TIMEOUT": "0.3"}) as process:
        async with httpx.AsyncClient(base_url=process.address, timeout=DEADLINE_S) as client:
            body = PARIS | {"stream": True, "ignore_eos": True}
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.aiter_lines()
                await anext(lines)
                process.send_signal(signal.SIGTERM)
                *_, last = [line async for line in lines if line]
        error = msgspec.json.decode(last.removeprefix("data: "))["error"]
        assert (error["type"], error["code"]) == ("service_unavailable_error", "stopping")
        assert await asyncio.to_thread(process.wait) == 0
    assert not any("Exception in ASGI" in line for line in process.lines)
    record = spooled(tmp_path / "spool")[response.headers["x-request-id"]]
    assert (record.status, record.error_type) == (Status.ERROR, "StoppingError")
    assert record.completion_tokens


async def test_a_second_signal_ends_at_once_and_keeps_the_row(environ: dict[str, str], tmp_path: Path) -> None:
    with ServerProcess(environ) as process:
        async with httpx.AsyncClient(base_url=process.address, timeout=DEADLINE_S) as client:
            body = PARIS | {"stream": True, "ignore_eos": True}
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.aiter_lines()
                await anext(lines)
                for count in (1, 2):
                    process.send_signal(signal.SIGINT)
                    await asyncio.to_thread(process.entry, "stopping", count)
                start_s = time.monotonic()
                assert await asyncio.to_thread(process.wait) == 0
                assert time.monotonic() - start_s < 20  # DRAIN_TIMEOUT is 30
    assert response.headers["x-request-id"] in spooled(tmp_path / "spool")


def test_a_damaged_model_is_exit_code_1_and_a_line(tiny_environ: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(tiny_environ["MODEL_NAME"], directory)
    (directory / "int8.safetensors").write_bytes(b"no weights")
    process = ServerProcess(tiny_environ | {"MODEL_NAME": str(directory)})
    assert process.wait() == 1
    (entry,) = [line for line in process.lines if "the model could not be loaded" in line]
    assert msgspec.json.decode(entry)["level"] == "error"
    assert "int8.safetensors" in entry


async def test_requests_that_wait_for_a_damaged_model_are_told(tiny_served: Snapshot, tmp_path: Path) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(tiny_served.directory, directory)
    (directory / "int8.safetensors").write_bytes(b"no weights")
    damaged = Snapshot(directory, "llama", tiny_served.manifest)
    async with Application(damaged, tmp_path / "home") as application:
        client = application.client
        response = await client.post("/v1/completions", json={"model": "llama", "prompt": "a"})
        assert response.status_code == 500
        assert "could not be loaded" in response.json()["error"]["message"]
        assert (await client.get("/v1/models")).status_code == 500
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/ready")).status_code == 503
        startup = await client.get("/startup")
        assert startup.status_code == 503
        assert "int8.safetensors" in startup.json()["error"]
        for told in (startup, response):  # what, and not where on this machine
            assert str(tmp_path) not in told.text


@pytest.mark.parametrize(
    ("key", "value"),
    [("PORT", "eighty"), ("MAX_MODEL_LEN", "9999"), ("MODEL_DEVICE", "cuda:77"), ("HOST", "256.0.0.1")],
)
def test_a_setting_that_cannot_work_is_exit_code_2_and_a_line(
    tiny_environ: dict[str, str], key: str, value: str
) -> None:
    arguments = ("--host", value) if key == "HOST" else ()
    process = ServerProcess(tiny_environ | {key: value}, *arguments)
    assert process.wait() == 2
    assert [line for line in process.lines if f"{key}: " in line]
    assert not any("Traceback" in line for line in process.lines)


def test_a_port_in_use_is_exit_code_2_and_a_line(tiny_environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = ServerProcess(tiny_environ, "--port", str(port))
        assert process.wait() == 2
    assert process.lines == [f"pilotlight: PORT: cannot listen on 127.0.0.1:{port}: Address already in use"]


def test_a_model_that_nobody_knows_is_exit_code_1_and_a_line(tiny_environ: dict[str, str], tmp_path: Path) -> None:
    missing: Any = tmp_path / "missing"
    process = ServerProcess(tiny_environ | {"MODEL_NAME": str(missing)})
    assert process.wait() == 1
    assert process.lines[-1] == f"pilotlight: {missing} could not be prepared"
    assert not any("Traceback" in line for line in process.lines)
