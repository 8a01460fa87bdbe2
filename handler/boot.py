"""The phase timeline of this process, from its start until the first token could be served.

Written by whichever thread runs a phase, read by `/startup` and the metrics. Clock: `time.monotonic`.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


class Phase(msgspec.Struct, frozen=True):
    """One named part of the boot. Times are seconds since the process started; an open phase has no end.

    `device` is set where several devices boot side by side, each through phases of its own.
    """

    name: str
    start_s: float
    end_s: float | None = None
    device: str | None = None


class BootTimeline:
    """Phases in the order they began. Safe to write from several threads."""

    def __init__(self) -> None:
        age_s = process_age_s()
        self._record = _Record(time.monotonic() - age_s)
        self._record.phases[None, "interpreter"] = Phase("interpreter", 0.0, age_s)
        self._device: str | None = None

    def for_device(self, device: str) -> BootTimeline:
        """The same timeline, written on behalf of one of several devices."""
        view = copy.copy(self)
        view._device = device  # noqa: SLF001  (another object of this class)
        return view

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the body as phase `name`; a body that raises leaves the phase open."""
        with self._record.phase(name, self._device):
            yield

    @contextmanager
    def process_phase(self, name: str) -> Iterator[None]:
        """Record the body as a phase of the whole process, unless that was recorded already: only the first works."""
        with self._record.lock:
            is_known = (None, name) in self._record.phases
        if is_known:
            yield
            return
        with self._record.phase(name, None):
            yield

    def mark_ready(self) -> None:
        """State that a token could be served from now on; with several devices the first one to say so counts."""
        with self._record.lock:
            if self._record.ready_s is None:
                self._record.ready_s = self.elapsed_s()

    def elapsed_s(self) -> float:
        """Seconds since the process started."""
        return self._record.elapsed_s()

    @property
    def ready_s(self) -> float | None:
        """Seconds from process start until ready, None while booting."""
        return self._record.ready_s

    @property
    def phases(self) -> list[Phase]:
        """All phases so far, in the order they began."""
        with self._record.lock:
            return list(self._record.phases.values())


class _Record:
    """What all views of one timeline share."""

    def __init__(self, origin_s: float) -> None:
        self.lock = threading.Lock()
        self.phases: dict[tuple[str | None, str], Phase] = {}
        self.ready_s: float | None = None
        self._origin_s = origin_s

    def elapsed_s(self) -> float:
        return time.monotonic() - self._origin_s

    @contextmanager
    def phase(self, name: str, device: str | None) -> Iterator[None]:
        start_s = self.elapsed_s()
        with self.lock:
            self.phases[device, name] = Phase(name, start_s, None, device)
        yield
        with self.lock:
            self.phases[device, name] = Phase(name, start_s, self.elapsed_s(), device)


def process_age_s() -> float:
    """Seconds since the kernel started this process, to a clock tick (10 ms).

    From `/proc` (proc_pid_stat(5), starttime) where there is one: the creation time that psutil gives counts from a
    boot time in whole seconds.
    """
    stat = Path("/proc/self/stat")
    if not stat.exists():
        import psutil  # noqa: PLC0415  (not on Linux, where it would cost the boot that is timed)

        return max(0.0, time.time() - psutil.Process().create_time())
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
