"""What the function costs around a model: two servers with stub engines on one processor, the load on another."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from bench.children import ServerChild, free_port
from bench.cores import pinned
from bench.gate.blame import SIDES, blaming
from bench.gate.installation import Installation
from bench.gate.metrics import EVENTS, REQUEST_CPU, REQUESTS, Metric
from bench.gate.pair import Pair
from bench.gate.plan import Plan
from bench.gate.turns import neighbours, take_turns
from bench.http.plan import API_KEY, ServerSpec, chat_body
from bench.stub_model import STUB_MODEL

_START_S = 60.0
_STEP_S = 0.0  # a step begins when the events of the last one have been taken: the server is what is waited for
_ANSWERS = 2
_WARM_TURNS = 8


class _Server(msgspec.Struct, frozen=True):
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Of all its threads, as the kernel counts it in nanoseconds."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    """One round: both servers are started anew, and take turns with whole requests, and then with streams.

    Raises:
        SideError: a server did not start, or an answer was not what it should be.
    """
    with pinned(plan.load_core), _both(sides, plan) as servers:
        return _whole(servers, plan, rng) | _streams(servers, plan, rng)


def _whole(servers: Pair[_Server], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    request = _request(chat_body(STUB_MODEL, tokens=1, stream=False))
    seconds, cpu_s = _load(servers, request, plan.connections, _ANSWERS, plan.turns, rng)
    answered = plan.connections * _ANSWERS
    return {
        REQUESTS: neighbours(seconds).each(lambda turn_s: answered / turn_s),
        REQUEST_CPU: neighbours(cpu_s).each(lambda used_s: used_s / answered * 1e6),
    }


def _streams(servers: Pair[_Server], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    request = _request(chat_body(STUB_MODEL, tokens=plan.tokens, stream=True))
    seconds, _ = _load(servers, request, plan.streams, 1, plan.turns, rng)
    events = plan.streams * plan.tokens
    return {EVENTS: neighbours(seconds).each(lambda turn_s: events / turn_s)}


def _load(
    servers: Pair[_Server], request: bytes, connections: int, answers: int, turns: int, rng: random.Random
) -> tuple[Pair[list[float]], Pair[list[float]]]:
    """Seconds of the turns and processor time in them, after some turns that do not count."""
    ports = servers.each(lambda server: server.port)
    clocks = servers.each(lambda server: server.cpu_s)
    load = partial(take_turns, ports, request, connections=connections, answers=answers, rng=rng, cpu_s=clocks)
    load(turns=_WARM_TURNS)
    return load(turns=turns)


def _request(body: bytes) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {API_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextlib.contextmanager
def _both(sides: Pair[Installation], plan: Plan) -> Iterator[Pair[_Server]]:
    with contextlib.ExitStack() as stack:
        servers = []
        for name, side in zip(SIDES, sides, strict=True):
            with blaming(name):
                servers.append(stack.enter_context(running_stub(side, plan)))
        yield Pair(*servers)


@contextlib.contextmanager
def running_stub(side: Installation, plan: Plan) -> Iterator[_Server]:
    """The function with a stub engine.

    Raises:
        BenchError: it did not start.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
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
