"""One soak from start to end: database, function, load, outages, and what is left when all is quiet."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from bench.children import OWN_MODULE, ServerChild, free_port, own_environment
from bench.errors import BenchError
from bench.soak.asks import API_KEY, MAX_BODY_BYTES
from bench.soak.balance import Rest, Row
from bench.soak.client import Sent
from bench.soak.load import ANSWER_S, Load
from bench.soak.outages import Outages
from bench.soak.plan import Plan
from bench.soak.proxy import DatabaseProxy
from bench.soak.samples import Sample, Sampler
from handler.requestlog.cluster import socket_directory
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.installation import find_installation

_START_S = 120.0
_REST_S = 120.0
_POLL_S = 0.5
_GAUGES = ("num_requests_running", "num_requests_waiting", "request_log_spooled_records")


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
        load = Load(plan, port, snapshot.name)
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
        "REQUEST_TIMEOUT": str(ANSWER_S / 2),
    }


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
