"""The phase timeline of this process, from its start until the first token could be served.

Written by whichever thread runs a phase, read by `/startup` and the metrics. Clock: `time.monotonic`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        age_s = process_age_s()
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


def process_age_s() -> float:
    """Seconds since the kernel started this process, to a clock tick (10 ms).

    From `/proc` (proc_pid_stat(5), starttime) where there is one: the creation time that psutil gives counts from a
    boot time in whole seconds.
    """
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return max(0.0, time.time() - psutil.Process().create_time())
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
