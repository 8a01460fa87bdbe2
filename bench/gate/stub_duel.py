"""What the function costs around a model: two servers with stub engines on one processor, the load on another."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.children import ServerChild, free_port
from bench.gate.blame import SIDES, SideName, blaming
from bench.gate.installation import Installation
from bench.gate.metrics import EVENTS, REQUEST_CPU, REQUESTS, Metric
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.http.plan import ServerSpec, chat_body
from bench.http.streams import read_streams
from bench.http.wrk import run_wrk
from bench.stub_model import STUB_MODEL

_START_S = 60.0
_STEP_S = 0.0  # a step begins when the events of the last one have been taken: the server is what is waited for
_TURNS = 2
_WARM_UP_S = 0.4


class _Server(msgspec.Struct, frozen=True):
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Of all its threads, as the kernel counts it in nanoseconds."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    """One round: both servers are started anew, and loaded in turn with whole requests, and then with streams.

    Raises:
        SideError: a server did not start, or an answer was not what it should be.
    """
    with _pinned(plan.load_core), _both(sides, plan) as servers:
        return _whole(servers, plan, rng) | _streams(servers, plan, rng)


def _whole(servers: Pair[_Server], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    # A stream of one token is a request too: enough of them have the interpreter's fast paths in place.
    _warm(servers, chat_body(STUB_MODEL, tokens=1, stream=True), plan)
    body = chat_body(STUB_MODEL, tokens=1, stream=False)
    answered, seconds, cpu_s = [0, 0], [0.0, 0.0], [0.0, 0.0]
    for side in abba(_TURNS, rng):
        before_s = servers[side].cpu_s()
        with blaming(SIDES[side]):
            sample = run_wrk(servers[side].port, body, plan.connections, plan.seconds, plan.load_core)
        cpu_s[side] += servers[side].cpu_s() - before_s
        answered[side] += sample.num_requests
        seconds[side] += sample.duration_s
    return {
        REQUESTS: Pair(answered[0] / seconds[0], answered[1] / seconds[1]),
        REQUEST_CPU: Pair(cpu_s[0] / answered[0] * 1e6, cpu_s[1] / answered[1] * 1e6),
    }


def _streams(servers: Pair[_Server], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    body = chat_body(STUB_MODEL, tokens=plan.tokens, stream=True)
    _warm(servers, body, plan)
    events, seconds = [0, 0], [0.0, 0.0]
    for side in abba(_TURNS, rng):
        with blaming(SIDES[side]):
            sample = read_streams(servers[side].port, body, plan.streams, plan.stream_s)
        events[side] += sample.num_events
        seconds[side] += sample.duration_s
    return {EVENTS: Pair(events[0] / seconds[0], events[1] / seconds[1])}


def _warm(servers: Pair[_Server], body: bytes, plan: Plan) -> None:
    for name, server in zip(SIDES, servers, strict=True):
        with blaming(name):
            read_streams(server.port, body, plan.streams, _WARM_UP_S)


@contextlib.contextmanager
def _both(sides: Pair[Installation], plan: Plan) -> Iterator[Pair[_Server]]:
    with _running(sides.base, "base", plan) as base, _running(sides.head, "head", plan) as head:
        yield Pair(base, head)


@contextlib.contextmanager
def _running(side: Installation, name: SideName, plan: Plan) -> Iterator[_Server]:
    port = free_port()
    with blaming(name), tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        spec = ServerSpec(
            kind="pilotlight",
            port=port,
            core=plan.server_core,
            snapshot=None,
            database="none",
            directory=directory,
            step_s=_STEP_S,
        )
        command = [*side.command("bench.http.serving"), msgspec.json.encode(spec).decode()]
        environ = side.environment()
        with ServerChild("a stub", command, environ, port=port, ready_path="/ready", start_s=_START_S) as child:
            yield _Server(port, child.pid)


@contextlib.contextmanager
def _pinned(core: int) -> Iterator[None]:
    """The reader of streams runs in this process; whatever is started later must have its own processors again."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
