"""Thousands of connections that say nothing, on a real server: others are answered, and what was held is freed."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME
from tests.server import DEADLINE_S, ServerProcess, until

NUM_CONNECTIONS = 10_000
_PER_SOURCE = 500  # the more of an address's 28,000 ports are taken, the longer the kernel looks for a free one
_NO_PORT_YET = 24  # IP_BIND_ADDRESS_NO_PORT of <linux/in.h>: it may choose one that is free for this target
_AT_ONCE = 500  # the kernel drops what a full queue has no place for, and tries again in a second
_SOFT_LIMIT = 1024  # what most shells and containers begin with
_MAX_BYTES_EACH = 32 * 1024  # of the server's memory; measured: 7 KiB


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """This process may open them all, and the server begins with few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < NUM_CONNECTIONS + 1000:
        pytest.skip(f"{NUM_CONNECTIONS} connections need a hard limit of more descriptors than {hard}")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def connected(server: psutil.Process, host: str, port: int, number: int) -> AsyncIterator[list[socket.socket]]:
    """Connections from several addresses, which the server has accepted."""
    loop = asyncio.get_running_loop()
    num_before = server.num_fds()
    connections: list[socket.socket] = []

    async def all_are_there() -> bool | None:
        return server.num_fds() - num_before >= len(connections) or None

    with contextlib.ExitStack() as stack:
        for index in range(number):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_IP, _NO_PORT_YET, 1)
            connection.bind((f"127.0.0.{1 + index // _PER_SOURCE}", 0))
            await loop.sock_connect(connection, (host, port))
            connections.append(connection)
            if len(connections) % _AT_ONCE == 0:
                await until(all_are_there, "the server has the connections")
        yield connections


async def test_ten_thousand_idle_connections_disturb_nobody(
    embedded_snapshot: Snapshot, tmp_path: Path, many_descriptors: None
) -> None:
    environ = {"PILOTLIGHT_HOME": str(TEST_HOME), "SPOOL_DIR": str(tmp_path), "DATABASE_URL": "none"}
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_SOFT_LIMIT, hard))
    with ServerProcess(environ) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        process = psutil.Process(server.pid)
        address = urlsplit(server.address)
        assert address.hostname is not None
        assert address.port is not None
        question = {"model": "smollm2-135m", "prompt": "1, 2, 3,", "max_tokens": 1}
        async with httpx.AsyncClient(base_url=server.address, timeout=DEADLINE_S) as client:
            assert (await client.post("/v1/completions", json=question)).status_code == 200
            num_before, bytes_before = process.num_fds(), process.memory_info().rss
            async with connected(process, address.hostname, address.port, NUM_CONNECTIONS) as connections:
                bytes_each = (process.memory_info().rss - bytes_before) / NUM_CONNECTIONS
                assert bytes_each < _MAX_BYTES_EACH
                for connection in connections[::100]:  # some have said a little
                    connection.send(b"POST /v1/")
                async with asyncio.timeout(DEADLINE_S):
                    for _ in range(10):
                        assert (await client.post("/v1/completions", json=question)).status_code == 200
                    async with httpx.AsyncClient(base_url=server.address) as newcomer:
                        assert (await newcomer.get("/ready")).status_code == 200

            async def all_are_gone() -> bool | None:
                return process.num_fds() <= num_before + 2 or None

            await until(all_are_gone, "the server has closed its ends")
            bytes_first = process.memory_info().rss
            async with connected(process, address.hostname, address.port, NUM_CONNECTIONS // 4):
                pass
            await until(all_are_gone, "the server has closed its ends again")
            assert (
                process.memory_info().rss - bytes_first < bytes_each * NUM_CONNECTIONS // 8
            )  # taken from what was freed
            assert (await client.post("/v1/completions", json=question)).status_code == 200
