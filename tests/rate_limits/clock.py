"""A clock for limits that are counted in memory, which moves when the test says so."""

from __future__ import annotations

import pytest
from limits.aio.storage import memory

from handler.rate_limits import allowance


class Clock:
    """Stands still in the middle of a minute."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_030.0

    def time(self) -> float:
        return self.now_s

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of `limits`."""
    clock = Clock()
    monkeypatch.setattr(memory, "time", clock)
    monkeypatch.setattr(allowance, "time", clock)
    return clock
