from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.children import free_port
from bench.soak.proxy import DatabaseProxy


@pytest.fixture
async def proxy() -> AsyncIterator[DatabaseProxy]:
    """In front of a server that sends back what it gets."""

    tasks: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1000):
                writer.write(piece)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(echo(reader, writer)))

    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "socket")
        async with await asyncio.start_unix_server(accept, path):
            proxy = DatabaseProxy(path, free_port())
            await proxy.open()
            yield proxy
            await proxy.close()
            await asyncio.gather(*tasks)


async def connect(proxy: DatabaseProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_passes_on(proxy: DatabaseProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_cuts_what_is_open_and_goes_on(proxy: DatabaseProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    await reader.readexactly(5)
    proxy.cut()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await reader.readexactly(1)
    writer.close()
    await test_passes_on(proxy)


async def test_cuts_in_the_middle_of_what_is_sent(proxy: DatabaseProxy) -> None:
    proxy.cut_after(7)
    reader, writer = await connect(proxy)
    writer.write(b"0123456789")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await reader.readexactly(10)
    writer.close()
    await test_passes_on(proxy)


async def test_hangs_until_it_is_let_go(proxy: DatabaseProxy) -> None:
    proxy.block()
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    answer = asyncio.create_task(reader.readexactly(5))
    done, _ = await asyncio.wait({answer}, timeout=0.2)
    assert not done
    proxy.unblock()
    assert await answer == b"hello"
    writer.close()


async def test_refuses_while_it_is_closed(proxy: DatabaseProxy) -> None:
    await proxy.close()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await proxy.open()
    await test_passes_on(proxy)
