"""The memory of a server while a load runs: a thread that looks ten times a second."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil

_PERIOD_S = 0.1


class MemoryWatch:
    """Samples until its `with` block ends: `samples` are (seconds since the beginning, resident bytes)."""

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[float, int]] = []
        self._process = psutil.Process(pid)
        self._began_s = time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def peak_bytes(self, first_s: float, last_s: float) -> int:
        """The most between two moments; there must be samples."""
        return max(rss_bytes for at_s, rss_bytes in self.samples if first_s <= at_s < last_s)

    def _run(self) -> None:
        while not self._ended.is_set():
            self.samples.append((time.perf_counter() - self._began_s, self._process.memory_info().rss))
            self._ended.wait(_PERIOD_S)
