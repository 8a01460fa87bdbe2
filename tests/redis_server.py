"""A real Redis for the tests, and one that accepts and never answers."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from tests.server import DEADLINE_S

PASSWORD = "hunter2-of-redis"


class RedisServer:
    """Asks for a password, keeps nothing on disk, and can be killed and started again where it was."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._socket = directory / "redis.sock"
        self.url = f"unix://:{PASSWORD}@{self._socket}?db=0"
        self.start()

    def start(self) -> None:
        """Return once it answers."""
        command = [self._program, "--port", "0", "--unixsocket", self._socket, "--save", ""]
        self._process = subprocess.Popen(
            [*command, "--requirepass", PASSWORD, "--dir", self._directory], stdout=subprocess.DEVNULL
        )
        deadline_s = time.monotonic() + DEADLINE_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    if time.monotonic() > deadline_s or self._process.poll() is not None:
                        self.kill()
                        raise
                    time.sleep(0.02)
                else:
                    return

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server (Debian: apt-get install redis-server)")
    server = RedisServer(program, tmp_path)
    yield server
    server.kill()


@asynccontextmanager
async def hanging_redis() -> AsyncIterator[str]:
    """The URL of something that takes connections and says nothing."""
    writers: list[asyncio.StreamWriter] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"redis://:{PASSWORD}@127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()
        for writer in writers:
            writer.close()
