"""The phase timeline of this process, from its start until the first token could be served.

Written by whichever thread runs a phase, read by `/startup` and the metrics. Clock: `time.monotonic`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import psutil


class Phase(msgspec.Struct, frozen=True):
    """One named part of the boot. Times are seconds since the process started; an open phase has no end."""

    name: str
    start_s: float
    end_s: float | None = None


class BootTimeline:
    """Phases in the order they began. Safe to write from several threads."""

    def __init__(self) -> None:
        age_s = max(0.0, time.time() - psutil.Process().create_time())
        self._origin = time.monotonic() - age_s
        self._lock = threading.Lock()
        self._phases: dict[str, Phase] = {"interpreter": Phase("interpreter", 0.0, age_s)}
        self._ready_s: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the body as phase `name`; a body that raises leaves the phase open."""
        start_s = self.elapsed_s()
        with self._lock:
            self._phases[name] = Phase(name, start_s)
        yield
        with self._lock:
            self._phases[name] = Phase(name, start_s, self.elapsed_s())

    def mark_ready(self) -> None:
        """State that a token could be served from now on."""
        self._ready_s = self.elapsed_s()

    def elapsed_s(self) -> float:
        """Seconds since the process started."""
        return time.monotonic() - self._origin

    @property
    def ready_s(self) -> float | None:
        """Seconds from process start until ready, None while booting."""
        return self._ready_s

    @property
    def phases(self) -> list[Phase]:
        """All phases so far, in the order they began."""
        with self._lock:
            return list(self._phases.values())
