"""The function as it is served, with the embedded model: both sides at once, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import msgspec

from bench.children import ServerChild, free_port
from bench.client import Endpoint, stream_chat
from bench.errors import BenchError
from bench.gate.blame import SIDES, SideName, blaming
from bench.gate.installation import Installation
from bench.gate.pair import Pair
from handler.engine.snapshot import EMBEDDED_MODEL

ANSWER_S = 120.0
"""How long an answer may take."""

_START_S = 600.0
_POLL_S = 0.01


class Function(msgspec.Struct, frozen=True):
    """One that runs.

    Attributes:
        port: where it listens, on the loopback.
        pid: of its process.
        cold_start_s: from exec to its first token over HTTP.
    """

    port: int
    pid: int
    cold_start_s: float

    @property
    def endpoint(self) -> Endpoint:
        """Where to ask it for answers of just so many tokens."""
        return _endpoint(self.port)

    def peak_rss_bytes(self) -> float:
        """The most that was resident at any moment (VmHWM, in KiB)."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
        raise BenchError("the kernel does not say how much memory a process had at most")


@contextlib.contextmanager
def both_running(sides: Pair[Installation], cores: Pair[int] | None = None) -> Iterator[Pair[Function]]:
    """Start both at the same moment, each on a processor of its own where `cores` names them; end both at once.

    Raises:
        SideError: one did not start, or did not answer.
    """
    stacks = Pair(contextlib.ExitStack(), contextlib.ExitStack())
    with ThreadPoolExecutor(2) as executor:
        starting = [
            executor.submit(_start, side, name, None if cores is None else cores[number], stacks[number])
            for number, (name, side) in enumerate(zip(SIDES, sides, strict=True))
        ]
        try:
            yield Pair(starting[0].result(), starting[1].result())
        finally:
            wait(starting)  # one that is still starting has nothing to be closed yet
            for ending in [executor.submit(stack.close) for stack in stacks]:
                ending.result()


def _start(side: Installation, name: SideName, core: int | None, stack: contextlib.ExitStack) -> Function:
    """In a thread of its own, which needs its processors for nothing else."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    return stack.enter_context(_running(side, name))


@contextlib.contextmanager
def _running(side: Installation, name: SideName) -> Iterator[Function]:
    port = free_port()
    with blaming(name), tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        environ = side.environment() | {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "MODEL_NAME": EMBEDDED_MODEL,
            "MODEL_DEVICE": "cpu",
            "DATABASE_URL": "none",
            "SPOOL_DIR": str(Path(directory) / "spool"),
            "SPECULATION_TOKENS": "0",  # a step is one token of each sequence
            "QUEUE_TIMEOUT": str(ANSWER_S),  # on a slow machine the last of many waits for the prompts of the others
        }
        began_s = time.perf_counter()
        command = [*side.command("handler"), "serve"]
        with ServerChild(
            "the function", command, environ, port=port, ready_path="/ready", start_s=_START_S, poll_s=_POLL_S
        ) as child:
            first = asyncio.run(stream_chat(_endpoint(port), "Hello.", 2, ANSWER_S))
            yield Function(port, child.pid, first.token_times_s[0] - began_s)


def _endpoint(port: int) -> Endpoint:
    extra = {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return Endpoint(host="127.0.0.1", port=port, model=EMBEDDED_MODEL, extra=extra)
