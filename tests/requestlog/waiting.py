"""Waiting for what another task or process does, with a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LIMIT_S = 30.0


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds, while the event loop goes on."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.005)


def block_until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
