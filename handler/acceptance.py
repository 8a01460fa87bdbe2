"""Connections that wait behind the one that libuv accepts in a turn of the loop. Event loop only.

libuv accepts one connection each time it finds that some wait (libuv #3696). With answers under way a turn of the loop
takes many milliseconds, and of a thousand clients that came at once the last would wait for a thousand turns.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_AT_ONCE = 64
"""Each costs a turn some hundred microseconds, which those that are being answered wait for."""


class Backlog:
    """What waits at a listening socket, on which libuv listens as well. Who comes alone costs one look more.

    Args:
        listener: which never blocks once libuv has it.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connecting: set[asyncio.Task[None]] = set()

    def accept(self, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Make connections of those that wait."""
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody waits; or there is no descriptor left, which libuv will find as well and deal with
                return
            connecting = loop.create_task(_connect(loop, make_protocol, connection))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)


async def _connect(
    loop: asyncio.AbstractEventLoop, make_protocol: Callable[[], asyncio.Protocol], connection: socket.socket
) -> None:
    try:
        await loop.connect_accepted_socket(make_protocol, connection)
    except OSError:  # it has been reset already
        connection.close()
