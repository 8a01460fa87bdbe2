"""A real server for tests: `pilotlight serve` in a process of its own, on a free port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import asyncpg
import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families

from handler.requestlog.reader import read_logs
from handler.requestlog.record import Record
from tests.postgres import PostgresServer

START_TIMEOUT_S = 60.0
SINGLE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Torch's threads wait for each other in every operation: beside another busy process two are far slower than one."""
DEADLINE_S = 30.0

T = TypeVar("T")


def free_port() -> int:
    """A port that was free a moment ago, for a server whose address must be known before it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Look again and again until there is something to see."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        found = await look()
        if found is not None:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


class ServerProcess:
    """Runs until the `with` block ends. `address` is known once the model is loaded."""

    def __init__(
        self, environ: Mapping[str, str], *arguments: str, program: Sequence[str] = ("-m", "handler", "serve")
    ) -> None:
        inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", *arguments],
            env=SINGLE_THREAD | inherited | dict(environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> ServerProcess:
        if not self._ready.wait(START_TIMEOUT_S) or self._process.poll() is not None:
            self.kill()
            raise AssertionError("the server did not start:\n" + "\n".join(self.lines))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> str:
        """http://host:port"""
        address: str = self.entries("ready")[0]["address"]
        return address

    def entries(self, message: str) -> list[dict[str, Any]]:
        """JSON log lines with this message."""
        parsed = [orjson.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [entry for entry in parsed if entry["message"] == message]

    def entry(self, message: str, count: int) -> dict[str, Any]:
        """The log line with this message, once there are that many."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            found = self.entries(message)
            if len(found) >= count:
                return found[count - 1]
            time.sleep(0.02)
        raise AssertionError(f"never logged: {message}")

    def send_signal(self, signal_number: int) -> None:
        """Send a signal and go on."""
        self._process.send_signal(signal_number)

    def stop(self, signal_number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Send a signal, wait for the end, return the exit code."""
        self._process.send_signal(signal_number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for the end and return the exit code."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the server did not stop:\n" + "\n".join(self.lines)) from None
        self._reader.join(timeout_s)
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._reader.join(10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self.lines.append(line.rstrip("\n"))
                if line.startswith("{") and '"message":"ready"' in line:
                    self._ready.set()
        self._ready.set()


async def row_of(database: str, request_id: str) -> Record:
    """The row of a request, once it is there. There must be one only."""
    connection = await asyncpg.connect(database)

    async def look() -> Record | None:
        rows = [row for row in await read_logs(connection, 10_000) if row.request_id == request_id]
        assert len(rows) <= 1
        return rows[0] if rows else None

    try:
        return await until(look, f"the row of {request_id}")
    finally:
        await connection.close()


class LoggedServer:
    """A server and the database that its records go to."""

    key = "sk-alice"

    def __init__(self, process: ServerProcess, url: str) -> None:
        self.address = process.address
        self.url = url

    def client(self) -> httpx.AsyncClient:
        """With the key that the server knows."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=DEADLINE_S)

    async def row(self, request_id: str) -> Record:
        """The row of a request, see `row_of`."""
        return await row_of(self.url, request_id)

    async def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        async with self.client() as client:
            text = (await client.get("/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    async def reaches(self, name: str, value: float) -> None:
        """Return when the metric has that value."""

        async def look() -> bool | None:
            return True if await self.metric(name) == value else None

        await until(look, f"{name} is {value}")

    async def idle(self) -> None:
        """Return when the engine holds no sequence and no block."""
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio"):
            await self.reaches(name, 0)


@contextmanager
def logged_process(
    database: PostgresServer, home: Path, spool: Path, environ: Mapping[str, str]
) -> Iterator[LoggedServer]:
    """A server of its own that asks for a key and writes its records to a database of its own."""
    name, url = database.create_database()
    settings = {
        "PILOTLIGHT_HOME": str(home),
        "SPOOL_DIR": str(spool),
        "DATABASE_URL": url,
        "API_KEYS": f"alice:{LoggedServer.key}",
    }
    with ServerProcess(settings | dict(environ)) as process:
        yield LoggedServer(process, url)
    database.drop_database(name)
