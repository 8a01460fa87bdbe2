"""The memory of a server: of its process, and of all those that it has started.

Pages that processes share count once: the largest process counts with all it has resident (RSS), each other one with
what is its own alone (USS). Adding up resident sizes would count a worker's copy of its parent twice; proportional
sizes (PSS), which are kept beside, leave out what is shared with programs that are not measured, this one among them.
"""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import msgspec
import psutil

_PERIOD_S = 0.2


class ProcessMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One process."""

    rss_bytes: int
    uss_bytes: int
    pss_bytes: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """All processes of a server at one moment."""

    processes: tuple[ProcessMemory, ...]

    @property
    def rss_bytes(self) -> int:
        """What is resident because of them, each shared page once."""
        first, *others = sorted(self.processes, key=lambda process: process.rss_bytes, reverse=True)
        return first.rss_bytes + sum(process.uss_bytes for process in others)


def process_tree(pid: int) -> list[psutil.Process]:
    """The process and those that descend from it.

    Raises:
        psutil.Error: it is gone.
    """
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def read_memory(pid: int) -> Memory:
    """Of a server, now.

    Raises:
        psutil.Error: it is gone.
    """
    processes = []
    for process in process_tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just ended
            info = process.memory_full_info()
            processes.append(ProcessMemory(rss_bytes=info.rss, uss_bytes=info.uss, pss_bytes=info.pss))
    if not processes:
        raise psutil.NoSuchProcess(pid)
    return Memory(processes=tuple(processes))


class MemoryPeak:
    """Looks at a server several times a second until its `with` block ends.

    Attributes:
        samples: what was seen, in order; at least one, unless the server was gone from the start.
    """

    def __init__(self, pid: int) -> None:
        self.samples: list[Memory] = []
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> MemoryPeak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def highest(self) -> Memory | None:
        """The sample with the most, None where the server was gone."""
        return max(self.samples, key=lambda memory: memory.rss_bytes, default=None)

    def _run(self) -> None:
        while True:
            try:
                self.samples.append(read_memory(self._pid))
            except psutil.Error:
                return
            if self._ended.wait(_PERIOD_S):
                return
