"""Bytes on their way to clients, which leave together when the event loop has turned once. Event loop only.

uvicorn writes the head and the body of a response one after the other, and each write is a system call that costs as
much as making a small answer. Here a connection's bytes wait until all that is ready in this turn of the loop has run;
what has to be done before any of them leaves is done once for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

BEFORE_WRITE = "pilotlight.before_write"
"""The ASGI extension by which a server lends `Outbox.before_write` to an application."""
PUSHER = "pilotlight.pusher"
"""The extension by which a server lends what sends parts of a streamed body without waiting."""
_MAX_WAITING_BYTES = 64 * 1024

Action = Callable[[], None]


class Outbox:
    """What leaves at the end of this turn of the loop, of all connections."""

    def __init__(self) -> None:
        self._actions: list[Action] = []
        self._transports: list[GatheringTransport] = []
        self._is_scheduled = False

    def before_write(self, action: Action) -> None:
        """Call `action` once, at the end of this turn, before any bytes leave that have been written until then."""
        self._actions.append(action)
        self._schedule()

    def add(self, transport: GatheringTransport) -> None:
        """Flush the transport at the end of this turn."""
        self._transports.append(transport)
        self._schedule()

    def flush(self) -> None:
        """Do now what waits for the end of the turn."""
        self._is_scheduled = False
        while self._actions:
            self._safely(self._actions.pop(0))
        transports, self._transports = self._transports, []
        for transport in transports:
            self._safely(transport.flush)

    def _safely(self, action: Action) -> None:
        """A defect of one must not keep back what belongs to others."""
        try:
            action()
        except Exception as error:  # noqa: BLE001  (whatever it is, it is reported)
            asyncio.get_running_loop().call_exception_handler(
                {"message": "What was to be done at the end of a turn of the loop failed", "exception": error}
            )

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        if self._is_scheduled:
            self.flush()


class GatheringTransport:
    """What uvicorn needs of a transport; `write` and `close` wait for the end of the turn."""

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._closes = False

    def write(self, data: bytes) -> None:
        """Send when the turn ends, or at once with all that waits when that has become much."""
        if not self._waiting:
            self._outbox.add(self)
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _MAX_WAITING_BYTES:
            self._outbox.flush()

    def close(self) -> None:
        """Close behind what waits."""
        self._closes = True
        if not self._waiting:
            self._transport.close()

    def abort(self) -> None:
        """Close, and forget what waits."""
        self._closes = True
        self._transport.abort()

    @property
    def is_ending(self) -> bool:
        """Whether this side has closed."""
        return self._closes

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closes or self._transport.is_closing()

    def flush(self) -> None:
        """Send what waits; a connection that is gone takes no more."""
        waiting = self._waiting
        data = waiting[0] if len(waiting) == 1 else b"".join(waiting)
        waiting.clear()
        self._waiting_bytes = 0
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if self._closes:
            self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Bytes that have been sent, and that the client has not made room for."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of the transport."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Of the transport."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Of the transport."""
        self._transport.resume_reading()
