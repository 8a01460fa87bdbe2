"""What is recorded of a boot: in this process, and by a real server."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from handler import __version__
from handler.boots import disk_read_bytes
from handler.engine.engine import Engine
from handler.engine.snapshot import QUANTISED_FILE, Snapshot
from handler.errors import SnapshotError
from handler.requestlog.boot_record import BootRecord
from handler.requestlog.reader import read_boots
from tests.asgi import Application
from tests.conftest import TEST_HOME
from tests.postgres import PostgresServer
from tests.requestlog.records import boots_of
from tests.server import logged_process, until


async def _boot(application: Application) -> BootRecord:
    async def look() -> BootRecord | None:
        batch = application.spool.read(1000, 1 << 20)
        found = [] if batch is None else boots_of(batch)
        return found[0] if found else None

    return await until(look, "a boot in the spool")


async def test_a_boot_is_recorded_when_it_has_ended(tiny_served: Snapshot, tmp_path: Path) -> None:
    before = dt.datetime.now(dt.UTC)
    async with Application(tiny_served, tmp_path, {"IMAGE": "pilotlight:7"}) as application:
        boot = await _boot(application)
    assert boot.started_at < before  # this process is older than the application in it
    assert (boot.version, boot.image, boot.devices, boot.error) == (__version__, "pilotlight:7", ["cpu"], None)
    assert boot.model_name == application.engine.snapshot.name
    assert boot.ready_s is not None
    names = [phase.name for phase in boot.phases]
    assert names[0] == "interpreter"
    assert "weights" in names
    assert all(phase.end_s is not None and phase.end_s <= boot.ready_s for phase in boot.phases)
    assert boot.read_bytes is not None


async def test_a_boot_that_failed_says_why(tiny_served: Snapshot, tmp_path: Path) -> None:
    class Broken(Engine):
        def _boot(self) -> Any:
            raise SnapshotError("the weights are gone")

    async with Application(tiny_served, tmp_path, engine_type=Broken) as application:
        boot = await _boot(application)
    assert (boot.ready_s, boot.error) == (None, "the weights are gone")


def test_what_was_read_from_the_disk_only_grows() -> None:
    before = disk_read_bytes()
    after = disk_read_bytes()
    assert before is not None
    assert after is not None
    assert 0 <= before <= after


async def test_a_boot_and_the_requests_after_it_name_the_same_instance(
    embedded_snapshot: Snapshot, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with logged_process(postgres_server, TEST_HOME, tmp_path / "spool", {}) as server:
        async with server.client() as client:
            body = {"model": "smollm2-135m", "prompt": "Hello", "max_tokens": 1}
            answer = await client.post("/v1/completions", json=body)
            startup = (await client.get("/startup")).json()
        row = await server.row(answer.headers["x-request-id"])
        connection = await asyncpg.connect(server.url)
        try:
            (boot,) = await read_boots(connection, 10)
        finally:
            await connection.close()
    assert boot.instance_id == row.instance_id
    assert boot.read_bytes is not None
    sizes = {file.name: file.size_bytes for file in embedded_snapshot.manifest.files}
    form = QUANTISED_FILE if startup["model"]["quantization"] == "int8" else "model.safetensors"
    assert boot.is_cold == (boot.read_bytes > sizes[form] / 2)
    assert boot.ready_s == pytest.approx(startup["ready_s"])
    assert [phase.name for phase in boot.phases] == [phase["name"] for phase in startup["phases"]]
    assert boot.started_at < row.created_at
