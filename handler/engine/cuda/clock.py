"""How long the host worked for the steps of a device, as opposed to waiting for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class HostClock:
    """Sums of working time; they only grow, so that a reader takes differences."""

    def __init__(self) -> None:
        self.work_s = 0.0
        self.num_steps = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time spent inside."""
        started_s = time.perf_counter()
        yield
        self.work_s += time.perf_counter() - started_s
