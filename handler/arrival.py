"""How long the rest of a request may take to arrive, and how much may come of it that is no body. Event loop only.

Knows no HTTP: whoever parses says what is awaited, and what was body. A request that comes whole costs nothing here.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Generic

from handler.errors import HeadTooLargeError
from handler.interruption import Delay, WaiterT

_MAX_HEAD_BYTES = 64 * 1024
_FRAMING = 8
"""Bytes of a chunked body's framing that each of its own may bring: a body in chunks of one byte has six."""


class Part(enum.IntEnum):
    """What has not come yet of the request that is being read."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class Arrival(Generic[WaiterT]):
    """The request that one connection is in the middle of.

    Args:
        times: of all connections; each part has its own.

    Attributes:
        timed: the part whose time runs, if any does.
    """

    __slots__ = ("_read_bytes", "_times", "timed")

    def __init__(self, times: Delay[WaiterT]) -> None:
        self._times = times
        self._read_bytes = 0
        self.timed = Part.NOTHING

    def begin(self) -> None:
        """A part of another request is here. What came with it is not counted: it may be of earlier ones."""
        self._read_bytes = 0

    def add(self, num_bytes: int) -> None:
        """So much more was read, all of it of this request."""
        self._read_bytes += num_bytes

    def wait(self, part: Part, body_bytes: int, waiter: WaiterT, loop: asyncio.AbstractEventLoop) -> None:
        """Have the time of the awaited part run, if it does not yet. So many bytes of the body are here.

        Raises:
            HeadTooLargeError: more has come than that body explains.
        """
        if self._read_bytes - _FRAMING * body_bytes > _MAX_HEAD_BYTES:
            raise HeadTooLargeError(f"The head of the request is larger than {_MAX_HEAD_BYTES} bytes")
        if self.timed is not part:
            self.timed = part
            self._times.end(waiter)
            self._times.begin(waiter, loop)

    def expire(self) -> None:
        """The time that ran is over; `wait` begins it anew."""
        self.timed = Part.NOTHING

    def end(self, waiter: WaiterT) -> None:
        """The request is here, or nobody waits for it any more."""
        self.timed = Part.NOTHING
        self._times.end(waiter)
