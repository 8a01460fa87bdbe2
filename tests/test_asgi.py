"""The function as an application of somebody else's server: plain uvicorn here."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from handler.asgi import import_engine
from tests.server import DEADLINE_S, SINGLE_THREAD, free_port, until
from tests.test_boot_wait import spooled


def start(port: int, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "uvicorn", "handler.asgi:application", "--factory", "--port", str(port)]
    given = SINGLE_THREAD | {"PATH": "/usr/bin:/bin"} | dict(environ)
    return subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def test_a_plain_server_serves_it_and_its_records_are_kept(tiny_environ: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    process = start(port, tiny_environ | {"SPOOL_DIR": str(tmp_path / "spool")})
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:

            async def alive() -> bool | None:
                try:
                    return (await client.get("/health")).status_code == 200 or None
                except httpx.TransportError:
                    return None

            await until(alive, "a port that answers")
            body = {"model": "llama", "prompt": "Once", "max_tokens": 3, "ignore_eos": True}
            whole = await client.post("/v1/completions", json=body)
            streamed = await client.post("/v1/completions", json=body | {"stream": True})
        assert (whole.status_code, streamed.status_code) == (200, 200)
        assert streamed.text.endswith("data: [DONE]\n\n")
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    ids = {answer.headers["x-request-id"] for answer in (whole, streamed)}
    assert set(spooled(tmp_path / "spool")) == ids


def test_the_engine_can_be_imported_before_anything_is_known() -> None:
    import_engine()
    assert "handler.engine.loading" in sys.modules
