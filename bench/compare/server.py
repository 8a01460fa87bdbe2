"""One server of the comparison while it runs: how it is started, what it uses, and when it has come to rest."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
import psutil

from bench.baselines.plan import Stack, StackSpec
from bench.children import OWN_MODULE, ServerChild, free_port, own_environment
from bench.compare.memory import Memory, process_tree, read_memory
from bench.compare.points import Engine
from bench.errors import BenchError

_START_S = 120.0
_LOOK_S = 0.1
_IDLE_SHARE = 0.1
_REST_S = 10.0

Seen = TypeVar("Seen")


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time up to a moment.

    Attributes:
        cpu_s: that the server has used, all its processes.
        busy_s: that its processor has worked for programs, or for others than this machine.
        at_s: on the monotonic clock.
    """

    cpu_s: float
    busy_s: float
    at_s: float

    def others_share_since(self, before: Usage) -> float:
        """Of the processor, that somebody else had meanwhile. Ticks are coarse: it may be a bit below 0."""
        busy_s, cpu_s = self.busy_s - before.busy_s, self.cpu_s - before.cpu_s
        return (busy_s - cpu_s) / (self.at_s - before.at_s)


class RunningServer:
    """A server that was ready.

    Attributes:
        port: where it listens, on the loopback.
        pid: of its first process.
        model: its name in requests.
    """

    def __init__(self, name: str, child: ServerChild, port: int, core: int, model: str) -> None:
        self.port = port
        self._core = core
        self.pid = child.pid
        self.model = model
        self._name = name
        self._child = child

    def usage(self) -> Usage:
        """Up to now.

        Raises:
            BenchError: it has ended.
        """
        core = psutil.cpu_times(percpu=True)[self._core]
        busy_s = core.user + core.nice + core.system + core.steal
        return Usage(cpu_s=self.cpu_s(), busy_s=busy_s, at_s=time.monotonic())

    def cpu_s(self) -> float:
        """Processor time of all its processes so far.

        Raises:
            BenchError: it has ended.
        """
        total_s = 0.0
        for process in self._alive(process_tree):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total_s += times.user + times.system
        return total_s

    def memory(self) -> Memory:
        """Of all its processes, now.

        Raises:
            BenchError: it has ended.
        """
        return self._alive(read_memory)

    def rest(self) -> None:
        """Wait until it does next to nothing: what a load has left behind, it would do during the next one.

        A server that is busy for long is not waited for: then that is what it is like.

        Raises:
            BenchError: it has ended.
        """
        deadline_s = time.monotonic() + _REST_S
        used_s = self.cpu_s()
        while time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)
            before_s, used_s = used_s, self.cpu_s()
            if used_s - before_s < _IDLE_SHARE * _LOOK_S:
                return

    def check(self) -> None:
        """Refuse to go on with a server that has ended.

        Raises:
            BenchError: with the end of its log.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE:
                return
        raise self._ended()

    def _alive(self, look: Callable[[int], Seen]) -> Seen:
        """What is seen of a server that has not ended."""
        self.check()
        try:
            return look(self.pid)
        except psutil.Error as error:
            raise self._ended() from error

    def _ended(self) -> BenchError:
        return BenchError(f"{self._name} ended:\n{self._child.log[-2000:]}")


@contextlib.contextmanager
def running_server(
    stack: Stack,
    engine: Engine,
    *,
    core: int,
    database: str,
    step_s: float,
    threads: int,
    snapshot: str | None,
    model: str,
) -> Iterator[RunningServer]:
    """Start one, and end it.

    Raises:
        BenchError: it did not start.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        spec = StackSpec(
            stack=stack,
            port=port,
            core=core,
            engine=engine,
            snapshot=snapshot,
            database=database,
            directory=directory,
            step_s=step_s,
            threads=threads,
        )
        command = [*OWN_MODULE, "bench.baselines.serving", msgspec.json.encode(spec).decode()]
        environ = own_environment()
        with ServerChild(stack, command, environ, port=port, ready_path="/ready", start_s=_START_S) as child:
            yield RunningServer(stack, child, port, core, model)
