"""Who is measured: servers that log more or less, and processes that do nothing but log."""

from __future__ import annotations

import contextlib
import http.client
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import psutil

from bench.children import OWN_MODULE, ServerChild, free_port, own_environment, run_script
from bench.comparison import Comparison
from bench.errors import BenchError
from bench.http.plan import API_KEY, NO_LOG, ServerSpec, chat_body
from bench.http.wrk import run_wrk
from bench.log.plan import Plan, Shipped, ShippingSpec
from bench.log.postgres import Postgres, postgres_cpu_s
from bench.rounds import Contender, Measurement
from bench.stub_model import STUB_MODEL

SERVERS = ("no-log", "spool", "postgres")
SHIPPERS = ("flow", "backlog")

_START_S = 60.0
_STEP_S = 0.001
_WARM_UP_S = 2
_DRAIN_S = 60.0
_STEP_OF_DRAIN_S = 0.6
_SHIPPING_S = 300.0
_SPOOLED = b"request_log_spooled_records "

COMPARISONS = tuple(
    Comparison(f"{words}, {name} to no log", (name, metric), ("no-log", metric))
    for name in ("spool", "postgres")
    for words, metric in (
        ("requests per second", "requests_per_s"),
        ("processor time of the event loop", "loop_cpu_us"),
        ("processor time of the server", "cpu_us"),
    )
)


class LoggingServer:
    """One server, which runs through all rounds and is idle while others are measured."""

    def __init__(self, name: str, plan: Plan, child: ServerChild, port: int, postgres: Postgres) -> None:
        self.name = name
        self._plan = plan
        self._port = port
        self._child = child
        self._postgres = postgres
        self._body = chat_body(STUB_MODEL, tokens=1, stream=False)

    def measure(self, round_number: int) -> Measurement:
        """Load it, and wait until it has shipped what that gave.

        Raises:
            BenchError: an answer was not what it should be, or records were not written.
        """
        plan = self._plan
        if round_number == 0:
            run_wrk(self._port, self._body, plan.connections, _WARM_UP_S, plan.load_core)
            self._cpu_when_shipped()
        self._postgres.empty()
        self._postgres.pin({plan.load_core})
        before = self._cpu_seconds()
        answered = run_wrk(self._port, self._body, plan.connections, plan.seconds, plan.load_core)
        after = self._cpu_when_shipped()
        if self.name == "postgres":
            rows = self._postgres.count_rows()
            # Those that wrk gave up at its end have rows too.
            if not answered.num_requests <= rows <= answered.num_requests + plan.connections:
                raise BenchError(f"{rows} rows for {answered.num_requests} answers")
        used_us = {name: (after[name] - before[name]) / answered.num_requests * 1e6 for name in before}
        return Measurement(
            metrics={"requests_per_s": answered.requests_per_s, "p99_ms": answered.p99_ms, **used_us},
            details=msgspec.to_builtins(answered),
        )

    def _cpu_seconds(self) -> dict[str, float]:
        """Used so far, under the names of what will be microseconds for a request."""
        process = psutil.Process(self._child.pid)
        return {
            "cpu_us": sum(process.cpu_times()[:2]),
            "loop_cpu_us": _main_thread_cpu_s(self._child.pid),
            "postgres_cpu_us": postgres_cpu_s(self._postgres.postmaster),
        }

    def _cpu_when_shipped(self) -> dict[str, float]:
        """What had been used when nothing was left to ship.

        Whether that is so is asked seldom, and after reading: the answer takes the server some milliseconds.
        """
        deadline_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline_s:
            time.sleep(_STEP_OF_DRAIN_S)
            used = self._cpu_seconds()
            if self.name != "postgres" or self._spooled_records() == 0:
                return used
        raise BenchError(f"{self.name} has not shipped its records within {_DRAIN_S:g} s")

    def _spooled_records(self) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10.0)
        try:
            connection.request("GET", "/metrics", headers={"authorization": f"Bearer {API_KEY}"})
            lines = connection.getresponse().read().splitlines()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.name}: {error}") from error
        finally:
            connection.close()
        return next(float(line.removeprefix(_SPOOLED)) for line in lines if line.startswith(_SPOOLED))


class Shipper:
    """A process that does nothing but log, on the two processors that PostgreSQL has as well."""

    def __init__(self, name: str, plan: Plan, postgres: Postgres) -> None:
        self.name = name
        self._plan = plan
        self._postgres = postgres

    def measure(self, round_number: int) -> Measurement:
        """Start it, and count the rows when it has ended.

        Raises:
            BenchError: it failed, or there are more or fewer rows than there were records.
        """
        del round_number
        plan = self._plan
        cores = (plan.server_core, plan.load_core)
        self._postgres.empty()
        self._postgres.pin(cores)
        with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
            spec = ShippingSpec(
                database=self._postgres.url,
                postmaster=self._postgres.postmaster,
                directory=directory,
                cores=cores,
                records=plan.records,
                rate_per_s=plan.rate_per_s if self.name == "flow" else None,
            )
            command = [*OWN_MODULE, "bench.log.shipping"]
            answer = run_script(self.name, command, spec, own_environment(), _SHIPPING_S)
        shipped = msgspec.convert(answer, Shipped)
        rows = self._postgres.count_rows()
        if rows != plan.records:
            raise BenchError(f"{rows} rows of {plan.records} records")
        return Measurement(
            metrics={
                "rows_per_s": shipped.rows / shipped.seconds,
                "cpu_us": shipped.cpu_s / shipped.rows * 1e6,
                "postgres_cpu_us": shipped.postgres_cpu_s / shipped.rows * 1e6,
                "most_spooled_records": float(shipped.most_spooled),
            },
            details=answer,
        )


@contextlib.contextmanager
def running_contenders(names: Sequence[str], plan: Plan, postgres: Postgres) -> Iterator[list[Contender]]:
    """All of them, with their servers started."""
    postgres.empty()  # so that the schema is there before the first server asks for it
    databases = {"no-log": NO_LOG, "spool": "none", "postgres": postgres.url}
    with contextlib.ExitStack() as stack:
        contenders: list[Contender] = [Shipper(name, plan, postgres) for name in names if name in SHIPPERS]
        for name in (name for name in names if name in SERVERS):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pilotlight-bench-"))
            port = free_port()
            spec = ServerSpec(
                kind="pilotlight",
                port=port,
                core=plan.server_core,
                snapshot=None,
                database=databases[name],
                directory=str(Path(directory)),
                step_s=_STEP_S,
            )
            command = [*OWN_MODULE, "bench.http.serving", msgspec.json.encode(spec).decode()]
            starting = ServerChild(name, command, own_environment(), port=port, ready_path="/ready", start_s=_START_S)
            contenders.append(LoggingServer(name, plan, stack.enter_context(starting), port, postgres))
        yield contenders


def _main_thread_cpu_s(pid: int) -> float:
    """Of the thread that runs the event loop; the kernel counts it in nanoseconds."""
    nanoseconds = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii").partition(" ")[0]
    return int(nanoseconds) / 1e9
