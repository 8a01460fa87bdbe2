"""What makes ids of requests unlike all others. Event loop only.

From the kernel, and not from a generator in this process: snapshots of it may be resumed many times. For several
requests at once, because each call to the kernel lets go of the interpreter, and an engine's thread that waits for it
takes it: to have it back was a tenth of what a small completion cost. What is left is forgotten as soon as no
more requests come, so that a process that idles, of which snapshots are taken, has none.
"""

from __future__ import annotations

import asyncio
import os

DIGITS = 48
"""Hexadecimal ones for each request."""
_MOST_REQUESTS = 256
_KEPT_S = 0.05


class Randomness:
    """Random digits of requests.

    Args:
        kept_s: seconds from one look to the next at whether any were taken; if not, the others are forgotten.
    """

    def __init__(self, kept_s: float = _KEPT_S) -> None:
        self._kept_s = kept_s
        self._is_kept = False
        self._drawn = ""
        self._position = 0
        self._requests = 1

    def take(self) -> str:
        """Digits that nobody else has."""
        position = self._position
        if position == len(self._drawn):
            self._draw()
            position = 0
        self._position = position + DIGITS
        return self._drawn[position : self._position]

    @property
    def num_left(self) -> int:
        """Requests for which there are digits at hand."""
        return (len(self._drawn) - self._position) // DIGITS

    def _draw(self) -> None:
        self._drawn = os.urandom(self._requests * DIGITS // 2).hex()
        self._requests = min(2 * self._requests, _MOST_REQUESTS)  # who comes alone waits for no more than it needs
        if not self._is_kept:
            self._is_kept = True
            self._look_later()

    def _look_later(self) -> None:
        state = self._drawn, self._position
        asyncio.get_running_loop().call_later(self._kept_s, self._look, state)

    def _look(self, state: tuple[str, int]) -> None:
        if state == (self._drawn, self._position):
            self._is_kept = False
            self._forget()
        else:
            self._look_later()

    def _forget(self) -> None:
        self._drawn = ""
        self._position = 0
        self._requests = 1
