"""Who is measured: a server with what it serves, and the load that it gets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from bench.children import OWN_MODULE, ServerChild, free_port, own_environment
from bench.comparison import Comparison
from bench.http.plan import Kind, Plan, ServerSpec, chat_body
from bench.http.streams import read_streams
from bench.http.wrk import run_wrk
from bench.rounds import Measurement
from bench.stub_model import STUB_MODEL

_START_S = 60.0
_STEP_S = 0.001
_HURRIED_STEP_S = 0.0001
_WARM_UP_S = 1

Database = Callable[[], AbstractContextManager[str]]


class Candidate(msgspec.Struct, frozen=True):
    """What sets a contender apart.

    Attributes:
        kind: the server.
        load: whole answers of one token, or streams.
        step_s: of the engine; 0 begins a step when the events of the last one have been taken.
        tokenizes: with the tokenizer and template of the prepared model, instead of stubs.
        has_database: records go from the spool to PostgreSQL.
    """

    kind: Kind
    load: Literal["whole", "streams"]
    step_s: float = _STEP_S
    tokenizes: bool = False
    has_database: bool = False


CANDIDATES: dict[str, Candidate] = {
    "bare": Candidate("bare", "whole"),
    "bare-gathered": Candidate("bare-gathered", "whole"),
    "pilotlight": Candidate("pilotlight", "whole"),
    "pilotlight-tokenizing": Candidate("pilotlight", "whole", tokenizes=True),
    "pilotlight-postgres": Candidate("pilotlight", "whole", has_database=True),
    "pilotlight-streams": Candidate("pilotlight", "streams", step_s=0.0),
    "fastapi-streams": Candidate("fastapi", "streams", step_s=0.0),
    "pilotlight-hurried": Candidate("pilotlight", "streams", step_s=_HURRIED_STEP_S),
    "fastapi-hurried": Candidate("fastapi", "streams", step_s=_HURRIED_STEP_S),
    "fastapi-generator": Candidate("fastapi-generator", "streams"),
}

COMPARISONS = (
    *(
        Comparison(f"{name}, to a bare response", (name, "requests_per_s"), ("bare", "requests_per_s"))
        for name in ("pilotlight", "pilotlight-tokenizing", "pilotlight-postgres")
    ),
    Comparison(
        "pilotlight, to a bare response by our protocol",
        ("pilotlight", "requests_per_s"),
        ("bare-gathered", "requests_per_s"),
    ),
    Comparison("CPU of a bare response, to pilotlight's", ("bare", "cpu_us"), ("pilotlight", "cpu_us")),
    *(
        Comparison(f"{ours}, to {theirs}", (ours, "events_per_s"), (theirs, "events_per_s"))
        for ours, theirs in (
            ("pilotlight-streams", "fastapi-streams"),
            ("pilotlight-hurried", "fastapi-hurried"),
            ("pilotlight-hurried", "fastapi-generator"),
        )
    ),
)


class HttpServer:
    """One candidate, started for each round."""

    def __init__(self, name: str, plan: Plan, snapshot: Path, database: Database) -> None:
        self.name = name
        self._candidate = CANDIDATES[name]
        self._plan = plan
        self._snapshot = snapshot
        self._database = database if self._candidate.has_database else _no_database

    def measure(self, round_number: int) -> Measurement:
        """Start, load, end.

        Raises:
            BenchError: it did not start, or an answer was not what it should be.
        """
        del round_number
        candidate, port = self._candidate, free_port()
        with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory, self._database() as database:
            spec = ServerSpec(
                kind=candidate.kind,
                port=port,
                core=self._plan.server_core,
                snapshot=str(self._snapshot) if candidate.tokenizes else None,
                database=database,
                directory=directory,
                step_s=candidate.step_s,
            )
            command = [*OWN_MODULE, "bench.http.serving", msgspec.json.encode(spec).decode()]
            with ServerChild(
                self.name, command, own_environment(), port=port, ready_path="/ready", start_s=_START_S
            ) as child:
                self._load(port, _WARM_UP_S)
                process = psutil.Process(child.pid)
                before_s = sum(process.cpu_times()[:2])
                count, metrics, details = self._load(port, self._plan.seconds)
                cpu_s = sum(process.cpu_times()[:2]) - before_s
                metrics |= {"cpu_us": cpu_s / count * 1e6, "rss_bytes": process.memory_info().rss}
        return Measurement(metrics=metrics, details=details | {"server_cpu_s": round(cpu_s, 3)})

    def _load(self, port: int, seconds: int) -> tuple[int, dict[str, float], dict[str, Any]]:
        """How many requests or events there were, the figures, and the facts behind them."""
        plan, is_stream = self._plan, self._candidate.load == "streams"
        body = chat_body(self._model, tokens=plan.tokens if is_stream else 1, stream=is_stream)
        if is_stream:
            streams = read_streams(port, body, plan.streams, seconds)
            return streams.num_events, {"events_per_s": streams.events_per_s}, msgspec.to_builtins(streams)
        answered = run_wrk(port, body, plan.connections, seconds, plan.load_core)
        metrics = {"requests_per_s": answered.requests_per_s, "p99_ms": answered.p99_ms}
        return answered.num_requests, metrics, msgspec.to_builtins(answered)

    @property
    def _model(self) -> str:
        return self._snapshot.name if self._candidate.tokenizes else STUB_MODEL


def _no_database() -> AbstractContextManager[str]:
    return nullcontext("none")
