"""A function that ends when nobody asks anything, on a socket that is somebody else's: what becomes of whom."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from handler.cli.listener import inherited
from handler.errors import ConfigurationError
from tests.server import DEADLINE_S, SINGLE_THREAD, ServerProcess, until

BODY = {"model": "llama", "prompt": "Once", "max_tokens": 3, "ignore_eos": True}
HANDED_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"
os.execv(sys.executable, [sys.executable, "-m", "handler", "serve"])
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """What a service manager would hold, whoever runs."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener


@pytest.fixture
def address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def start(listener: socket.socket, environ: Mapping[str, str], idle_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", HANDED_OVER, str(listener.fileno())],
        env=SINGLE_THREAD | dict(environ) | {"IDLE_TIMEOUT": str(idle_s), "PATH": "/usr/bin:/bin"},
        pass_fds=[listener.fileno()],
        stdout=subprocess.DEVNULL,
    )


async def ended(process: subprocess.Popen[bytes]) -> int:
    async def look() -> int | None:
        return process.poll()

    return await until(look, "the end of a function that is idle")


async def test_it_answers_whoever_waits_and_ends_when_nobody_has_asked_for_a_while(
    tiny_environ: dict[str, str], listener: socket.socket, address: str
) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=DEADLINE_S) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json=BODY))  # before anybody runs
        for _ in range(2):
            process = start(listener, tiny_environ, 0.5)
            try:
                assert (await asking).status_code == 200
                assert await ended(process) == 0
                asking = asyncio.create_task(client.post("/v1/completions", json=BODY))  # waits for the next one
            finally:
                process.kill()
                process.wait()
        asking.cancel()


async def test_probes_do_not_keep_it(tiny_environ: dict[str, str], listener: socket.socket, address: str) -> None:
    process = start(listener, tiny_environ, 0.5)
    try:
        async with httpx.AsyncClient(base_url=address, timeout=DEADLINE_S) as client:
            while process.poll() is None:
                probe = asyncio.create_task(client.get("/health"))
                await asyncio.wait({probe}, timeout=0.2)  # nobody answers the last one
                probe.cancel()
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


async def test_of_requests_that_come_while_it_ends_none_is_lost(
    tiny_environ: dict[str, str], listener: socket.socket, address: str
) -> None:
    """Each on a connection of its own, at all moments of an end; whoever holds the socket starts it again and again."""
    process = start(listener, tiny_environ, 0.2)
    starts, statuses = 1, []

    async def keep_running() -> None:
        nonlocal process, starts
        while True:
            if process.poll() is not None:
                assert process.returncode == 0
                process, starts = start(listener, tiny_environ, 0.2), starts + 1
            await asyncio.sleep(0.01)

    async def ask(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with httpx.AsyncClient(base_url=address, timeout=DEADLINE_S) as client:
            statuses.append((await client.post("/v1/completions", json=BODY)).status_code)

    keeping = asyncio.create_task(keep_running())
    try:
        await ask(0)
        for round_number in range(4):
            # Nothing for about as long as it waits, then one each few milliseconds over its end.
            await asyncio.gather(*(ask(0.15 + 0.01 * number + 0.002 * round_number) for number in range(20)))
    finally:
        keeping.cancel()
        process.kill()
        process.wait()
    assert statuses == [200] * 81
    assert starts > 1, "it never ended: nothing was tried"


async def test_a_client_that_says_nothing_does_not_keep_it(
    tiny_environ: dict[str, str], listener: socket.socket, address: str
) -> None:
    process = start(listener, tiny_environ, 0.3)
    try:
        async with httpx.AsyncClient(base_url=address, timeout=DEADLINE_S) as client:
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
            with socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
                assert await ended(process) == 0
    finally:
        process.kill()
        process.wait()


def test_without_an_idle_timeout_it_stays(tiny_environ: dict[str, str]) -> None:
    with ServerProcess(tiny_environ) as process:
        assert process.entries("stopping") == []
        assert process.stop() == 0


def test_a_socket_for_another_process_is_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "PATH": "/bin"}
    assert inherited(environ) is None
    assert environ == {"PATH": "/bin"}
    assert inherited({}) is None


@pytest.mark.parametrize(
    ("prepare", "count", "reason"),
    [
        ("", "2", "must be 1"),
        ("os.dup2(os.open(os.devnull, os.O_RDONLY), 3)", "1", "no socket"),
        (
            "s = socket.socket(); s.bind(('127.0.0.1', 0)); os.dup2(s.fileno(), 3)",
            "1",
            "must be one of TCP that listens",
        ),
    ],
)
def test_what_cannot_be_listened_on_is_refused_by_name(prepare: str, count: str, reason: str, tmp_path: Path) -> None:
    code = f"""
import os, socket
from handler.cli.listener import inherited
{prepare}
inherited({{"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "{count}"}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 1
    assert f"{ConfigurationError.__name__}: LISTEN_FDS" in done.stderr
    assert reason in done.stderr
