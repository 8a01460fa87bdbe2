"""Notices from outside the engine's threads that they hang, or that the last of them has ended. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from handler.engine.status import EngineState
from handler.service import Service

_LONGEST_INTERVAL_S = 1.0


class Watchdog:
    """Looks at the engine several times within STEP_TIMEOUT.

    Time counts as far as this process could run: one that was stopped or frozen for long, or a loop that was busy, is
    no sign of a step that hangs.

    Args:
        service: whose engine is watched; it is told when that is lost.
        timeout_s: how long a thread may show no sign of life.
        on_lost: called once, when no device is left of those that served.
    """

    def __init__(self, service: Service, timeout_s: float, on_lost: Callable[[], None]) -> None:
        self._service = service
        self._timeout_s = timeout_s
        self._interval_s = min(timeout_s / 10, _LONGEST_INTERVAL_S)
        self._on_lost = on_lost

    async def run(self) -> None:
        """Return when the engine is lost; until then it is to be cancelled."""
        service, loop = self._service, asyncio.get_running_loop()
        await service.booted()
        if service.boot_error is not None:
            return
        before_s = loop.time()
        while service.engine.state is not EngineState.FAILED:
            await asyncio.sleep(self._interval_s)
            now_s = loop.time()
            service.engine.watch(min(now_s - before_s, 2 * self._interval_s), self._timeout_s)
            before_s = now_s
        service.lose_engine()
        self._on_lost()
