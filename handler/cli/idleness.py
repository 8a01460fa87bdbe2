"""Ends a function that nobody asks anything any more, where what started it will start it again. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from handler.service import Service

_LONGEST_INTERVAL_S = 1.0


class Idleness:
    """Looks several times within IDLE_TIMEOUT whether anybody asks for something. Probes and scrapes do not count.

    Args:
        service: whose requests count.
        timeout_s: how long nobody may have asked.
        on_idle: called once, when that has come about.
    """

    def __init__(self, service: Service, timeout_s: float, on_idle: Callable[[], None]) -> None:
        self._service = service
        self._timeout_s = timeout_s
        self._interval_s = min(timeout_s / 10, _LONGEST_INTERVAL_S)
        self._on_idle = on_idle

    async def run(self) -> None:
        """Return when the function is idle; until then it is to be cancelled."""
        loop, metrics, occupancy = asyncio.get_running_loop(), self._service.metrics, self._service.admission.occupancy
        num_seen, since_s = metrics.num_posted, loop.time()
        while loop.time() - since_s < self._timeout_s:
            await asyncio.sleep(self._interval_s)
            if metrics.num_posted != num_seen or occupancy.num_admitted:
                num_seen, since_s = metrics.num_posted, loop.time()
        self._on_idle()
