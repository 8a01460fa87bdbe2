"""A client that does not read what waits for it, and until when that is borne. Event loop only.

Knows no HTTP, only how many bytes a transport still holds.
"""

from __future__ import annotations

import asyncio

from handler.interruption import Delay


class Lag:
    """Of one connection's client, while more waits for it than the connection's buffers should hold.

    Args:
        transport: closed without sending what still waits when nothing of it was read for as long as `times` has it.
        times: of all connections; calls `look`.
    """

    __slots__ = ("_times", "_transport", "_unread_bytes")

    def __init__(self, transport: asyncio.Transport, times: Delay[Lag]) -> None:
        self._transport = transport
        self._times = times
        self._unread_bytes = 0  # when that was last looked at

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The client lags behind from now on."""
        self._unread_bytes = self._transport.get_write_buffer_size()
        self._times.begin(self, loop)

    def end(self) -> None:
        """It has read most of what waited, or is gone."""
        self._times.end(self)

    def look(self) -> None:
        """Wait on for a client that has read something meanwhile, however slowly: a large answer takes it long."""
        before, self._unread_bytes = self._unread_bytes, self._transport.get_write_buffer_size()
        if self._unread_bytes < before:
            self._times.begin(self, asyncio.get_running_loop())
        else:
            self._transport.abort()
