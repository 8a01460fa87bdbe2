"""One soak from start to end: database, function, load, outages, and what is left when all is quiet."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from bench.children import OWN_MODULE, ServerChild, free_port, own_environment
from bench.errors import BenchError
from bench.soak.asks import API_KEY, MAX_BODY_BYTES, Asks
from bench.soak.balance import Rest, Row
from bench.soak.client import Client, Fate, Sent
from bench.soak.outages import Outages
from bench.soak.proxy import DatabaseProxy
from bench.soak.samples import Sample, Sampler
from handler.requestlog.cluster import socket_directory
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.installation import find_installation

_START_S = 120.0
_ANSWER_S = 120.0
_REST_S = 120.0
_POLL_S = 0.5
_NO_ROOM = 429
_MOST_PER_CLIENT_S = 1000
_GAUGES = ("num_requests_running", "num_requests_waiting", "request_log_spooled_records")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak does.

    Attributes:
        seconds: of load.
        clients: that ask at the same time.
        seed: of what is asked, and when things go wrong.
        outage_pause_s: mean time between two outages of the database.
        sample_s: between two looks at the process.
        warm_up_requests: before the first look.
        batch: sequences that the function runs at once.
        queue: sequences that may wait beyond those.
        database_connections: of the function, at most.
        kv_cache_fraction: small, so that every block has been in use soon: memory that is touched for the first time
            looks like a leak.
    """

    seconds: float
    clients: int
    seed: int
    outage_pause_s: float
    sample_s: float
    warm_up_requests: int = 60
    batch: int = 8
    queue: int = 16
    database_connections: int = 4
    kv_cache_fraction: float = 0.02


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak has seen, raw."""

    sent: tuple[Sent, ...]
    rows: tuple[Row, ...]
    samples: tuple[Sample, ...]
    before: Sample
    after: Sample
    rest: Rest
    outages: dict[str, int]


async def run_soak(plan: Plan, home: Path, snapshot: Path) -> Outcome:
    """Run it, below the directory `home`, which other accounts may pass through.

    Raises:
        BenchError: the function did not start, or did not come to rest.
    """
    postgres = EmbeddedPostgres(home)
    direct_url = await asyncio.to_thread(postgres.start)
    try:
        installation = find_installation(home)
        proxy = DatabaseProxy(str(socket_directory(installation) / ".s.PGSQL.5432"), free_port())
        await proxy.open()
        outages = Outages(proxy, postgres, installation.data, f"{plan.seed}/outages", plan.outage_pause_s)
        try:
            return await _with_function(plan, home, snapshot, outages, proxy.port, direct_url)
        finally:
            await proxy.close()
    finally:
        await asyncio.to_thread(postgres.stop)


async def _with_function(
    plan: Plan, home: Path, snapshot: Path, outages: Outages, database_port: int, direct_url: str
) -> Outcome:
    port = free_port()
    environ = own_environment() | _settings(plan, home, snapshot, database_port)
    command = [*OWN_MODULE, "handler", "serve", "--host", "127.0.0.1", "--port", str(port)]
    child = ServerChild("pilotlight serve", command, environ, port=port, ready_path="/ready", start_s=_START_S)
    with child:
        load = _Load(plan, port, snapshot.name)
        sampler = Sampler(child.pid, plan.sample_s)
        await load.ask_in_turn(plan.warm_up_requests)
        await _rest(port)
        before = sampler.take()
        async with _beside(sampler.run(), outages.run()):
            await load.run()
        await outages.mend()
        metrics = await _rest(port)
        after = sampler.take()
        exit_code = await asyncio.to_thread(child.end)
    return Outcome(
        sent=tuple(load.sent),
        rows=tuple(await _rows(direct_url)),
        samples=tuple(sampler.samples),
        before=before,
        after=after,
        rest=Rest(metrics=metrics, exit_code=exit_code, database_connections=plan.database_connections - 1),
        outages=dict(outages.counts),
    )


def _settings(plan: Plan, home: Path, snapshot: Path, database_port: int) -> dict[str, str]:
    return {
        "MODEL_NAME": str(snapshot),
        "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{database_port}/postgres",
        "PILOTLIGHT_HOME": str(home),
        "SPOOL_DIR": str(home / "spool"),
        "API_KEYS": f"soak:{API_KEY}",
        "MAX_BATCH_SIZE": str(plan.batch),
        "MAX_QUEUED_REQUESTS": str(plan.queue),
        "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "DB_POOL_SIZE": str(plan.database_connections),
        "KV_CACHE_FRACTION": str(plan.kv_cache_fraction),
        "REQUEST_TIMEOUT": str(_ANSWER_S / 2),
    }


class _Load:
    """All clients, and what they have sent."""

    def __init__(self, plan: Plan, port: int, model: str) -> None:
        self.sent: list[Sent] = []
        self._plan = plan
        self._port = port
        self._model = model

    async def ask_in_turn(self, num_requests: int) -> None:
        """That many requests, one after the other, by one client."""
        await self._ask_until("warm-up", time.monotonic() + _START_S, num_requests)

    async def run(self) -> None:
        """All clients at once, for as long as the plan says."""
        end_s = time.monotonic() + self._plan.seconds
        most = int(self._plan.seconds * _MOST_PER_CLIENT_S)
        async with asyncio.TaskGroup() as group:
            for number in range(self._plan.clients):
                group.create_task(self._ask_until(f"{number}", end_s, most))

    async def _ask_until(self, name: str, end_s: float, most: int) -> None:
        seed = f"{self._plan.seed}/{name}"
        asks, client = Asks(self._model, seed), Client("127.0.0.1", self._port, seed, _ANSWER_S)
        pauses = random.Random(seed)  # noqa: S311  (a repeatable choice, not a secret)
        for number in range(most):
            if time.monotonic() >= end_s:
                break
            sent = await client.ask(asks.next(), f"soak-{name}-{number}")
            self.sent.append(sent)
            if sent.status == _NO_ROOM or sent.fate is Fate.BROKEN:
                await asyncio.sleep(pauses.uniform(0.05, 0.5))
        client.leave()


@contextlib.asynccontextmanager
async def _beside(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run what never ends by itself while the block runs.

    Raises:
        Exception: what one of them failed with.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def _rest(port: int) -> dict[str, float]:
    """The gauges, once nothing runs and PostgreSQL has every record.

    Raises:
        BenchError: that did not happen in time.
    """
    deadline_s = time.monotonic() + _REST_S
    while True:
        metrics = await asyncio.to_thread(_metrics, port)
        if metrics["http_requests_active"] == 1 and not any(metrics[name] for name in _GAUGES):
            return metrics
        if time.monotonic() > deadline_s:
            busy = {name: metrics[name] for name in (*_GAUGES, "http_requests_active")}
            raise BenchError(f"the function did not come to rest within {_REST_S:g} s: {busy}")
        await asyncio.sleep(_POLL_S)


def _metrics(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    try:
        connection.request("GET", "/metrics", headers={"authorization": f"Bearer {API_KEY}"})
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"/metrics did not answer: {error}") from error
    finally:
        connection.close()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {sample.name: sample.value for sample in samples if set(sample.labels) <= {"model_name"}}


async def _rows(url: str) -> list[Row]:
    connection = await asyncpg.connect(url)
    try:
        return [Row(*row) for row in await connection.fetch("select request_id, status from request_logs")]
    finally:
        await connection.close()
