"""Connections on which nothing happens are closed. Event loop only.

A request only notes when it came and when it went. All connections are looked at now and then, instead of one entry in
a table being made and taken back with each request.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

_LOOKS = 8
"""In the time that a connection may be silent, at most: it may be as much longer."""


class FallsSilent(Protocol):
    """A connection.

    Attributes:
        silent_since_s: the loop's time; `math.inf` while there is something to do.
    """

    silent_since_s: float

    def abort(self) -> None:
        """Close it at once."""


class Silence:
    """Aborts connections that have been silent for `limit_s`. While there are none, nothing wakes the process."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._connections: set[FallsSilent] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: FallsSilent, loop: asyncio.AbstractEventLoop) -> None:
        """A connection is there."""
        self._connections.add(connection)
        if self._timer is None:
            self._timer = loop.call_later(self._limit_s, self._look)

    def forget(self, connection: FallsSilent) -> None:
        """It is gone."""
        self._connections.discard(connection)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        oldest_s = math.inf
        for connection in [*self._connections]:
            if now_s - connection.silent_since_s >= self._limit_s:
                connection.abort()
            else:
                oldest_s = min(oldest_s, connection.silent_since_s)
        if self._connections:  # one that falls silent now is due in `limit_s` at the earliest
            next_s = min(oldest_s, now_s) + self._limit_s
            self._timer = loop.call_at(max(next_s, now_s + self._limit_s / _LOOKS), self._look)
