"""What users see: the function as it is served, with the embedded model. Cold start, engine steps, memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.children import ServerChild, free_port
from bench.client import Endpoint, stream_chat
from bench.closed_loop import run_closed_loop
from bench.errors import BenchError
from bench.gate.blame import SIDES, SideName, blaming
from bench.gate.installation import Installation
from bench.gate.metrics import COLD_START, PEAK_RSS, STEP_1, STEP_16, Metric
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.gate.turns import neighbours
from bench.workload import story_prompt
from handler.engine.snapshot import EMBEDDED_MODEL

_START_S = 600.0
_POLL_S = 0.01
_ANSWER_S = 120.0
_STEPS = {1: STEP_1, 16: STEP_16}


class _Server(msgspec.Struct, frozen=True):
    port: int
    pid: int
    cold_start_s: float

    def endpoint(self) -> Endpoint:
        extra = {"ignore_eos": True, "stream_options": {"include_usage": True}}
        return Endpoint(host="127.0.0.1", port=self.port, model=EMBEDDED_MODEL, extra=extra)

    def peak_rss_bytes(self) -> float:
        """The most that was resident at any moment (VmHWM, in KiB)."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
        raise BenchError("the kernel does not say how much memory a process had at most")


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    """One round: both are started in a drawn order, each with the machine to itself, and then decode in turn.

    Raises:
        SideError: a server did not start or did not answer.
    """
    with contextlib.ExitStack() as stack:
        started: dict[int, _Server] = {}
        for side in abba(1, rng):
            started[side] = stack.enter_context(_running(sides[side], SIDES[side]))
        servers = Pair(started[0], started[1])
        figures = {COLD_START: servers.each(lambda server: server.cold_start_s)}
        for batch, turns in plan.batches.items():
            steps_ms: Pair[list[float]] = Pair([], [])
            for name, server in zip(SIDES, servers, strict=True):
                with blaming(name):
                    _step_ms(server, plan, batch)
            for side in abba(turns, rng):
                with blaming(SIDES[side]):
                    steps_ms[side].append(_step_ms(servers[side], plan, batch))
            figures[_STEPS[batch]] = neighbours(steps_ms)
        figures[PEAK_RSS] = servers.each(_Server.peak_rss_bytes)
    return figures


def _step_ms(server: _Server, plan: Plan, batch: int) -> float:
    """The time from one token to the next where `batch` streams run together: a step, where nobody else runs.

    The median, because in a few steps prompts are computed as well.
    """
    prompts = [[story_prompt(plan.seed, number)] for number in range(batch)]
    streams = run_closed_loop(server.endpoint(), prompts, plan.batch_tokens, _ANSWER_S).streams
    return statistics.median(gap_s for stream in streams for gap_s in stream.gaps_s) * 1e3


@contextlib.contextmanager
def _running(side: Installation, name: SideName) -> Iterator[_Server]:
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
            "QUEUE_TIMEOUT": str(_ANSWER_S),  # on a slow machine the last of many waits for the prompts of the others
        }
        began_s = time.perf_counter()
        command = [*side.command("handler"), "serve"]
        with ServerChild(
            "the function", command, environ, port=port, ready_path="/ready", start_s=_START_S, poll_s=_POLL_S
        ) as child:
            server = _Server(port, child.pid, 0.0)
            first_token_s = asyncio.run(stream_chat(server.endpoint(), "Hello.", 2, _ANSWER_S)).token_times_s[0]
            yield msgspec.structs.replace(server, cold_start_s=first_token_s - began_s)
