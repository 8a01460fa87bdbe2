from __future__ import annotations

import asyncio
import time
from typing import Any

from handler.engine.status import EngineState
from handler.watchdog import Watchdog
from tests.server import DEADLINE_S


class Service:
    """One whose engine is lost when it has been looked at often enough; the first look holds up the loop."""

    boot_error = None

    def __init__(self, looks: int) -> None:
        self.engine = self
        self.state = EngineState.READY
        self.elapsed_s: list[float] = []
        self.is_lost = False
        self._looks = looks

    async def booted(self) -> None:
        """Long since."""

    def watch(self, elapsed_s: float, timeout_s: float) -> None:
        assert timeout_s == 0.2
        self.elapsed_s.append(elapsed_s)
        if len(self.elapsed_s) == 1:
            time.sleep(0.5)
        if len(self.elapsed_s) == self._looks:
            self.state = EngineState.FAILED

    def lose_engine(self) -> None:
        self.is_lost = True


async def test_time_in_which_nothing_could_run_counts_for_little_and_the_end_is_told_once() -> None:
    service: Any = Service(5)
    told: list[bool] = []
    async with asyncio.timeout(DEADLINE_S):
        await Watchdog(service, 0.2, lambda: told.append(service.is_lost)).run()
    assert told == [True]
    assert len(service.elapsed_s) == 5
    assert max(service.elapsed_s) <= 0.04
