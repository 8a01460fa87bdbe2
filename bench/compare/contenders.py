"""Who is measured: each stack with one part of the loads, on a server that is started for it in each round.

A stack has several parts, which stand side by side in the order that is drawn for a round, and whose results bear the
same name: what one of them shows does not depend on what another has left behind in a server.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from bench.arrivals import Closed, Poisson
from bench.baselines.plan import Stack
from bench.compare.closed import streams, whole_answers
from bench.compare.memory import Memory, MemoryPeak
from bench.compare.metrics import metrics_of
from bench.compare.open import streamed_chats
from bench.compare.plan import Part, Plan, StreamLoad
from bench.compare.points import Engine, LoadPoint, Workload
from bench.compare.progress import RunProgress
from bench.compare.raw import RawFiles
from bench.compare.server import RunningServer, running_server
from bench.errors import BenchError
from bench.log.postgres import Postgres
from bench.rounds import Measurement
from bench.stub_model import STUB_MODEL
from handler.engine.snapshot import Snapshot

_WORDS: dict[Part, str] = {
    "chats": "chats",
    "closed": "whole answers",
    "streams": "streams",
    "open": "open loops",
    "model": "embedded model",
}
_PLAIN: tuple[Workload, ...] = ("database", "json", "template")
"""The database comes first: memory is read when nothing but it has been used."""


class StackPart:
    """One part of the loads on one stack.

    Args:
        name: of the stack.
        part: of the loads.
        plan: what is asked of it.
        postgres: which all servers write their records to, one after the other.
        snapshot: the embedded model's; None where the part has no use for it.
        raw: where samples go.
        progress: what is told who is at work.
    """

    def __init__(
        self,
        name: Stack,
        part: Part,
        plan: Plan,
        postgres: Postgres,
        snapshot: Snapshot | None,
        raw: RawFiles,
        progress: RunProgress,
    ) -> None:
        self.name: Stack = name
        self._part = part
        self._plan = plan
        self._postgres = postgres
        self._snapshot = snapshot
        self._raw = raw
        self._progress = progress

    def measure(self, round_number: int) -> Measurement:
        """Start, load, end. A load that fails says so in its point; the others go on.

        Raises:
            BenchError: the server did not start, or ended.
        """
        plan = self._plan
        self._progress.begin(f"{self.name}, {_WORDS[self._part]}", plan.budget_s(self._part, round_number))
        self._postgres.empty()
        self._postgres.pin({plan.load_core})
        prefix = f"round{round_number + 1}-{self.name}"
        try:
            with self._server() as server:
                loads = _Loads(server, plan, self._raw, self._progress, prefix)
                match self._part:
                    case "chats":
                        return self._chats(server, loads)
                    case "closed":
                        return self._closed(server, loads)
                    case "streams":
                        loads.warm_up()
                        loads.streams()
                        return _measurement(metrics_of(loads.points, plan.busy_connections), loads, {})
                    case "open":
                        return self._streamed(loads, "stub", plan.open_loops, round_number)
                    case "model":
                        return self._streamed(loads, "model", plan.model_loops, round_number)
        except BenchError as error:
            raise BenchError(f"{_WORDS[self._part]}: {error}") from error

    def _server(self) -> AbstractContextManager[RunningServer]:
        plan = self._plan
        is_model = self._part == "model"
        snapshot = self._snapshot if is_model else None
        return running_server(
            self.name,
            "model" if is_model else "stub",
            core=plan.server_core,
            database=self._postgres.url,
            step_s=plan.steps_s[self._part],
            threads=plan.threads,
            snapshot=None if snapshot is None else str(snapshot.directory.absolute()),
            model=STUB_MODEL if snapshot is None else snapshot.name,
        )

    def _chats(self, server: RunningServer, loads: _Loads) -> Measurement:
        plan = self._plan
        loads.warm_up()
        loads.whole("chat", plan.busy_connections)
        with MemoryPeak(server.pid) as peak:
            loads.whole("chat", plan.crowd)
        memory = {} if peak.highest is None else {f"rss_bytes@{plan.crowd}": peak.highest}
        return _with_memory(metrics_of(loads.points, plan.busy_connections), loads, memory)

    def _closed(self, server: RunningServer, loads: _Loads) -> Measurement:
        plan = self._plan
        memory = {"rss_bytes": server.memory()}
        for workload in _PLAIN:
            loads.whole(workload, plan.busy_connections)
            memory.setdefault("rss_database_bytes", server.memory())
        loads.warm_up()
        for connections in plan.curve:
            loads.whole("chat", connections)
        return _with_memory(metrics_of(loads.points, plan.busy_connections), loads, memory)

    def _streamed(self, loads: _Loads, engine: Engine, sizes: StreamLoad, round_number: int) -> Measurement:
        if sizes.users is not None:
            loads.streamed(engine, Closed(users=sizes.users), sizes)
        for rate_per_s in sizes.rates_of(round_number):
            loads.streamed(engine, Poisson(rate_per_s=rate_per_s), sizes)
        return _measurement(metrics_of(loads.points, self._plan.busy_connections), loads, {})


class _Loads:
    """Puts loads on one server, one after the other, and keeps what they come to in `points`."""

    def __init__(self, server: RunningServer, plan: Plan, raw: RawFiles, progress: RunProgress, prefix: str) -> None:
        self.points: list[LoadPoint] = []
        self._server = server
        self._plan = plan
        self._raw = raw
        self._progress = progress
        self._prefix = prefix

    def warm_up(self) -> None:
        """Chats that do not count."""
        self._progress.load("warm-up")
        plan = msgspec.structs.replace(self._plan, seconds=self._plan.warm_up_seconds)
        whole_answers(self._server, "chat", plan.busy_connections, plan, RawFiles(None), "warm-up")

    def whole(self, workload: Workload, connections: int) -> None:
        """Whole answers."""
        nothing = _nothing("stub", workload, connections=connections)
        name = f"{self._prefix}-stub-{workload}@{connections}"
        self._put(
            nothing,
            lambda: whole_answers(self._server, workload, connections, self._plan, self._raw, name),
        )

    def streams(self) -> None:
        """Streams in a closed loop."""
        nothing = _nothing("stub", "stream", connections=self._plan.streams)
        self._put(nothing, lambda: streams(self._server, self._plan))

    def streamed(self, engine: Engine, arrivals: Closed | Poisson, sizes: StreamLoad) -> None:
        """Streams as `bench load` asks for them."""
        users = arrivals.users if isinstance(arrivals, Closed) else None
        rate_per_s = arrivals.rate_per_s if isinstance(arrivals, Poisson) else None
        nothing = _nothing(engine, "stream", connections=users, offered_per_s=rate_per_s)
        load = f"{rate_per_s:g}_per_s" if users is None else str(users)
        name = f"{self._prefix}-{engine}-stream@{load}"
        self._put(
            nothing,
            lambda: streamed_chats(self._server, engine, arrivals, sizes, self._plan, self._raw, name),
        )

    def _put(self, nothing: LoadPoint, load: Callable[[], LoadPoint]) -> None:
        """One load; one that fails on a server that lives leaves a point that says why."""
        self._progress.load(f"{nothing.workload} at {nothing.connections or nothing.offered_per_s}")
        try:
            self.points.append(load())
        except BenchError as error:
            self._server.check()
            self.points.append(msgspec.structs.replace(nothing, invalid=str(error)))


def _nothing(
    engine: Engine, workload: Workload, *, connections: int | None = None, offered_per_s: float | None = None
) -> LoadPoint:
    return LoadPoint(
        engine=engine,
        workload=workload,
        connections=connections,
        offered_per_s=offered_per_s,
        seconds=0.0,
        requests_per_s=0.0,
        latency_ms=(),
    )


def _with_memory(metrics: dict[str, float], loads: _Loads, memory: dict[str, Memory]) -> Measurement:
    sizes = {name: float(each.rss_bytes) for name, each in memory.items()}
    return _measurement(metrics | sizes, loads, {"memory": msgspec.to_builtins(memory)})


def _measurement(metrics: dict[str, float], loads: _Loads, details: dict[str, Any]) -> Measurement:
    return Measurement(metrics=metrics, details={"points": msgspec.to_builtins(loads.points), **details})
