from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette

from handler.acceptance import Backlog
from handler.cli.listener import bind
from handler.cli.serve import uvicorn_config
from handler.settings import Settings
from tests.connection import turn_until

_NUM_CLIENTS = 100
_MAX_TURNS = 20


class _Connection(asyncio.Protocol):
    """Says hello and closes."""

    def __init__(self, made: list[_Connection]) -> None:
        self._made = made
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(self)
        cast("asyncio.Transport", transport).write(b"hello")
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0) as listener:
        listener.listen(_NUM_CLIENTS)
        yield listener


@contextlib.contextmanager
def _clients(listener: socket.socket, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(number)]


async def _turns(listener: socket.socket, wanted: int, *, has_backlog: bool) -> int:
    """Turns of the loop until so many connections are made."""
    made: list[_Connection] = []
    backlog = Backlog(listener)

    def make() -> _Connection:
        if has_backlog:
            backlog.accept(lambda: _Connection(made))
        return _Connection(made)

    server = await asyncio.get_running_loop().create_server(make, sock=listener)
    async with server:
        for turn in range(10 * _NUM_CLIENTS):
            if len(made) == wanted:
                await asyncio.gather(*(connection.closed for connection in made))
                return turn
            await asyncio.sleep(0)
    raise AssertionError(f"{len(made)} connections were made of {wanted}")


@pytest.mark.parametrize("has_backlog", [True, False])
def test_many_that_wait_are_accepted_in_few_turns(listener: socket.socket, *, has_backlog: bool) -> None:
    with _clients(listener, _NUM_CLIENTS) as clients:
        turns = uvloop.run(_turns(listener, _NUM_CLIENTS, has_backlog=has_backlog))
        assert (turns <= _MAX_TURNS) == has_backlog, "without a backlog there is nothing to be mended"
        assert {client.recv(5) for client in clients} == {b"hello"}


def test_who_has_left_meanwhile_disturbs_nobody(listener: socket.socket) -> None:
    with _clients(listener, 10) as clients:
        for client in clients[2:8]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()  # with a reset
        uvloop.run(_turns(listener, 10, has_backlog=True))
        assert [client.recv(5) for client in clients[:2] + clients[8:]] == [b"hello"] * 4


def test_a_listener_that_is_closed_has_nobody_waiting(listener: socket.socket) -> None:
    made: list[_Connection] = []

    async def accept() -> int:
        listener.close()
        Backlog(listener).accept(lambda: _Connection(made))
        return len(asyncio.all_tasks())

    assert asyncio.run(accept()) == 1, "nothing but this is under way"
    assert made == []


def test_the_server_accepts_them_so(listener: socket.socket, tmp_path: Path) -> None:
    settings = Settings.from_env({"PILOTLIGHT_HOME": str(tmp_path)})
    server = uvicorn.Server(uvicorn_config(Starlette(), settings, listener))

    async def serve() -> int:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await turn_until(lambda: server.started)
        turns = itertools.count()
        await turn_until(lambda: next(turns) and len(server.server_state.connections) == _NUM_CLIENTS)
        server.should_exit = True
        await serving
        return next(turns)

    with _clients(listener, _NUM_CLIENTS):
        assert uvloop.run(serve()) <= _MAX_TURNS
